"""The child process that embeds texts: frames of bytes in and out over pipes, so that its crash is only its own."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import orjson
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from metier.providers.embedder_frames import GRAPH, LENGTH, VECTORS, VOCABULARY, converted
from metier.providers.embedder_tokens import Vocabulary

__all__ = ["main"]

_BATCH_TOKENS = 1024


def main(arguments: list[str]) -> None:
    """Convert the weights if need be, then answer frames until the pipe closes or nothing has come for long."""
    source, sha256, folder, threads, idle_s = arguments
    requests, answers = os.dup(0), os.dup(1)
    # Whatever a native library prints must not land between two frames.
    os.dup2(2, 1)
    _prepare(source, sha256, Path(folder))
    session, vocabulary = _load(Path(folder), int(threads))
    while (request := _read(requests, float(idle_s))) is not None:
        try:
            answer = _embed(session, vocabulary, orjson.loads(request))
        except (ValueError, RuntimeError, TypeError) as error:
            answer = VECTORS.pack(0, 0) + str(error).encode()
        _write(answers, LENGTH.pack(len(answer)) + answer)


def _prepare(source: str, sha256: str, folder: Path) -> None:
    if converted(folder, sha256):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{source}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not converted(folder, sha256):
            # In a process of its own: what conversion needs in memory is not kept for serving.
            module = "metier.providers.embedder_convert"
            subprocess.run([sys.executable, "-P", "-m", module, source, sha256, str(folder)], check=True)


def _load(folder: Path, threads: int) -> tuple[InferenceSession, Vocabulary]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that spin while waiting take the cores from the gateway beside us.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = InferenceSession(str(folder / GRAPH), options, providers=["CPUExecutionProvider"])
    return session, Vocabulary(folder / VOCABULARY)


def _embed(session: InferenceSession, vocabulary: Vocabulary, texts: list[str]) -> bytes:
    encoded = [vocabulary.ids(text) for text in texts]
    vectors: NDArray[np.float32] | None = None
    for rows in _batches([len(e) for e in encoded]):
        found = _run(session, [encoded[row] for row in rows])
        if vectors is None:
            vectors = np.zeros((len(texts), found.shape[1]), np.float32)
        vectors[rows] = found
    if vectors is None:
        raise ValueError("no text came to embed")
    return VECTORS.pack(len(texts), sum(len(e) for e in encoded)) + vectors.tobytes()


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda r: lengths[r]):
        if batch and (len(batch) + 1) * lengths[row] > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _run(session: InferenceSession, batch: list[list[int]]) -> NDArray[np.float32]:
    longest = max(len(e) for e in batch)
    ids = np.ones((len(batch), longest), np.int64)
    mask = np.zeros((len(batch), longest), np.float32)
    for row, e in enumerate(batch):
        ids[row, : len(e)] = e
        mask[row, : len(e)] = 1
    (vectors,) = session.run(None, {"ids": ids, "mask": mask})
    return np.asarray(vectors, np.float32)


def _read(pipe: int, idle_s: float) -> bytes | None:
    if not select.select([pipe], [], [], idle_s)[0]:
        return None
    head = _exactly(pipe, LENGTH.size)
    return None if head is None else _exactly(pipe, LENGTH.unpack(head)[0])


def _exactly(pipe: int, size: int) -> bytes | None:
    read = bytearray()
    while len(read) < size:
        piece = os.read(pipe, size - len(read))
        if not piece:
            return None
        read += piece
    return bytes(read)


def _write(pipe: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(pipe, left) :]


if __name__ == "__main__":
    main(sys.argv[1:])
