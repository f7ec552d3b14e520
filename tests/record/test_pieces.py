"""What is billed by the piece: images, minutes of sound, searches."""

from __future__ import annotations

import asyncio
import base64
from decimal import Decimal

import orjson
import pytest

from metier.calls import Call, Chunk, KeyId, Media, Principal, ProjectId, SystemId, Usage
from metier.catalog import Catalog
from metier.errors import ProviderTimeout
from metier.policy.estimate import Outputs, expected
from metier.providers.base import mark_unasked
from metier.record.entry import Entry
from metier.tokens import sound_s

WHO = Principal(KeyId("k"), ProjectId("p"), SystemId("s"))
MODEL = Catalog.from_yaml(
    {
        "m": {
            "deployments": [
                {
                    "provider": "openai",
                    "model_id": "m",
                    "base_url": "http://127.0.0.1/v1",
                    "price": {"input": 0, "output": 0, "image": "0.04", "minute": "0.006", "search": "0.002"},
                }
            ]
        }
    }
).model("m")
MP3 = Media("audio/mpeg", base64.b64encode(b"\xff\xfb" + b"\0" * 479_998).decode())
HEAD = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0" + (16_000).to_bytes(4, "little") + (32_000).to_bytes(4, "little")
WAV = Media("audio/wav", base64.b64encode(HEAD + b"\0" * 320_000).decode())


class Kept:
    """Keeps the last record of a call."""

    def __init__(self) -> None:
        self.row: dict[str, object] = {}

    def opened(self, call_id: str, payload: bytes) -> None:
        """Nothing: only the end matters here."""

    def ended(self, call_id: str, payload: bytes, contents: bytes | None = None) -> None:
        self.row = orjson.loads(payload)


async def cost_of(call: Call, *chunks: Chunk, error: BaseException | None = None) -> tuple[Decimal, bool]:
    kept = Kept()
    entry = Entry(call, kept)
    try:
        async with entry:
            entry.hold(None, 0)
            entry.deployment = MODEL.deployments[0]
            for chunk in chunks:
                entry.observe(chunk)
            if error is not None:
                raise error
    except (RuntimeError, ProviderTimeout, asyncio.CancelledError):
        pass
    return Decimal(str(kept.row["cost_eur"])), bool(kept.row["estimated"])


async def test_each_image_made_is_billed() -> None:
    call = Call(WHO, "m", operation="image", inputs=("a cat",))
    image = Media("image/png", "iVBORw0KGgo=")
    assert await cost_of(call, Chunk(media=(image, image), usage=Usage(10, 0))) == (Decimal("0.08"), False)
    assert await cost_of(call, error=RuntimeError("no")) == (Decimal(0), True)


async def test_a_rerank_is_one_search_once_it_gives_scores() -> None:
    call = Call(WHO, "m", operation="rerank", inputs=("a", "b"), query="c")
    assert (await cost_of(call, Chunk(scores=(0.5, 0.1))))[0] == Decimal("0.002")
    assert (await cost_of(call, error=RuntimeError("no")))[0] == 0


async def test_sound_is_billed_by_the_minutes_the_provider_tells_or_by_its_length_as_far_as_it_is_known() -> None:
    call = Call(WHO, "m", operation="transcribe", audio=MP3)
    assert await cost_of(call, Chunk("Bonjour", usage=Usage(audio_s=90.0))) == (Decimal("0.009"), False)
    assert await cost_of(call, Chunk("Bonjour")) == (Decimal("0.006"), True)
    assert (await cost_of(call, error=RuntimeError("no")))[0] == 0


@pytest.mark.parametrize("end", [asyncio.CancelledError, ProviderTimeout])
@pytest.mark.parametrize(
    ("call", "cost"),
    [
        (Call(WHO, "m", operation="image", inputs=("a cat",)), "0.04"),
        (Call(WHO, "m", operation="rerank", inputs=("a",), query="c"), "0.002"),
        (Call(WHO, "m", operation="transcribe", audio=MP3), "0.006"),
        (Call(WHO, "m", operation="embed", inputs=("a",)), "0"),
    ],
)
async def test_what_was_being_made_when_nobody_waited_any_more_is_billed_unless_nobody_was_asked(
    call: Call, cost: str, end: type[BaseException]
) -> None:
    assert await cost_of(call, error=end("left")) == (Decimal(cost), True)
    error = end("left")
    mark_unasked(error)
    assert await cost_of(call, error=error) == (Decimal(0), True)


@pytest.mark.parametrize(
    ("call", "held"),
    [
        (Call(WHO, "m", operation="image", inputs=("a cat",)), "0.04"),
        (Call(WHO, "m", operation="rerank", inputs=("a",), query="c"), "0.002"),
        (Call(WHO, "m", operation="transcribe", audio=MP3), "0.006"),
    ],
)
def test_what_is_billed_by_the_piece_is_held_before_the_call(call: Call, held: str) -> None:
    need = expected(call, MODEL, Outputs(), None)
    assert need.money == need.need("money") == Decimal(held)
    assert need.more("money", 100) == 0


def test_a_wav_says_how_long_it_is_and_what_is_no_base64_has_a_length_too() -> None:
    assert sound_s(WAV) == 10.0
    assert sound_s(MP3) == 60.0
    assert sound_s(Media("audio/wav", "é" * 80_000)) > 0
