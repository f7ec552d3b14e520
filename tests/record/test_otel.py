"""Spans as a collector gets them: over real HTTP, with the names of the conventions, without contents."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from metier.calls import Call, ConversationId, KeyId, Message, Principal, ProjectId, SystemId, Usage
from metier.errors import ConfigError, ProviderUnavailable
from metier.record.entry import Entry
from metier.record.otel import TRACEPARENT, Spans, endpoint
from tests.record.test_metrics import DEPLOYMENT, Bin

SECRET = "sk-mt-0123-canary"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@dataclass(slots=True)
class Collector:
    """A receiver of OTLP over HTTP that takes JSON as the protocol lays it down."""

    url: str = ""
    status: int = 200
    spans: list[dict[str, Any]] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    raw: bytes = b""
    asked: int = 0

    async def take(self, request: web.Request) -> web.Response:
        """Check what came and keep it."""
        self.asked += 1
        assert request.content_type == "application/json"
        if self.status != 200:
            return web.Response(status=self.status)
        body = await request.read()
        self.raw += body
        for group in json.loads(body)["resourceSpans"]:
            self.resources.append(values(group["resource"]["attributes"]))
            for scope in group["scopeSpans"]:
                assert scope["scope"]["name"] == "metier"
                self.spans += scope["spans"]
        return web.json_response({"partialSuccess": {}})


@contextlib.asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """Run a collector on a free port."""
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        await runner.cleanup()


def values(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    """Read attributes as the JSON form of OTLP writes them: whole numbers are strings."""
    found: dict[str, Any] = {}
    for attribute in attributes:
        ((kind, value),) = attribute["value"].items()
        found[attribute["key"]] = {"stringValue": str, "intValue": int, "doubleValue": float}[kind](value)
    return found


async def call(spans: Spans, error: Exception | None = None) -> None:
    """Make one call, as far as spans can tell."""
    principal = Principal(KeyId("k"), ProjectId("p"), SystemId("s"), name=SECRET)
    made = Call(
        principal, "writer", messages=(Message("user", "Je suis Claire Lefèvre"),), end_user="alice@example.com",
        conversation=ConversationId("private-talk"),
    )  # fmt: skip
    with contextlib.suppress(ProviderUnavailable):
        async with Entry(made, Bin(), [spans]) as entry:
            entry.deployment = DEPLOYMENT
            if error is not None:
                raise error
            entry.usage = Usage(input_tokens=100, output_tokens=20)
            entry.receipt()


async def test_a_call_is_a_span_with_the_names_of_the_conventions() -> None:
    async with collecting() as collector:
        spans = Spans(collector.url, resource={"service.name": "metier", "service.version": "1"})
        token = TRACEPARENT.set(f"00-{TRACE}-{PARENT}-01")
        await call(spans)
        TRACEPARENT.reset(token)
        await call(spans, ProviderUnavailable(f"the provider says {SECRET}"))
        await spans.flush()
        first, second = collector.spans
        assert (first["traceId"], first["parentSpanId"], first["name"]) == (TRACE, PARENT, "chat writer")
        assert len(first["spanId"]) == 16 and first["kind"] == 3 and "status" not in first
        assert int(first["endTimeUnixNano"]) >= int(first["startTimeUnixNano"]) > 1.7e18
        said = values(first["attributes"])
        assert said["gen_ai.operation.name"] == "chat" and said["gen_ai.provider.name"] == "openai"
        assert (said["gen_ai.request.model"], said["gen_ai.response.model"]) == ("writer", "m-1")
        assert (said["gen_ai.usage.input_tokens"], said["gen_ai.usage.output_tokens"]) == (100, 20)
        assert said["metier.cost.eur"] == pytest.approx(0.00018)
        assert (said["metier.project"], said["metier.system"], said["metier.deployment"]) == ("p", "s", "d1")
        assert second["traceId"] != TRACE and "parentSpanId" not in second
        assert second["status"] == {"code": 2, "message": "provider_unavailable"}
        assert values(second["attributes"])["error.type"] == "provider_unavailable"
        assert collector.resources[0] == {"service.name": "metier", "service.version": "1"}
        for private in (SECRET, "Lefèvre", "alice", "private-talk"):
            assert private.encode() not in collector.raw


@pytest.mark.parametrize(
    "header",
    ["", "garbage", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{PARENT}-01", "\0" * 55],
)
async def test_a_header_that_is_none_begins_a_trace(header: str) -> None:
    async with collecting() as collector:
        spans = Spans(collector.url, resource={})
        token = TRACEPARENT.set(header)
        await call(spans)
        TRACEPARENT.reset(token)
        await spans.flush()
        assert len(collector.spans) == 1 and "parentSpanId" not in collector.spans[0]


async def test_a_client_that_does_not_record_its_trace_is_followed() -> None:
    async with collecting() as collector:
        spans = Spans(collector.url, resource={})
        token = TRACEPARENT.set(f"00-{TRACE}-{PARENT}-00")
        await call(spans)
        TRACEPARENT.reset(token)
        await spans.flush()
        assert not collector.spans


async def test_spans_wait_for_a_collector_that_is_away_and_are_dropped_where_it_refuses() -> None:
    async with collecting() as collector:
        spans = Spans(collector.url, resource={})
        collector.status = 503
        await call(spans)
        await spans.flush()
        assert (collector.asked, spans.sent, spans.dropped) == (1, 0, 0)
        collector.status = 200
        await spans.flush()
        assert (len(collector.spans), spans.sent) == (1, 1)
        collector.status = 400
        await call(spans)
        await spans.close()
        assert (spans.sent, spans.dropped) == (1, 1)
    await call(spans)
    await spans.close()  # nobody is there any more: it ends all the same
    assert spans.dropped == 1


async def test_room_is_bounded() -> None:
    spans = Spans("http://127.0.0.1:9", resource={})
    for _ in range(10_050):
        await call(spans)
    assert spans.dropped == 50


def test_an_address_is_completed_or_refused() -> None:
    assert endpoint("http://collector:4318") == endpoint("http://collector:4318/") == "http://collector:4318/v1/traces"
    assert endpoint("https://collector/otlp/v1/traces") == "https://collector/otlp/v1/traces"
    with pytest.raises(ConfigError):
        endpoint("collector:4317")
