"""One kept answer: collected while it streams, packed to be sealed, and given again piece by piece."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

import orjson

from metier.calls import Chunk, Reasoning, ReasoningDelta, Usage

__all__ = ["Collecting", "KeptAnswer"]

_LONGEST = 1 << 20
_SURROGATE = re.compile("[\ud800-\udfff]")
_PIECES = 6
_SHORTEST_PIECE = 120


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer as the model gave it, with placeholders, and what it cost then."""

    question: str
    """The masked question it answers, where meaning may be compared."""
    text: str
    usage: Usage
    reasoning: tuple[Reasoning, ...]
    made_at: float
    """Seconds since 1970."""
    cost_eur: Decimal
    energy_kwh: float | None
    """The middle of the estimate; None when there was none."""

    def packed(self) -> bytes:
        """Write it as bytes."""
        return orjson.dumps({**asdict(self), "cost_eur": str(self.cost_eur)})

    @classmethod
    def unpacked(cls, data: bytes) -> KeptAnswer:
        """Read what `packed` wrote."""
        raw: dict[str, Any] = orjson.loads(data)
        raw["cost_eur"] = Decimal(raw["cost_eur"])
        raw["usage"] = Usage(**raw["usage"])
        raw["reasoning"] = tuple(Reasoning(**one) for one in raw["reasoning"])
        return cls(**raw)

    def chunks(self) -> Iterator[Chunk]:
        """Give the answer again as a stream of a few pieces."""
        for index, one in enumerate(self.reasoning):
            yield Chunk(reasoning=(ReasoningDelta(index, one.text, one.signature, one.sealed),))
        size = max(_SHORTEST_PIECE, -(-len(self.text) // _PIECES))
        for start in range(0, len(self.text), size):
            yield Chunk(text=self.text[start : start + size])
        yield Chunk(finish="stop")


class Collecting:
    """Takes an answer down while it passes; what is not a plain whole answer is not kept."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._size = 0
        self._thoughts: dict[int, Reasoning] = {}
        self._fit = True
        self._ended = False

    def add(self, chunk: Chunk) -> None:
        """Take the next piece."""
        if chunk.text and self._fit:
            self._texts.append(chunk.text)
            self._size += len(chunk.text)
        for piece in chunk.reasoning:
            before = self._thoughts.get(piece.index, Reasoning())
            self._thoughts[piece.index] = Reasoning(
                before.text + piece.text, before.signature + piece.signature, before.sealed or piece.sealed
            )
            self._size += len(piece.text)
        if chunk.finish is not None:
            self._ended = chunk.finish == "stop"
        if chunk.tool_calls or chunk.media or chunk.vectors or chunk.scores or self._size > _LONGEST:
            self._fit = False
            self._texts.clear()

    def whole(self) -> tuple[str, tuple[Reasoning, ...]] | None:
        """Give text and thoughts; None for an answer cut short, held back, empty or not of text alone."""
        text = "".join(self._texts)
        thoughts = tuple(self._thoughts[index] for index in sorted(self._thoughts))
        if not self._fit or not self._ended or not text.strip():
            return None
        # Half a character cannot be written down.
        return (text, thoughts) if _SURROGATE.search(text + "".join(one.text for one in thoughts)) is None else None
