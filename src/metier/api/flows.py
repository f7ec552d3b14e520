"""POST and GET /v1/flows/{flow}/runs: programs start a deployed flow, and read how its run stands."""

from __future__ import annotations

from typing import Any, Protocol

import orjson
from starlette.types import Receive, Scope, Send

from metier.api.exchange import Exchange
from metier.api.parsing import load, refuse_unknown
from metier.calls import JSON, Principal, RunId
from metier.errors import Invalid, NotFound
from metier.triggers import Taken, Triggers
from metier.workflow.engine import Engine, Run

__all__ = ["Callers", "FlowRun", "FlowRuns"]

_BODY_LIMIT = 1024 * 1024


class Callers(Protocol):
    """Says who is calling."""

    async def authenticate(self, secret: str) -> Principal:
        """Find the principal behind a key, or raise NotAuthenticated."""
        ...


class FlowRuns:
    """POST /v1/flows/{flow}/runs: start a flow that has an `api` trigger in the project of the key."""

    def __init__(self, triggers: Triggers, keys: Callers) -> None:
        self._triggers = triggers
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        flow: str = scope["path_params"]["flow"]
        once = dict(scope["headers"]).get(b"idempotency-key")
        await Exchange(scope, receive, send).run(lambda exchange: self._handle(exchange, flow, once))

    async def _handle(self, exchange: Exchange, flow: str, once: bytes | None) -> None:
        principal = await self._keys.authenticate(exchange.secret())
        data = await exchange.body(_BODY_LIMIT)
        if data is None:
            return
        raw = load(data)
        refuse_unknown(raw, ("inputs",), (), {})
        inputs: JSON = raw.get("inputs", {})
        if not isinstance(inputs, dict):
            raise Invalid(f"inputs is a JSON {type(inputs).__name__}: send an object", param="inputs")
        key = None if once is None else once.decode("latin-1")
        taken = await self._triggers.ask(principal, flow, inputs, key)
        await exchange.json(orjson.dumps(_taken(flow, taken)), status=202 if taken.run else 200)


class FlowRun:
    """GET /v1/flows/{flow}/runs/{run}: how a run stands, and what it gave."""

    def __init__(self, triggers: Triggers, engine: Engine, keys: Callers) -> None:
        self._triggers = triggers
        self._engine = engine
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        flow, run = scope["path_params"]["flow"], RunId(scope["path_params"]["run"])
        await Exchange(scope, receive, send).run(lambda exchange: self._handle(exchange, flow, run))

    async def _handle(self, exchange: Exchange, flow: str, run: RunId) -> None:
        principal = await self._keys.authenticate(exchange.secret())
        unknown = NotFound(f"{flow[:80]!r} has no run {run[:80]!r} that this key may see")
        if not await self._triggers.deployments.list(project=principal.project, flow=flow, kind="api"):
            raise unknown
        if not run.isprintable():
            raise unknown
        try:
            found = await self._engine.get(run)
        except NotFound:
            raise unknown from None
        if found.project != principal.project or found.workflow != flow:
            raise unknown
        output = await self._engine.result(run) if found.status == "done" else None
        await exchange.json(orjson.dumps(_run(found, output)))


def _taken(flow: str, taken: Taken) -> dict[str, JSON]:
    return {"id": taken.run, "object": "run", "flow": flow, "outcome": taken.outcome}


def _run(run: Run, output: JSON) -> dict[str, Any]:
    failure = run.failure
    return {
        "id": run.id,
        "object": "run",
        "flow": run.workflow,
        "status": run.status,
        "outcome": run.outcome,
        "output": output,
        "error": None if failure is None else {"code": failure.code, "step": failure.path},
        "cost_eur": float(run.cost_eur),
        "created_at": int(run.created_at.timestamp()),
        "finished_at": None if run.finished_at is None else int(run.finished_at.timestamp()),
    }
