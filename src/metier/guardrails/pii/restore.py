"""Puts the true values back into an answer while it streams, whatever the chunks cut through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import orjson

from metier.calls import Chunk, ToolCallDelta
from metier.guardrails.pii.placeholders import Code, Reading, Waiting, may_begin, next_candidate, read

__all__ = ["Decoder", "Restore"]


class Decoder:
    """Restores one field of a stream; holds back only an ending that may still grow into a code."""

    def __init__(self, values: Mapping[Code, str], escape: bool = False) -> None:
        self._values = values
        self._escape = escape
        self._held = ""
        self._last = ""
        self.unknown = 0
        """Codes in the answer that stand for nothing: left as they are."""

    def feed(self, piece: str) -> str:
        """Take a piece and give all that is certain by now."""
        if not self._held and may_begin(piece) is None:
            if piece:
                self._last = piece[-1]
            return piece
        return self._decode(self._held + piece, final=False)

    def flush(self) -> str:
        """Give what is held: nothing more will follow."""
        return self._decode(self._held, final=True) if self._held else ""

    def _decode(self, text: str, final: bool) -> str:
        pieces: list[str] = []
        done = place = 0
        self._held = ""
        while match := next_candidate(text, place):
            start = match.start()
            if start == 0 and text[0].isalpha() and (self._last.isalnum() or self._last == "_"):
                place = 1
                continue
            reading = read(text, start, final)
            if isinstance(reading, Waiting):
                self._held = text[start:]
                text = text[:start]
                break
            if not isinstance(reading, Reading):
                place = start + 1
                continue
            value = self._values.get(reading.code)
            if value is not None:
                pieces += (text[done:start], self._written(value))
                done = reading.end
            elif not reading.bare:
                self.unknown += 1
            place = reading.end
        pieces.append(text[done:])
        if text:
            self._last = text[-1]
        return "".join(pieces)

    def _written(self, value: str) -> str:
        return orjson.dumps(value).decode()[1:-1] if self._escape else value


class Restore:
    """The output filter of one call: its text, and the arguments of each of its tool calls."""

    def __init__(self, values: Mapping[Code, str], json_text: bool = False) -> None:
        self._values = values
        self._text = Decoder(values, escape=json_text)
        self._arguments: dict[int, Decoder] = {}

    @property
    def unknown(self) -> int:
        """Codes the model wrote that stand for nothing."""
        return self._text.unknown + sum(decoder.unknown for decoder in self._arguments.values())

    def feed(self, chunk: Chunk) -> Chunk | None:
        """Restore one chunk; a chunk that ends the answer first gives up everything held."""
        text = self._text.feed(chunk.text) if chunk.text else ""
        if not chunk.tool_calls and chunk.finish is None:
            if text == chunk.text:
                return chunk
            if not text and chunk.usage is None and chunk.receipt is None and not (chunk.vectors or chunk.reasoning):
                return None
            return replace(chunk, text=text)
        calls = tuple(self._restored(delta) for delta in chunk.tool_calls)
        if chunk.finish is not None:
            text += self._text.flush()
            calls += self._flushed_arguments()
        return replace(chunk, text=text, tool_calls=calls)

    def flush(self) -> Chunk | None:
        """Give up what is held when the stream ends without a finish."""
        text, calls = self._text.flush(), self._flushed_arguments()
        return Chunk(text=text, tool_calls=calls) if text or calls else None

    def _restored(self, delta: ToolCallDelta) -> ToolCallDelta:
        decoder = self._arguments.get(delta.index)
        if decoder is None:
            decoder = self._arguments[delta.index] = Decoder(self._values, escape=True)
        return replace(delta, arguments=decoder.feed(delta.arguments))

    def _flushed_arguments(self) -> tuple[ToolCallDelta, ...]:
        held = ((index, decoder.flush()) for index, decoder in self._arguments.items())
        return tuple(ToolCallDelta(index, arguments=rest) for index, rest in held if rest)
