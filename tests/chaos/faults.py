"""The ways a call can go wrong: what the provider does or when the client leaves, and how the call must then end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.chaos.faulty import (
    USAGE,
    WIRES,
    Act,
    Asked,
    Format,
    Maker,
    Piece,
    Script,
    chunked,
    counted,
    embedding,
    good,
    head,
    pieces,
    refusal,
    reported,
    stream_kind,
    whole,
)

__all__ = ["Ending", "Fault", "answers", "departures", "embedding_faults", "fails", "faults", "whole_faults"]

Ending = Literal["clean", "error", "any"]
Leaving = Literal["silence", "first", "end"]
_NONSENSE = 1e20


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the matrix, for one format and one way to ask."""

    title: str
    script: Script
    outcomes: frozenset[str]
    """What the ledger may call it."""
    ending: Ending
    """What the client must get; "any" where it has left."""
    exact: bool | None = None
    """True: the figures of the provider; False: ours, said to be estimated; None: either, as long as it says which."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the deployment says beside the rest."""
    leaves: Leaving | None = None
    """When the client leaves: once the provider is silent, at the first bytes, or at the end."""
    backup: bool = False
    """Whether a second deployment stands behind the first, and answers well."""
    unreachable: bool = False
    lending: Script | Literal["nobody"] | None = None
    """How its provider gets a token, where that goes another way than well."""
    told: tuple[int, int] | None = None
    """The tokens the provider counts, where not the usual ones."""


def answers(title: str, script: Script, exact: bool = True, **more: Any) -> Fault:
    """A fault the client sees nothing of."""
    return Fault(title, script, frozenset({"answered"}), "clean", exact, **more)


def fails(title: str, script: Script, **more: Any) -> Fault:
    """A fault that ends the call, with an error for the client."""
    return Fault(title, script, frozenset({"failed"}), "error", **more)


def _good(kind: Format) -> Script:
    return lambda asked: good(kind, asked, counted(kind, *USAGE))


