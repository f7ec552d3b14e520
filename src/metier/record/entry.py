"""The record of one call while it is made, and the row it becomes however the call ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import TracebackType
from typing import Literal, Protocol

import orjson

from metier.calls import JSON, Call, Chunk, Impact, Kept, Receipt, Usage
from metier.catalog import Deployment
from metier.errors import MetierError, Mistaken, ProviderTimeout, Refused
from metier.providers.base import unasked
from metier.providers.cause import cause, placed
from metier.record.impact import NOT_ESTIMATED, cost, impact
from metier.record.transcript import Transcript
from metier.tokens import sound_s

__all__ = ["Entry", "Hold", "Keeper", "Outcome", "Sink", "Witness", "lost_row"]

Outcome = Literal["answered", "refused", "failed", "cancelled", "lost"]
"""How a call ended, as the ledger says it."""

_ZERO = Decimal(0)
_BYTES_PER_TOKEN = 3
_DEPARTED = (asyncio.CancelledError, GeneratorExit)
_LONGEST_NAME = 120
_BY_THE_PIECE = frozenset({"rerank", "transcribe", "image"})


class Hold(Protocol):
    """Money held for one call, given back or charged when it ends."""

    amount: Decimal
    lease: str

    def settle(self, cost: Decimal) -> None:
        """Replace what was held by what the call really cost."""
        ...


class Sink(Protocol):
    """Where an entry leaves its two records."""

    def opened(self, call_id: str, payload: bytes) -> None:
        """Keep durably that the call may cost money from now on, or raise LedgerBroken."""
        ...

    def ended(self, call_id: str, payload: bytes, contents: bytes | None = None) -> None:
        """Take over the final record, with its sealed contents; never raises for lack of room."""
        ...


class Keeper(Protocol):
    """What an entry needs where contents or end users may be kept."""

    def transcript(self, call: Call) -> Transcript | None:
        """Give what gathers this call, or None where nothing of it is kept."""
        ...

    def member(self, call: Call) -> str | None:
        """Give the keyed digest of whom the client serves with this call."""
        ...

    def seal(self, call: Call, at: float, transcript: Transcript) -> bytes | None:
        """Seal what was gathered."""
        ...


class Witness(Protocol):
    """Watches calls begin and end, for metrics and traces; it must be quick, and never raise."""

    def began(self, entry: Entry) -> None:
        """See a call that begins."""
        ...

    def ended(self, entry: Entry) -> None:
        """See a call that is over and recorded."""
        ...


class Entry:
    """Accompanies one call; leaving its `async with` settles it, whatever the reason, without awaiting anything."""

    __slots__ = (
        "_at",
        "_began",
        "_bytes",
        "_complete",
        "_hold",
        "_images",
        "_keeper",
        "_member",
        "_searches",
        "_sink",
        "_unasked",
        "_witnesses",
        "call",
        "cost",
        "deployment",
        "duration_s",
        "error_cause",
        "error_code",
        "first_token_s",
        "impact",
        "input_tokens",
        "kept",
        "masked",
        "outcome",
        "reserved",
        "route",
        "transcript",
        "tries",
        "usage",
    )

    def __init__(self, call: Call, sink: Sink, witnesses: Sequence[Witness] = (), keeper: Keeper | None = None) -> None:
        self.call = call
        self.transcript = keeper.transcript(call) if keeper is not None else None
        """Gathers what is said, where the system of the call captures contents; None nearly everywhere."""
        self.reserved = _ZERO
        self.deployment: Deployment | None = None
        """Set it before the provider is called: from then on the call may cost."""
        self.usage: Usage | None = None
        """What the provider counted; left None, it is estimated from what was seen."""
        self.cost = _ZERO
        self.impact: Impact = NOT_ESTIMATED
        self.masked: Mapping[str, int] = {}
        """Personal values masked, counted per type."""
        self.kept: Kept | None = None
        """What was found among kept answers, where they are kept."""
        self.tries = 1
        """Deployments asked so far, the present one included."""
        self.route: object = None
        """Which model was chosen and why, in words; None where the model asked for leaves no choice."""
        self.outcome: Outcome | None = None
        self.error_code: str | None = None
        self.error_cause: str | None = None
        """Why it failed, in words that hold nothing of what was said."""
        self.first_token_s: float | None = None
        self.duration_s = 0.0
        self.input_tokens = 0
        """Likely tokens of the input as admission counted them: what is billed when no figure comes."""
        self._at = time.time()
        self._began = time.perf_counter()
        self._bytes = 0
        self._images = self._searches = 0
        self._complete = False
        self._hold: Hold | None = None
        self._keeper = keeper
        self._member = keeper.member(call) if call.end_user and keeper is not None else None
        self._sink = sink
        self._unasked = False
        self._witnesses = witnesses

    @property
    def began_at(self) -> float:
        """When the call was taken, in seconds since 1970."""
        return self._at

    def hold(self, hold: Hold | None, input_tokens: int) -> None:
        """Write down, before any provider is called, that this call may cost what is held for it."""
        self._hold = hold
        self.input_tokens = input_tokens
        if hold is not None:
            self.reserved = hold.amount
        call = self.call
        self._sink.opened(call.id, orjson.dumps(self._head(call) | {"duration_s": 0.0}))

    def observe(self, chunk: Chunk) -> None:
        """Note a piece that arrives from the provider: first token, size, and the usage it reports."""
        if chunk.usage is not None:
            self.usage = chunk.usage
        if chunk.text or chunk.tool_calls or chunk.reasoning or chunk.vectors or chunk.scores or chunk.media:
            if self.first_token_s is None:
                self.first_token_s = time.perf_counter() - self._began
            self._bytes += len(chunk.text) if chunk.text.isascii() else len(chunk.text.encode("utf-8", "replace"))
            for delta in chunk.tool_calls:
                self._bytes += len(delta.arguments) + len(delta.name or "")
            for thought in chunk.reasoning:
                self._bytes += len(thought.text)
            if chunk.media or chunk.scores:
                self._images += len(chunk.media)
                self._searches += bool(chunk.scores)

    def receipt(self) -> Receipt:
        """Price the answer, which is complete by now; the last chunk carries what this gives."""
        self._price()
        self._complete = True
        return Receipt(
            call_id=self.call.id,
            deployment=self.deployment.id if self.deployment else "",
            usage=self.usage or (self.kept.usage if self.kept else None) or Usage(),
            cost_eur=self.cost,
            impact=self.impact,
            duration_s=self.duration_s,
            masked=dict(self.masked),
            kept=self.kept,
            route=None if self.route is None else _clean(str(self.route)),
        )

    async def __aenter__(self) -> Entry:
        for witness in self._witnesses:
            witness.began(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._judge(error)
        if not self._complete:
            self._price()
        if self._hold is not None:
            self._hold.settle(self.cost)
        payload, contents = orjson.dumps(self._row()), None
        try:
            if self.transcript is not None and self._keeper is not None:
                contents = self._keeper.seal(self.call, self._at, self.transcript)
        finally:
            self._sink.ended(self.call.id, payload, contents)
        for witness in self._witnesses:
            witness.ended(self)

    def _judge(self, error: BaseException | None) -> None:
        self._unasked = error is not None and unasked(error)
        if isinstance(error, MetierError):
            self.error_code, self.error_cause = error.code, cause(error)
            if self.deployment is not None:
                placed(error, self.deployment.id)
            self.outcome = "refused" if isinstance(error, Refused | Mistaken) else "failed"
        elif error is None or (self._complete and isinstance(error, _DEPARTED)):
            self.outcome = self.outcome or "answered"
        elif isinstance(error, Exception):
            self.outcome, self.error_code, self.error_cause = "failed", "internal", type(error).__name__[:60]
        elif isinstance(error, _DEPARTED):
            self.outcome, self.error_code = "cancelled", None
        else:
            self.outcome, self.error_code = "failed", "interrupted"

    def _price(self) -> None:
        self.duration_s = time.perf_counter() - self._began
        if self.deployment is None:
            return
        if self.usage is None:
            self.usage = self._seen()
        self.cost = cost(self.deployment, self.usage, self._images, self._searches)
        if self.usage.input_tokens or self.usage.output_tokens:
            self.impact = impact(self.deployment, self.usage, self.duration_s)

    def _seen(self) -> Usage:
        """Estimate for lack of a figure: a provider that broke before the first token is taken to charge nothing."""
        silent = self.first_token_s is None
        if self._unasked:
            return Usage(estimated=True)
        # It was being made where nobody saw it: counted as long, or as much, as it could be.
        unseen = silent and (self.outcome == "cancelled" or self.error_code == ProviderTimeout.code)
        if unseen and self.call.at_once:
            return Usage(self.input_tokens, self._longest(), estimated=True)
        if unseen and self.call.operation in _BY_THE_PIECE:
            self._images = int(self.call.operation == "image")
            self._searches = int(self.call.operation == "rerank")
        elif silent and self.outcome in ("failed", "refused"):
            return Usage(estimated=True)
        written = -(-self._bytes // _BYTES_PER_TOKEN)
        heard = 0.0 if self.call.audio is None else sound_s(self.call.audio)
        return Usage(self.input_tokens, written, estimated=True, audio_s=heard)

    def _longest(self) -> int:
        """The most an answer in one piece can have been: what was asked for, as far as the deployment goes."""
        asked, deployment = self.call.max_output_tokens or 0, self.deployment
        return asked if deployment is None else min(asked, deployment.max_output_tokens)

    def _head(self, call: Call) -> dict[str, object]:
        """What is known before the call, in the columns of the ledger."""
        principal, origin = call.principal, call.origin
        return {
            "id": call.id,
            "at": self._at,
            "key": principal.key_id,
            "organisation": principal.organisation,
            "project": principal.project,
            "system": principal.system,
            "model": _clean(call.model),
            "operation": call.operation,
            "reserved_eur": str(self.reserved),
            "lease": self._hold.lease if self._hold else None,
            "run": _clean(origin.run) if origin else None,
            "path": _clean(origin.path) if origin else None,
            "attempt": origin.attempt if origin else None,
            "conversation": _clean(call.conversation) if call.conversation else None,
            "end_user": self._member,
        }

    def _row(self) -> dict[str, object]:
        usage, deployment, energy, carbon = self.usage, self.deployment, self.impact.energy_kwh, self.impact.carbon_g
        row = self._head(self.call)
        row["deployment"] = deployment.id if deployment else None
        row["outcome"] = self.outcome
        row["error_code"], row["error_cause"] = self.error_code, self.error_cause
        row["input_tokens"] = usage.input_tokens if usage else 0
        row["output_tokens"] = usage.output_tokens if usage else 0
        row["cached_tokens"] = usage.cached_tokens if usage else 0
        row["cache_write_tokens"] = usage.cache_write_tokens if usage else 0
        row["reasoning_tokens"] = usage.reasoning_tokens if usage else 0
        row["tries"] = self.tries
        if self.route is not None:
            row["route"] = _clean(str(self.route))
        if self.kept is not None and self.kept.hit is not None:
            row |= {"cache": self.kept.hit, "saved_eur": str(self.kept.saved_eur), "saved_kwh": self.kept.saved_kwh}
        row["estimated"] = usage.estimated if usage else False
        row["cost_eur"] = str(self.cost)
        row["priced"] = deployment is None or deployment.price is not None
        row["energy_low_kwh"] = energy.low if energy else None
        row["energy_high_kwh"] = energy.high if energy else None
        row["carbon_low_g"] = carbon.low if carbon else None
        row["carbon_high_g"] = carbon.high if carbon else None
        row["method"] = self.impact.method
        row["zone"] = self.impact.zone
        row["duration_s"] = self.duration_s
        row["first_token_s"] = self.first_token_s
        row["masked"] = dict(self.masked)
        return row


def lost_row(opened: bytes) -> bytes:
    """Make the final record of a call whose process died: it is charged all that was held for it."""
    row: dict[str, JSON] = orjson.loads(opened)
    row |= {
        "outcome": "lost",
        "cost_eur": row["reserved_eur"],
        "input_tokens": 0,
        "output_tokens": 0,
        "cached_tokens": 0,
        "estimated": True,
        "priced": True,
        "method": NOT_ESTIMATED.method,
        "masked": {},
    }
    return orjson.dumps(row)


def _clean(text: str) -> str:
    """Keep a name a client chose from spoiling a row: PostgreSQL takes no NUL, and a name is short."""
    if text.isascii() and len(text) <= _LONGEST_NAME and "\0" not in text:
        return text
    return text[:_LONGEST_NAME].replace("\0", "").encode("utf-8", "replace").decode()
