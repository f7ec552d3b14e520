"""Runs asked for by programs with a key: the API trigger."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from metier.calls import JSON, Principal, new_id
from metier.errors import Invalid
from metier.triggers.event import Event, Kind, only

__all__ = ["KIND", "asked"]

_LONGEST = 256


def asked(inputs: Mapping[str, JSON], once: str | None, asker: Principal | None = None) -> Event:
    """Give the event of a request; `once` is what its sender, `asker`, repeats when it asks again."""
    if once is not None and not 1 <= len(once) <= _LONGEST:
        raise Invalid(f"idempotency-key has {len(once)} characters: send 1 to {_LONGEST}", param="idempotency-key")
    if once is None:
        return Event(new_id("ask"), inputs, asker=asker)
    content = orjson.dumps(dict(inputs), option=orjson.OPT_SORT_KEYS)
    return Event(once, inputs, content=content, asker=asker)


def _check(config: Mapping[str, JSON]) -> None:
    only(config, "api", (), ())


KIND = Kind(_check)
