"""The fault matrix beside conversations: what is asked for ranks, transcripts and images, and how that goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Literal

import orjson

from metier.store import Row
from tests.chaos.faults import Fault, answers, fails, whole_faults
from tests.chaos.faulty import USAGE, Act, Asked, Script, chunked, head, refusal

__all__ = ["BOUNDARY", "DOCUMENTS", "PIECES", "SOUND", "Whole", "due", "form", "lacks", "operation_faults"]

Whole = Literal["rerank", "transcribe", "image"]
"""What is always answered in one piece."""
BOUNDARY = "between-two-fields"
SOUND = b"\xff\xfb" + bytes(23_998)
"""Three seconds, as sounds of an unknown length are counted."""
DOCUMENTS = ("Camille attend sa commande : camille.durand@exemple.fr.", "La commande est partie.")
PIECES: Mapping[Whole, tuple[str, str]] = {
    "rerank": ("search", "0.002"), "transcribe": ("minute", "0.06"), "image": ("image", "0.04"),
}  # fmt: skip
"""The price of one piece: its name in the catalogue, and euros."""

_SECONDS = 3
_TOLD_S = 4
_IMAGE = "iVBORw0KGgo="
_SECONDS_TOLD = "counts seconds"


def form(fields: Mapping[str, str]) -> bytes:
    """The body of a transcription: its fields, then a sound whose name says who speaks."""
    said = "".join(
        f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    named = 'content-disposition: form-data; name="file"; filename="camille.mp3"\r\ncontent-type: audio/mpeg'
    return f"{said}--{BOUNDARY}\r\n{named}\r\n\r\n".encode() + SOUND + f"\r\n--{BOUNDARY}--\r\n".encode()


def due(operation: Whole, fault: Fault, row: Row, reached: bool) -> Decimal:
    """What a call costs beside its tokens: the piece it got, or may have been making when nobody waited any more."""
    _, euros = PIECES[operation]
    unheard = reached and (row["outcome"] == "cancelled" or row["error_code"] == "provider_timeout")
    if row["outcome"] != "answered" and not unheard:
        return Decimal(0)
    if operation != "transcribe":
        return Decimal(euros)
    if fault.title == _SECONDS_TOLD:
        return Decimal(_TOLD_S) / 60 * Decimal(euros)
    return Decimal(_SECONDS) / 60 * Decimal(euros) if row["estimated"] else Decimal(0)


def lacks(operation: Whole, body: Mapping[str, Any]) -> list[str]:
    """Say what a good answer lacks."""
    if operation == "rerank":
        ranked = [row["index"] for row in body["results"]]
        return [] if ranked == [1, 0] else [f"the ranks are {ranked}"]
    if operation == "image":
        return [] if [row["b64_json"] for row in body["data"]] == [_IMAGE] else [f"the images are {body['data']}"]
    return [] if isinstance(body["text"], str) else [f"the text is {body['text']!r}"]


def operation_faults(operation: Whole) -> Iterator[Fault]:
    """What a provider can do to one of these, and when the client can leave."""
    good: Callable[[Asked, float | None], bytes] = {"rerank": _ranks, "transcribe": _transcript, "image": _image}[
        operation
    ]
    yield from whole_faults("openai", good, USAGE[0])
    yield from {"rerank": _of_ranks, "transcribe": _of_transcripts, "image": _of_images}[operation]()


def _ranks(asked: Asked, usage: float | None) -> bytes:
    told = {} if usage is None else {"usage": {"total_tokens": usage}}
    rows = [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.25}]
    return orjson.dumps({"results": rows, **told})


def _transcript(asked: Asked, usage: float | None) -> bytes:
    return orjson.dumps({"text": "".join(asked.texts), **_counted(usage)})


def _image(asked: Asked, usage: float | None) -> bytes:
    return orjson.dumps({"created": 1, "data": [{"b64_json": _IMAGE}], **_counted(usage)})


def _counted(usage: float | None) -> dict[str, Any]:
    if usage is None:
        return {}
    made = USAGE[1] if usage == USAGE[0] else usage
    return {"usage": {"input_tokens": usage, "output_tokens": made, "total_tokens": usage + made}}


def _sends(**body: Any) -> Script:
    return lambda _: [head("application/json"), chunked(orjson.dumps(body)), chunked(b"")]


def _of_ranks() -> Iterator[Fault]:
    row = {"index": 0, "relevance_score": 0.5}
    yield fails("ranks too few documents", _sends(results=[row]))
    yield fails("ranks a document that is not there", _sends(results=[row, {"index": 7, "relevance_score": 0.5}]))
    yield fails("ranks without a score", _sends(results=[row, {"index": 1}]))
    yield fails("ranks by what is no number", _sends(results=[row, {"index": 1, "relevance_score": "NaN"}]))

    def otherwise(*then: Act) -> Script:
        """Some servers call the documents texts, and refuse them under another name."""
        return lambda asked: then or _well(asked) if b'"texts"' in asked.body else refusal("openai", asked, 422)

    yield answers("wants another name for the documents", otherwise())
    yield Fault("answers 422 to either name", lambda asked: refusal("openai", asked, 422), frozenset({"refused"}),
                "error", False)  # fmt: skip
    yield fails("wants another name, then closes", otherwise("close"))
    yield fails("wants another name, then hangs", otherwise("hang"), options={"first_token_s": 0.3})

    def unended(asked: Asked) -> list[Act]:
        return _well(asked) if b'"texts"' in asked.body else [head("application/json", 422), chunked(b"{"), "hang"]

    yield answers("wants another name and never says which", unended)


def _well(asked: Asked) -> list[Act]:
    return [head("application/json"), chunked(_ranks(asked, USAGE[0])), chunked(b"")]


def _of_transcripts() -> Iterator[Fault]:
    usage = {"type": "duration", "seconds": _TOLD_S}
    yield answers(_SECONDS_TOLD, lambda asked: _sends(text="".join(asked.texts), usage=usage)(asked), told=(0, 0))
    yield answers("hears nothing", _sends(text="", **_counted(USAGE[0])))
    yield fails("sends a text that is a number", _sends(text=7))
    yield fails("sends a text that is not there", _sends(text=None))
    yield fails("sends plain text", lambda _: [head("text/plain"), chunked(b"Bonjour"), chunked(b"")])


def _of_images() -> Iterator[Fault]:
    yield fails("sends an address for an image", _sends(data=[{"url": "http://127.0.0.1:9/image.png"}]))
    yield fails("sends no image", _sends(data=[]))
    yield fails("sends an image that is not there", _sends(data=[{"b64_json": None}]))
    yield fails("sends an image that is a number", _sends(data=[{"b64_json": 7}]))
