"""Names the detectors of personal data as they are: any change of their rules or words makes another name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable

__all__ = ["revision"]

_SUFFIXES = (".py", ".txt")


def revision(package: Traversable | None = None) -> str:
    """Digest the rules and word lists of the detectors; what was kept under another revision is not given again."""
    digest = hashlib.blake2b(digest_size=10)
    for name, data in sorted(_files(package or resources.files("metier.guardrails.pii"))):
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def _files(folder: Traversable, above: str = "") -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry, f"{above}{entry.name}/")
        elif entry.name.endswith(_SUFFIXES):
            # Line ends may be those of the machine it was installed on.
            yield above + entry.name, entry.read_bytes().replace(b"\r\n", b"\n")
