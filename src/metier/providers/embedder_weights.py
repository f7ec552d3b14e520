"""Reads the weight file of multilingual-e5-small: sizes, vocabulary and tensors, the large ones in blocks of 4 bits."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metier.errors import Invalid

__all__ = ["BLOCK", "Blocks", "EncoderWeights", "read"]

BLOCK = 32
"""Weights that share one scale."""

_MAGIC = b"E5S1"
_BLOCK_TYPE = np.dtype([("scale", "<f2"), ("nibbles", "u1", (BLOCK // 2,))])


@dataclass(frozen=True, slots=True)
class Blocks:
    """A matrix of 4-bit integers with one scale for each block of a row."""

    values: NDArray[np.uint8]
    """0 to 15, where 8 stands for zero; one row per output."""
    scales: NDArray[np.float32]
    """One row per output, one column per block."""

    def pairs(self) -> NDArray[np.uint8]:
        """Pack two neighbours into a byte, the first in the low half."""
        return (self.values[:, 0::2] | (self.values[:, 1::2] << 4)).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class EncoderWeights:
    """Everything the file says of the encoder; tensors are read when asked for."""

    width: int
    layers: int
    heads: int
    inner: int
    """Width of the feed-forward part."""
    positions: int
    """Longest input, in tokens."""
    epsilon: float
    begin: int
    end: int
    pad: int
    unknown: int
    pieces: tuple[tuple[str, float], ...] = field(repr=False)
    """The vocabulary with the log-probability of each piece."""
    data: memoryview = field(repr=False)
    directory: dict[str, tuple[int, int]] = field(repr=False)
    """Where each tensor starts and how many bytes it has."""

    def floats(self, name: str) -> NDArray[np.float32]:
        """Read a tensor kept in full precision, flat."""
        start, size = self.directory[name]
        return np.frombuffer(self.data, "<f4", size // 4, start).astype(np.float32)

    def blocks(self, name: str, inputs: int) -> Blocks:
        """Read a matrix of so many inputs kept in blocks of 4 bits."""
        start, size = self.directory[name]
        raw = np.frombuffer(self.data, _BLOCK_TYPE, size // _BLOCK_TYPE.itemsize, start)
        halves = raw["nibbles"] & 15, raw["nibbles"] >> 4
        values = np.concatenate(halves, axis=1).reshape(-1, inputs)
        return Blocks(values, raw["scale"].astype(np.float32).reshape(-1, inputs // BLOCK))


class _Cursor:
    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, len(_MAGIC)

    def take(self, layout: str) -> tuple[int, ...]:
        values = struct.unpack_from(f"<{layout}", self.data, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return values

    def array(self, kind: str, count: int) -> NDArray[np.float64]:
        values = np.frombuffer(self.data, kind, count, self.at)
        self.at += values.nbytes
        return values.astype(np.float64)

    def skip(self, size: int) -> memoryview:
        self.at += size
        return self.data[self.at - size : self.at]


def read(path: Path) -> EncoderWeights:
    """Read the head of a weight file, or say that it is none."""
    data = memoryview(np.asarray(np.memmap(path, np.uint8, "r")).data)
    if bytes(data[: len(_MAGIC)]) != _MAGIC:
        raise Invalid(f"reading the embedding weights {str(path)!r} failed: it does not start with {_MAGIC!r}")
    at = _Cursor(data)
    _, width, layers, heads, inner, _, positions, _ = at.take("I7i")
    (epsilon,) = at.take("f")
    _, count, begin, end, pad, unknown, text_size = at.take("6iQ")
    offsets = at.array("<u4", count + 1).astype(np.int64)
    scores = at.array("<f4", count)
    text = bytes(at.skip(text_size))
    words = [text[a:b].decode("utf-8", "replace") for a, b in pairwise(offsets)]
    charmap_size = at.take("iI")[1]
    at.skip(charmap_size)
    directory = {}
    for _ in range(at.take("i")[0]):
        name = bytes(at.skip(at.take("H")[0])).decode()
        _, _, start, size = at.take("BIQQ")
        directory[name] = (start, size)
    return EncoderWeights(
        width, layers, heads, inner, positions, epsilon, begin, end, pad, unknown,
        tuple(zip(words, scores.tolist(), strict=True)), data, directory,
    )  # fmt: skip
