"""What the embedder and its child process agree on: frames on the pipes, names of the files that were made."""

from __future__ import annotations

import struct
from pathlib import Path

import orjson

__all__ = ["GRAPH", "LENGTH", "ORIGIN", "VECTORS", "VOCABULARY", "converted", "origin"]

GRAPH = "encoder.onnx"
"""The encoder, as any ONNX runtime reads it."""
VOCABULARY = "vocabulary.json"
"""The pieces text is cut into."""
ORIGIN = "origin.json"
"""What the other two were made from."""
LENGTH = struct.Struct("<I")
"""Before each frame: how many bytes follow."""
VECTORS = struct.Struct("<II")
"""At the head of an answer: rows and tokens read; no rows mean that the rest is the reason, as text."""

_FORMAT = 2


def origin(sha256: str) -> dict[str, str | int]:
    """Describe what files made by this version from the weights of that hash are made from."""
    return {"sha256": sha256, "format": _FORMAT}


def converted(folder: Path, sha256: str) -> bool:
    """Tell whether `folder` holds what this version makes from the weights of that hash."""
    try:
        return bool(orjson.loads((folder / ORIGIN).read_bytes()) == origin(sha256))
    except (FileNotFoundError, orjson.JSONDecodeError):
        return False
