"""One span per call, sent to an OpenTelemetry collector as OTLP over HTTP; names and figures, never contents."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import re
import secrets
import socket
from collections import deque
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final

import aiohttp
import orjson

from metier.calls import CallId
from metier.errors import ConfigError
from metier.record.entry import Entry
from metier.record.exposition import Family, Sample
from metier.record.genai import Names, names

__all__ = ["TRACEPARENT", "Spans", "endpoint"]

TRACEPARENT: ContextVar[str] = ContextVar("traceparent", default="")
"""What the client of the present request sent in its header of that name."""

_PARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_CLIENT: Final = 3
_FAILED: Final = 2
_MOST = 10_000
_BATCH = 500
_PATIENCE_S = 10.0
_PAUSE_S = 5.0
_LAST_S = 2.0
_JSON = {"content-type": "application/json"}

_log = logging.getLogger(__name__)


class Spans:
    """Keeps the spans of calls that ended until the collector has them; those that find no room are dropped."""

    def __init__(self, url: str, *, resource: Mapping[str, str], pause_s: float = _PAUSE_S) -> None:
        self._url = endpoint(url)
        self._resource = [_attribute(name, value) for name, value in resource.items()]
        self._scope = {"name": "metier", "version": resource.get("service.version", "")}
        self._pause_s = pause_s
        self._names: Names = names()
        self._parents: dict[CallId, str] = {}
        self._waiting: deque[dict[str, object]] = deque()
        self._wake = asyncio.Event()
        self._away = False
        self.sent = 0
        self.dropped = 0
        """Spans that found no room while the collector was away, or that it refused."""

    @classmethod
    def to(cls, url: str | None) -> Spans | None:
        """Make what sends to a collector, in the name of this machine; None where there is no collector."""
        if url is None:
            return None
        version = importlib.metadata.version("metier")
        return cls(url, resource={
            "service.name": "metier", "service.version": version, "host.name": socket.gethostname(),
        })  # fmt: skip

    def began(self, entry: Entry) -> None:
        """Note in whose trace a call is, while the request it came by is at hand."""
        parent = TRACEPARENT.get()
        if parent:
            self._parents[entry.call.id] = parent

    def ended(self, entry: Entry) -> None:
        """Keep the span of a call that is over, unless its trace is not recorded or there is no room."""
        parent = _PARENT.fullmatch(self._parents.pop(entry.call.id, ""))
        if parent is not None and not int(parent[3], 16) & 1:
            return
        if len(self._waiting) >= _MOST:
            self.dropped += 1
            return
        self._waiting.append(self._span(entry, parent))
        if len(self._waiting) >= _BATCH:
            self._wake.set()

    async def run(self) -> None:
        """Send for ever; owned by the lifespan of the process."""
        while True:
            try:
                async with asyncio.timeout(self._pause_s):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self.flush()

    async def flush(self) -> None:
        """Send what waits; what the collector does not take now is tried again, what it refuses is dropped."""
        if not self._waiting:
            return
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PATIENCE_S)) as session:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
                try:
                    async with session.post(
                        self._url, data=self._body(batch), headers=_JSON, allow_redirects=False
                    ) as response:
                        status = response.status
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    self._later(batch, type(error).__name__)
                    return
                if status in (429, 502, 503, 504):
                    self._later(batch, f"status {status}")
                    return
                if status >= 300:
                    self.dropped += len(batch)
                    _log.warning("the collector refuses %d spans with status %d: they are dropped", len(batch), status)
                else:
                    self._away = False
                    self.sent += len(batch)

    async def close(self) -> None:
        """Send what waits, within a few seconds: a trace is not worth a slow end."""
        try:
            async with asyncio.timeout(_LAST_S):
                await self.flush()
        except TimeoutError:
            _log.warning("%d spans are lost: the collector was too slow at the end", len(self._waiting))

    def families(self) -> list[Family]:
        """Tell what became of the spans."""
        return [
            Family("metier_spans_total", "counter", "Spans of calls by what became of them.", [
                Sample({"outcome": "sent"}, self.sent), Sample({"outcome": "dropped"}, self.dropped),
            ]),
            Family("metier_spans_waiting", "gauge", "Spans that wait for the collector.", [
                Sample({}, len(self._waiting))
            ]),
        ]  # fmt: skip

    def _later(self, batch: list[dict[str, object]], reason: str) -> None:
        self._waiting.extendleft(reversed(batch))
        if not self._away:
            _log.warning("the collector does not take spans (%s): %d wait", reason, len(self._waiting))
        self._away = True

    def _body(self, spans: list[dict[str, object]]) -> bytes:
        scoped = [{"scope": self._scope, "spans": spans}]
        return orjson.dumps({"resourceSpans": [{"resource": {"attributes": self._resource}, "scopeSpans": scoped}]})

    def _span(self, entry: Entry, parent: re.Match[str] | None) -> dict[str, object]:
        operation = self._names.operation(entry.call.operation)
        begin = int(entry.began_at * 1e9)
        span: dict[str, object] = {
            "traceId": parent[1] if parent is not None else secrets.token_hex(16),
            "spanId": secrets.token_hex(8),
            "name": f"{operation} {entry.call.model[:120]}",
            "kind": _CLIENT,
            "startTimeUnixNano": str(begin),
            "endTimeUnixNano": str(begin + int(entry.duration_s * 1e9)),
            "attributes": [_attribute(name, value) for name, value in self._facts(entry, operation).items()],
        }
        if parent is not None:
            span["parentSpanId"] = parent[2]
        if entry.outcome != "answered":
            span["status"] = {"code": _FAILED, "message": entry.error_code or str(entry.outcome)}
        return span

    def _facts(self, entry: Entry, operation: str) -> dict[str, str | int | float]:
        """What is said of a call: who may read traces may not read prompts, keys or the names of end users."""
        known, call, deployment = self._names.attributes, entry.call, entry.deployment
        facts: dict[str, str | int | float] = {
            known["operation"]: operation,
            known["asked"]: call.model[:120],
            "metier.call": call.id,
            "metier.project": call.principal.project,
            "metier.system": call.principal.system,
            "metier.outcome": str(entry.outcome),
            "metier.tries": entry.tries,
        }
        if call.origin is not None:
            facts |= {"metier.run": call.origin.run, "metier.step": call.origin.path}
        if entry.outcome != "answered":
            facts[known["error"]] = entry.error_code or str(entry.outcome)
        if deployment is not None:
            facts[known["provider"]] = self._names.provider(deployment.provider)
            facts[known["answered"]] = deployment.model_id
            facts |= {"metier.deployment": deployment.id, "metier.cost.eur": float(entry.cost)}
        if entry.usage is not None:
            facts[known["input_tokens"]] = entry.usage.input_tokens
            facts[known["output_tokens"]] = entry.usage.output_tokens
            facts[known["cached_tokens"]] = entry.usage.cached_tokens
        if entry.first_token_s is not None:
            facts["metier.first_token.s"] = entry.first_token_s
        for name, figure in (("energy.kwh", entry.impact.energy_kwh), ("carbon.g", entry.impact.carbon_g)):
            if figure is not None:
                facts |= {f"metier.{name}.low": figure.low, f"metier.{name}.high": figure.high}
        return facts


def endpoint(url: str) -> str:
    """Give where spans go at a collector: its address, with the usual path where none is given."""
    if not url.startswith(("http://", "https://")):
        raise ConfigError("METIER_OTLP_URL is no address of a collector: write http://host:4318")
    host, slash, path = url.partition("://")[2].partition("/")
    return url if slash and path else f"{url.partition('://')[0]}://{host}/v1/traces"


def _attribute(name: str, value: str | int | float) -> dict[str, object]:
    if isinstance(value, str):
        # Names come from clients in part; bytes that are no text would make the whole batch unreadable.
        return {"key": name, "value": {"stringValue": value.encode("utf-8", "replace").decode()}}
    if isinstance(value, int):
        return {"key": name, "value": {"intValue": str(value)}}
    return {"key": name, "value": {"doubleValue": value}}