def _begun(kind: Format, number: int, then: Act | None) -> Script:
    """The first pieces of a good answer, then an end of one kind or another; in one piece, that part of it."""

    def acts(asked: Asked) -> list[Act]:
        if asked.streams:
            stream = pieces(kind, asked.texts, counted(kind, *USAGE))[:number]
            said: list[Act] = [head(stream_kind(kind)), *(chunked(piece.data) for piece in stream)]
        else:
            data = whole(asked.texts, counted(kind, *USAGE))
            part = data[: len(data) * number // _length(kind)]
            said = [head("application/json"), *([chunked(part)] if part else [])]
        return [*said, chunked(b"") if then is None else then]

    return acts


def _length(kind: Format) -> int:
    return len(_model(kind))


def _model(kind: Format) -> list[Piece]:
    return pieces(kind, ("a", "b", "c", "d"), counted(kind, *USAGE))


def faults(kind: Format, at_once: bool) -> Iterator[Fault]:
    """What a provider can do to a chat; `at_once` when it is asked for the whole answer in one piece."""
    yield answers("nothing goes wrong", _good(kind))
    yield from _refusals(lambda status, headers: lambda asked: refusal(kind, asked, status, **headers))
    yield fails("refuses the connection", _good(kind), unreachable=True)
    yield from _silences(kind, at_once)
    yield from _garbage(kind)
    yield from _usages(kind)
    yield from _breaks(kind, at_once)
    if not at_once:
        yield from _inside(kind)
    firsts: tuple[tuple[str, Script], ...] = (
        ("500", lambda asked: refusal(kind, asked, 500)),
        ("429", lambda asked: refusal(kind, asked, 429, retry_after="7")),
        ("a broken head", lambda asked: [b"\x00\xff nothing of the kind\r\n\r\n", "close"]),
        ("a break before the first word", _begun(kind, 0, "close")),
    )
    for title, script in firsts:
        yield answers(f"{title}, then another deployment answers", script, backup=True)


def _refusals(script: Callable[[int, Mapping[str, str]], Script]) -> Iterator[Fault]:
    for status in (401, 403, 404, 408, 500, 503, 529):
        yield fails(f"answers {status}", script(status, {}))
    yield fails("answers 301", script(301, {"location": "http://127.0.0.1:9/"}))
    yield Fault("answers 400", script(400, {}), frozenset({"refused"}), "error", False)
    yield fails("answers 429 with Retry-After", script(429, {"retry_after": "7"}))
    yield fails("answers 429 with a date", script(429, {"retry_after": "Wed, 21 Oct 2065 07:28:00 GMT"}))
    yield fails("answers 429 with a wait of 400 digits", script(429, {"retry_after": "9" * 400}))


def _silences(kind: Format, at_once: bool) -> Iterator[Fault]:
    # In one piece nothing is heard until all is written: only the time for the whole ends that silence.
    whole_s = 0.4 if at_once else 60
    yield fails("hangs before the head", lambda _: ["hang"], options={"first_token_s": 0.3, "timeout_s": whole_s})
    limits = {"first_token_s": 0.3, "timeout_s": whole_s}
    yield fails("hangs after the head", _begun(kind, 0, "hang"), options=limits)
    middle = next(place for place, piece in enumerate(_model(kind)) if piece.kind == "text") + 1
    for number in (middle, middle + 2):
        limits = {"between_s": 0.3, "timeout_s": whole_s}
        yield fails(f"hangs after piece {number}", _begun(kind, number, "hang"), options=limits)


def _garbage(kind: Format) -> Iterator[Fault]:
    told = stream_kind(kind)
    bodies: tuple[tuple[str, bytes], ...] = (
        ("bytes that are nothing", b"\x00\x01\xfe\xff" * 40),
        ("bytes that are nothing, in events", b"data: \xff\xfe{{{\n\n" * 3),
        ("JSON that is no answer", b'data: [1, "deux", null]\n\n'),
        ("an object without meaning", b'data: {"un": 1}\n\n'),
        ("a page", b"<html><body>502 Bad Gateway</body></html>"),
        ("nothing at all", b""),
    )
    for title, body in bodies:
        sent: list[Act] = [chunked(body)] if body else []
        yield fails(f"sends {title}", lambda _, sent=sent: [head(told), *sent, chunked(b"")])  # type: ignore[misc]  # a default binds the body of this turn
    yield fails(
        "sends half a JSON", lambda _: [head("application/json"), chunked(b'{"choices": [{"mess'), chunked(b"")]
    )
    yield fails("sends a broken head", lambda _: [b"\x00\xff nothing of the kind\r\n\r\n", "close"])
    yield fails("sends a head of 100 kB", lambda _: [head(told, x_long="a" * 100_000), chunked(b"")])
    yield fails("sends broken chunks", lambda _: [head(told), b"zz\r\nbad\r\n"])
    yield fails("closes instead of a head", lambda _: ["close"])
    yield fails("cuts instead of a head", lambda _: ["cut"])


def _usages(kind: Format) -> Iterator[Fault]:
    def telling(usage: dict[str, Any] | None) -> Script:
        return lambda asked: good(kind, asked, usage)

    yield answers("omits usage", telling(None), exact=False)
    yield answers("counts nothing", telling(counted(kind, 0, 0)), exact=False)
    yield answers("counts beyond reason", telling(counted(kind, _NONSENSE, _NONSENSE)), exact=False)
    yield answers("counts below nothing", telling(counted(kind, -5, -7)), exact=False)

    def twice(asked: Asked) -> list[Act]:
        if not asked.streams:
            return good(kind, asked, counted(kind, *USAGE))
        stream = pieces(kind, asked.texts, counted(kind, *USAGE))
        early = [piece for piece in pieces(kind, asked.texts, counted(kind, 3, 2)) if piece.kind == "usage"]
        if kind == "gemini":
            early = [Piece("usage", pieces(kind, (), counted(kind, 3, 2))[-1].data)]
        if kind == "bedrock":
            early = [Piece("usage", pieces(kind, (), counted(kind, 3, 2))[-1].data)]
        place = next(number for number, piece in enumerate(stream) if piece.kind == "text") + 1
        said = [*stream[:place], *early, *stream[place:]]
        return [head(stream_kind(kind)), *(chunked(piece.data) for piece in said), chunked(b"")]

    yield answers("sends usage twice", twice)


def _breaks(kind: Format, at_once: bool) -> Iterator[Fault]:
    """The answer breaks off after every piece, by a close in the middle of the body, by a cut, or by a tidy end."""
    model = _model(kind)
    for number in range(len(model) + 1):
        ended = number == len(model) and not at_once and kind != "gemini"
        made = answers if ended else fails
        yield made(f"closes after piece {number} of {len(model)}", _begun(kind, number, "close"))
        said = {piece.kind for piece in model[:number]}
        over = "done" in said if kind == "anthropic" else "finish" in said
        if at_once:
            over = number == len(model)
        told = "usage" in said or ("done" in said and kind == "bedrock") or kind == "gemini" or at_once
        if over:
            yield answers(f"ends tidily after piece {number}", _begun(kind, number, None), exact=told)
        else:
            yield fails(f"ends tidily after piece {number}", _begun(kind, number, None))
    for number in (1, 3):
        yield fails(f"cuts after piece {number}", _begun(kind, number, "cut"))


def _inside(kind: Format) -> Iterator[Fault]:
    """Errors inside a stream of status 200, and what follows the end of one."""
    model = _model(kind)

    def error_after(number: int) -> Script:
        def acts(asked: Asked) -> list[Act]:
            stream = pieces(kind, asked.texts, counted(kind, *USAGE))[:number]
            said = [*(piece.data for piece in stream), reported(kind, asked)]
            return [head(stream_kind(kind)), *map(chunked, said), chunked(b"")]

        return acts

    for number in range(len(model)):
        yield fails(f"sends an error after piece {number}", error_after(number))

    def more_after(pause: bool) -> Script:
        def acts(asked: Asked) -> list[Act]:
            stream = [piece.data for piece in pieces(kind, asked.texts, counted(kind, *USAGE))]
            late = [
                piece.data for piece in pieces(kind, ("TROP TARD",), counted(kind, 999, 999)) if piece.kind != "done"
            ]
            if pause:
                return [head(stream_kind(kind)), *map(chunked, stream), "pause", *map(chunked, late), chunked(b"")]
            return [head(stream_kind(kind)), chunked(b"".join([*stream, *late])), chunked(b"")]

        return acts

    if kind != "gemini":  # which says that it is finished as often as it likes, and means the last time
        yield answers("goes on after the end, at once", more_after(False))
        yield answers("goes on after the end, a little later", more_after(True))
        yield answers("hangs after the end", _begun(kind, len(model), "hang"), options={"between_s": 60})


def departures(kind: Format, at_once: bool) -> Iterator[Fault]:
    """The client leaves before the first byte, at every piece, and after the last."""
    left: dict[str, Any] = {"outcomes": frozenset({"cancelled"}), "ending": "any", "leaves": "silence"}
    yield Fault("client leaves before the head", lambda _: ["hang"], exact=False, **left)
    model = _model(kind)
    for number in range(len(model) + 1):
        ended = number == len(model) and not at_once and kind != "gemini"
        if ended:
            left = {"outcomes": frozenset({"cancelled", "answered"}), "ending": "any", "leaves": "silence"}
        yield Fault(f"client leaves after piece {number} of {len(model)}", _begun(kind, number, "hang"), **left)
    either = frozenset({"cancelled", "answered"})
    yield Fault("client leaves at the first bytes", _good(kind), either, "any", leaves="first")
    yield Fault("client leaves at the end", _good(kind), frozenset({"answered"}), "any", True, leaves="end")


def embedding_faults(maker: Maker) -> Iterator[Fault]:
    """What a provider can do to embeddings, and when the client can leave."""
    yield from whole_faults(WIRES[maker], lambda _, usage: embedding(maker, usage), USAGE[0])


def whole_faults(kind: Format, good: Callable[[Asked, float | None], bytes], usage: float) -> Iterator[Fault]:
    """What a provider can do to whatever it answers in one piece, and when the client can leave."""

    def sends(usage: float | None) -> Script:
        return lambda asked: [head("application/json"), chunked(good(asked, usage)), chunked(b"")]

    def half(*then: Act) -> Script:
        def acts(asked: Asked) -> list[Act]:
            said = good(asked, usage)
            return [head("application/json"), chunked(said[: len(said) // 2]), *then]

        return acts

    well = sends(usage)
    yield answers("nothing goes wrong", well)
    yield from _refusals(lambda status, headers: lambda asked: refusal(kind, asked, status, **headers))
    yield fails("refuses the connection", well, unreachable=True)
    yield fails("hangs before the head", lambda _: ["hang"], options={"first_token_s": 0.3})
    yield fails("hangs after the head", half("hang"), options={"first_token_s": 0.3})
    yield fails("sends half a JSON", half(chunked(b"")))
    yield fails("closes midway", half("close"))
    yield fails("cuts midway", half("cut"))
    yield fails("sends broken chunks", half(b"zz\r\nbad\r\n"))
    yield fails("sends nothing at all", lambda _: [head("application/json"), chunked(b"")])
    yield fails(
        "sends an object without meaning", lambda _: [head("application/json"), chunked(b'{"un":1}'), chunked(b"")]
    )
    yield fails("sends a broken head", lambda _: [b"\x00\xff nothing of the kind\r\n\r\n", "close"])
    yield fails("sends an error for an answer", lambda asked: refusal(kind, asked, 200))
    for title, count in (("omits usage", None), ("counts nothing", 0), ("counts beyond reason", _NONSENSE),
                         ("counts below nothing", -5)):  # fmt: skip
        yield answers(title, sends(count), exact=False)
    yield answers("500, then another deployment answers", lambda asked: refusal(kind, asked, 500), backup=True)
    left: dict[str, Any] = {"outcomes": frozenset({"cancelled"}), "ending": "any", "exact": False, "leaves": "silence"}
    yield Fault("client leaves before the head", lambda _: ["hang"], **left)
    yield Fault("client leaves midway", half("hang"), **left)
    yield Fault("client leaves at the end", well, frozenset({"answered"}), "any", True, leaves="end")
