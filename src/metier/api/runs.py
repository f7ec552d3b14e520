"""Runs over HTTP, in the project of the key: look at them, pause, cancel, do again, fork, look back, delete."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Protocol

import orjson
from pydantic import AwareDatetime, TypeAdapter, ValidationError
from starlette.routing import BaseRoute, Route

from metier.api.endpoint import Endpoint
from metier.api.overseeing import overseeing
from metier.api.run_bodies import ForkBody, ManyBody, MoveBody, PlanBody, RetryBody, read, statuses
from metier.api.surface import Door, Surface
from metier.api.transfer import Asking, listed
from metier.calls import JSON, Principal, RunId, new_id
from metier.errors import Invalid, NotFound
from metier.guardrails.pii import Table, hide
from metier.record.erasure import Target
from metier.triggers.askers import Askers
from metier.vault import Vault, member
from metier.workflow.context import plain
from metier.workflow.cutting import Cut, with_models
from metier.workflow.definition import Workflow, accept
from metier.workflow.engine import Run
from metier.workflow.looking import Chosen
from metier.workflow.operations import Moving
from metier.workflow.rerun import Again, Many, Platform, Rerun

__all__ = ["RunServices", "RunsPages", "run_routes"]

_SURFACE: Final = "admin"
_MOMENT: Final[TypeAdapter[datetime]] = TypeAdapter(AwareDatetime)


class RunServices(Platform, Protocol):
    """What runs over HTTP need of the platform."""

    @property
    def keys(self) -> Door:
        """Who is calling."""
        ...

    @property
    def vault(self) -> Vault:
        """Names people by digests."""
        ...


def run_routes(app: RunServices) -> list[BaseRoute]:
    """List the paths of runs; they take the keys that open the pages of people."""
    keys, made = Surface(app.keys, _SURFACE), RunsPages(app)
    one = "/v1/runs/{id}"
    return [
        Route("/v1/runs", Endpoint(keys, made.several, Asking), methods=["GET", "DELETE"]),
        Route(one, Endpoint(keys, made.one, Asking), methods=["GET"]),
        Route(f"{one}/moment", Endpoint(keys, made.moment, Asking), methods=["GET"]),
        Route(f"{one}/differences", Endpoint(keys, made.differences, Asking), methods=["GET"]),
        Route(f"{one}/pause", Endpoint(keys, made.pause, Asking), methods=["POST"]),
        Route(f"{one}/unpause", Endpoint(keys, made.unpause, Asking), methods=["POST"]),
        Route(f"{one}/resume", Endpoint(keys, made.resume, Asking), methods=["POST"]),
        Route(f"{one}/cancel", Endpoint(keys, made.cancel, Asking), methods=["POST"]),
        Route(f"{one}/retry", Endpoint(keys, made.retry, Asking), methods=["POST"]),
        Route(f"{one}/fork", Endpoint(keys, made.fork, Asking), methods=["POST"]),
        Route("/v1/reruns", Endpoint(keys, made.again, Asking), methods=["POST"]),
        Route("/v1/plans", Endpoint(keys, made.plan, Asking), methods=["POST"]),
    ]


class RunsPages:
    """Answers requests about runs: how they stand to every key of their project, all else to its group admins."""

    def __init__(self, app: RunServices) -> None:
        self._app = app

    async def several(self, exchange: Asking, principal: Principal) -> None:
        """GET and DELETE /v1/runs: the runs of the project, newest first; delete those of a person, or old ones."""
        if exchange.method == "DELETE":
            await self._erase(exchange, principal)
            return
        asked = exchange.query("flow", "status", "code", "since", "until", "after", "limit")
        limit = exchange.number(asked, "limit", 20, 100)
        for name in ("flow", "after"):
            if not asked.get(name, "").isprintable():
                raise Invalid(f"{name} is {asked[name][:60]!r}: write it in letters", param=name)
        chosen = Chosen(
            workflow=asked.get("flow"),
            project=principal.project,
            statuses=statuses(asked.get("status")),
            code=asked.get("code"),
            since=_moment(asked, "since"),
            until=_moment(asked, "until"),
            before=RunId(asked["after"]) if asked.get("after") else None,
            limit=limit + 1,
        )
        await exchange.json(listed([_run(run) for run in await self._app.engine.search(chosen)], limit))

    async def one(self, exchange: Asking, principal: Principal) -> None:
        """GET /v1/runs/{id}: how a run stands, with its steps without what they were given and gave."""
        exchange.query()
        run = await self._mine(exchange, principal)
        steps = [
            {
                "path": step.path, "attempt": step.attempt, "name": step.name, "kind": step.kind, "calls": step.calls,
                "cost_eur": float(step.cost_eur), "started_at": _at(step.started_at), "ended_at": _at(step.ended_at),
            }
            for step in await self._app.engine.steps(run.id)
        ]  # fmt: skip
        below = [_run(child) for child in await self._app.engine.below(run.id)]
        aside = [{"retry": cut, "path": entry.path} for cut, entry in await self._app.operations.history(run.id)]
        await exchange.json(orjson.dumps({**_run(run), "steps": steps, "below": below, "set_aside": aside}))

    async def moment(self, exchange: Asking, principal: Principal) -> None:
        """GET /v1/runs/{id}/moment: the values of a run after a line of its journal, personal data masked."""
        asked = exchange.query("line")
        run = await self._minded(exchange, principal)
        line = None if "line" not in asked else exchange.number({"line": asked["line"]}, "line", 1, 1_000_000)
        then, table = await self._app.operations.at(run.id, line), Table()
        told: dict[str, JSON] = {
            "object": "run.moment",
            "run": run.id,
            "line": then.line,
            "lines": then.lines,
            "path": None if then.last is None else then.last.path,
            "values": {path: hide(plain(value), table) for path, value in then.values.items()},
            "next": [*then.next],
            "cost_eur": then.cost_eur,
        }
        await exchange.json(orjson.dumps(told))

    async def differences(self, exchange: Asking, principal: Principal) -> None:
        """GET /v1/runs/{id}/differences: where the steps of a run and of another one gave something else, masked."""
        asked = exchange.query("with")
        here = await self._minded(exchange, principal)
        there, table = await self._of(RunId(asked.get("with", "")), principal), Table()
        found = [
            {
                "path": one.path, "here": hide(plain(one.here), table), "there": hide(plain(one.there), table),
                "here_kind": one.here_kind, "there_kind": one.there_kind,
            }
            for one in await self._app.operations.differences(here.id, there.id)
        ]  # fmt: skip
        await exchange.json(orjson.dumps({"object": "run.differences", "data": found}))

    async def pause(self, exchange: Asking, principal: Principal) -> None:
        """POST /v1/runs/{id}/pause: make a run and those below it stand still at their next boundary."""
        await self._move(exchange, principal, "pause")

    async def unpause(self, exchange: Asking, principal: Principal) -> None:
        """POST /v1/runs/{id}/unpause: let a paused run and those below it go on."""
        await self._move(exchange, principal, "unpause")

    async def resume(self, exchange: Asking, principal: Principal) -> None:
        """POST /v1/runs/{id}/resume: let a failed or dead run go on from where it stopped."""
        await self._move(exchange, principal, "resume")

    async def cancel(self, exchange: Asking, principal: Principal) -> None:
        """POST /v1/runs/{id}/cancel: end a run and those below it, whatever they do."""
        await self._move(exchange, principal, "cancel")

    async def retry(self, exchange: Asking, principal: Principal) -> None:
        """POST /v1/runs/{id}/retry: do a run again from a step; what came before holds and is not paid again."""
        run, body = await self._minded(exchange, principal), await read(exchange, RetryBody)
        if body is not None:
            cut = await self._app.operations.retry(run.id, body.step, principal.name, dry_run=body.dry_run)
            await self._cut(exchange, run.id, cut)

    async def fork(self, exchange: Asking, principal: Principal) -> None:
        """POST /v1/runs/{id}/fork: start another run with a release or other models; what is the same is kept."""
        run, body = await self._minded(exchange, principal), await read(exchange, ForkBody)
        if body is None:
            return
        operations = self._app.operations
        workflow = await self._release(body.release, principal) or await self._app.engine.definition(run.id)
        if body.models:
            workflow = with_models(workflow, body.models)
        if body.dry_run:
            await self._cut(exchange, run.id, await operations.reuse(run.id, workflow, afresh=body.afresh))
            return
        once = body.once or new_id("fork")
        await Askers(self._app.store).note(principal, run.project, workflow.name, once)
        made, cut = await operations.fork(run.id, workflow, afresh=body.afresh, dedupe=once, window=body.window)
        await self._cut(exchange, made, cut)

    async def again(self, exchange: Asking, principal: Principal) -> None:
        """POST /v1/reruns: do many runs of the project again, or say how many that is and the most it can cost."""
        overseeing(principal)
        body = await read(exchange, ManyBody)
        if body is None:
            return
        workflow = await self._release(body.release, principal)
        again = Again(body.how, body.step, workflow, body.models, body.label, body.window)
        rerun, chosen = Rerun.on(self._app), body.chosen(principal.project)
        if body.dry_run:
            found = await rerun.foresee(chosen, again)
        else:
            most = None if body.at_most_eur is None else Decimal(str(body.at_most_eur))
            asks = functools.partial(Askers(self._app.store).note, principal)
            found = await rerun.do(chosen, again, principal.name, at_most_eur=most, asks=asks)
        await exchange.json(orjson.dumps({**_many(found), "dry_run": body.dry_run}))

    async def plan(self, exchange: Asking, principal: Principal) -> None:
        """POST /v1/plans: what runs of a released flow may take: least, expected and worst case."""
        overseeing(principal)
        body = await read(exchange, PlanBody)
        if body is None:
            return
        workflow = await self._app.releases.resolve(body.flow, principal.project)
        inputs = None if body.inputs is None else accept(workflow, body.inputs)
        found = await Rerun.on(self._app).foresight.of(workflow, inputs, principal.project)
        told: dict[str, JSON] = {
            "object": "plan",
            "flow": workflow.name,
            "runs": body.runs,
            "earlier_runs": found.history_runs,
            "least": found.least.times(body.runs).data(),
            "expected": found.expected.times(body.runs).data(),
            "most": found.most.times(body.runs).data(),
            "held_eur": float(found.held_eur * body.runs),
            "notes": [*found.notes],
        }
        await exchange.json(orjson.dumps(told))

    async def _move(self, exchange: Asking, principal: Principal, what: Moving) -> None:
        run, body = await self._minded(exchange, principal), await read(exchange, MoveBody)
        if body is None:
            return
        operations, engine = self._app.operations, self._app.engine
        if body.dry_run:
            would = [_run(one) for one in await operations.touched(run.id, what)]
            await exchange.json(orjson.dumps({**_run(run), "dry_run": True, "would": would}))
            return
        if what == "pause":
            await operations.pause(run.id)
        elif what == "unpause":
            await operations.unpause(run.id)
        else:
            await (operations.resume(run.id) if what == "resume" else engine.cancel(run.id))
        await exchange.json(orjson.dumps({**_run(await engine.get(run.id)), "dry_run": False}))

    async def _erase(self, exchange: Asking, principal: Principal) -> None:
        overseeing(principal)
        asked = exchange.query("person", "older_than_days", "dry_run", "reason")
        if ("person" in asked) == ("older_than_days" in asked) or asked.get("dry_run", "false") not in (
            "true", "false",
        ):  # fmt: skip
            raise Invalid("say which runs: person, or older_than_days; and dry_run=true or false", param="person")
        dry, operations = asked.get("dry_run") == "true", self._app.operations
        if "person" in asked:
            target = Target(
                principal.organisation, person=member(self._app.vault, principal.organisation, asked["person"])
            )
            reason = asked.get("reason") or f"asked for over HTTP, in the project {principal.project}"
            count = await operations.people.erase_alone(target, principal.name, reason, dry, principal.project)
        else:
            days = exchange.number(asked, "older_than_days", 365, 36_500)
            count = sum(one.runs for one in await operations.erase_older(principal.project, days, dry_run=dry))
        await exchange.json(orjson.dumps({"object": "run.erasure", "runs": count, "dry_run": dry}))

    async def _release(self, reference: str | None, principal: Principal) -> Workflow | None:
        return None if reference is None else await self._app.releases.resolve(reference, principal.project)

    async def _cut(self, exchange: Asking, run: RunId, cut: Cut) -> None:
        told = {
            "kept": list(cut.holding),
            "kept_calls": cut.kept_calls,
            "kept_eur": cut.kept_eur,
            "aside": list(cut.redone),
            "first": list(cut.first),
            "outward": list(cut.outward),
        }
        await exchange.json(orjson.dumps({**_run(await self._app.engine.get(run)), "cut": told}))

    async def _minded(self, exchange: Asking, principal: Principal) -> Run:
        """The run, where the key may see its contents and move it."""
        run = await self._mine(exchange, principal)
        overseeing(principal)
        return run

    async def _mine(self, exchange: Asking, principal: Principal) -> Run:
        return await self._of(RunId(exchange.target), principal)

    async def _of(self, run: RunId, principal: Principal) -> Run:
        unknown = NotFound(f"there is no run {run[:80]!r} that this key may see")
        if not run.isprintable():
            raise unknown
        try:
            found = await self._app.engine.get(run)
        except NotFound:
            raise unknown from None
        if found.project != principal.project:
            raise unknown
        return found


def _run(run: Run) -> dict[str, Any]:
    failure = run.failure
    error = failure and {
        "code": failure.code,
        "step": failure.path,
        "message": hide(failure.message, Table()),
    }
    return {
        "id": run.id,
        "object": "run",
        "flow": run.workflow,
        "definition": run.definition,
        "status": run.status,
        "outcome": run.outcome,
        "parent": run.parent,
        "forked_from": run.forked_from,
        "paused_at": _at(run.paused_at),
        "waits_on": run.parked_on,
        "wake_at": _at(run.wake_at),
        "hours": run.hours,
        "opens_at": _at(run.opens_at),
        "error": error,
        "cost_eur": float(run.cost_eur),
        "created_at": _at(run.created_at),
        "finished_at": _at(run.finished_at),
    }


def _many(found: Many) -> dict[str, JSON]:
    return {
        "object": "rerun",
        "label": found.label,
        "able": len(found.able),
        "most_eur": float(found.most_eur),
        "unpriced": found.unpriced,
        "has_more": found.more,
        "data": [
            {
                "run": one.run, "flow": one.workflow, "status": one.status, "why_not": one.why_not or None,
                "first": [*one.first], "outward": [*one.outward], "goes_on_as": one.made,
                "most_eur": None if one.most_eur is None else float(one.most_eur),
            }
            for one in found.runs
        ],
    }  # fmt: skip


def _moment(asked: Mapping[str, str], name: str) -> datetime | None:
    if name not in asked:
        return None
    try:
        return _MOMENT.validate_python(asked[name].replace(" ", "+"))
    except ValidationError:
        raise Invalid(
            f"{name} is {asked[name][:60]!r}: write a time like 2026-08-03T08:00:00+02:00", param=name
        ) from None


def _at(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
