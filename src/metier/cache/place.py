"""Where the answer to a call is kept: a partition nobody else reaches, and the question inside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Protocol

import orjson

from metier.calls import Call, Principal, Text
from metier.deployment import Deployment, Model
from metier.vault import Vault, member

__all__ = ["Caching", "Place", "Places"]

_PURPOSE = "cache"
_ASIDE = frozenset({"id", "principal", "messages", "conversation", "origin", "end_user", "cache_key", "whole", "reuse"})
"""What a call carries that changes nothing of its answer; everything else parts answers, new fields included."""
_CALL = tuple(field.name for field in fields(Call) if field.name not in _ASIDE)
_WHO = tuple(field.name for field in fields(Principal) if field.name not in ("key_id", "name"))
_BEHIND = ("id", "provider", "model_id", "base_url", "version", "hosting", "country", "options")
_MOST_KEPT = 1_000


class Caching(Protocol):
    """What the house decided for one system about giving answers again."""

    @property
    def mode(self) -> str:
        """ "exact" or "semantic"."""
        ...

    @property
    def ttl_s(self) -> float:
        """Seconds an answer is good for."""
        ...

    @property
    def threshold(self) -> float:
        """Least similarity of two questions that mean the same."""
        ...

    @property
    def max_entries(self) -> int:
        """Answers kept for the system; the oldest leave first."""
        ...

    @property
    def max_temperature(self) -> float:
        """Calls that ask for more chance than this are not answered again."""
        ...

    @property
    def within(self) -> str:
        """Who shares answers: everybody of the "system", of one "key", or one "end_user"."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where one answer is kept: both digests are keyed, so that nothing can be guessed back from them."""

    partition: bytes
    """Of everything but the question: who may see it, what answers, with which parameters and instructions."""
    key: bytes
    """Of the partition and the question."""
    question: str
    """The masked text of the question; empty where only the very same one will do."""
    end_user: bytes | None
    """Keyed digest of whom the client served, so that what was made for a person can be deleted."""

    @property
    def bound_to(self) -> str:
        """What the sealed answer opens for."""
        return f"{self.partition.hex()}/{self.key.hex()}"


class Places:
    """Finds the place of each call; `guardrails` names their revision, for another may let other things pass."""

    def __init__(self, vault: Vault, guardrails: str) -> None:
        self._vault = vault
        self._guardrails = guardrails
        self._behind: dict[int, tuple[Model, bytes]] = {}

    def find(self, masked: Call, model: Model, caching: Caching, language: str | None) -> Place | None:
        """Give the place of a masked call that `model` answers; None where its answer may not be kept."""
        if not _fit(masked, caching) or (caching.within == "end_user" and not masked.end_user):
            return None
        who = masked.principal
        parts = {
            "who": {name: getattr(who, name) for name in _WHO},
            "within": [
                caching.within,
                who.key_id if caching.within == "key" else None,
                masked.end_user if caching.within == "end_user" else None,
            ],
            "call": {name: getattr(masked, name) for name in _CALL},
            "before": masked.messages[:-1],
            "behind": self._revision(model),
            "guardrails": self._guardrails,
            "language": language,
        }
        try:
            partition = self._vault.digest(_PURPOSE, _canonical(parts))
            key = self._vault.digest(_PURPOSE, _canonical([partition.hex(), masked.messages[-1]]))
        except TypeError:
            # Half a character, which JSON cannot say: such a call has no place.
            return None
        return Place(partition, key, _question(masked), self.person(who.organisation, masked.end_user))

    def person(self, organisation: str, end_user: str | None) -> bytes | None:
        """Give the digest of an end user, in the words of the client: that of the records, as bytes."""
        return bytes.fromhex(member(self._vault, organisation, end_user)) if end_user else None

    def _revision(self, model: Model) -> str:
        """What is behind a model now, fallbacks included: worked out once for each model of a catalogue."""
        found = self._behind.get(id(model))
        if found is None or found[0] is not model:
            if len(self._behind) >= _MOST_KEPT:
                self._behind.clear()
            said = _canonical([model.version, [_deployment(one) for one in model.deployments]])
            found = self._behind[id(model)] = (model, self._vault.digest(_PURPOSE, said))
        return found[1].hex()


def _fit(call: Call, caching: Caching) -> bool:
    """Answers are kept of plain text asked for without much chance, and never of tools."""
    if call.operation != "chat" or not call.messages or call.tools or call.audio is not None:
        return False
    if call.temperature is not None and call.temperature > caching.max_temperature:
        return False
    return not any(
        message.tool_calls or message.role == "tool" or any(not isinstance(part, Text) for part in message.parts)
        for message in call.messages
    )


def _question(call: Call) -> str:
    """The text whose meaning may be compared: of a single turn, with nothing but instructions before it."""
    last = call.messages[-1]
    if last.role != "user" or any(message.role != "system" for message in call.messages[:-1]):
        return ""
    return last.text


def _deployment(deployment: Deployment) -> list[object]:
    return [getattr(deployment, name) for name in _BEHIND]


def _canonical(value: object) -> bytes:
    return orjson.dumps(value, _plain, orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)


def _plain(value: object) -> object:
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError
