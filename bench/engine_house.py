"""What the benches of the engine share: a house on an embedded PostgreSQL, workflows, counters and tables."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import secrets
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from engine_peers import Meter

from metier.calls import JSON, KeyId, Principal, ProjectId, RunId, SystemId
from metier.postgres import Embedded
from metier.store import Store, create_database
from metier.vault import Vault
from metier.workflow.context import StepFunction
from metier.workflow.definition import Mark, Step, Workflow
from metier.workflow.dispatch import Pace, migrations
from metier.workflow.engine import Engine, StepContext
from metier.workflow.review import Review, Reviewer, TaskDesk

HERE = Mark("bench", 1, 1)
WHO = Principal(KeyId("key_bench"), ProjectId("bench"), SystemId("bench"))
ZOE = Reviewer("zoe", frozenset({"sav"}))


def chain(steps: int) -> Workflow:
    """Trivial steps, each given what the one before it gave."""
    made = tuple(
        Step(f"s{n}", "code", None, HERE, with_={"x": "{{ inputs.x }}" if n == 0 else f"{{{{ steps.s{n - 1}.x }}}}"})
        for n in range(steps)
    )
    output = f"{{{{ steps.s{steps - 1}.x }}}}"
    return Workflow("chain", {"type": "object"}, made, output, None, (), {}, f"chain{steps}", "")


def fan(items: int, width: int) -> Workflow:
    """A step for each of many items, as runs of their own."""
    body = Step("one", "code", None, HERE, with_={"x": "{{ item }}"})
    config: JSON = {"over": "{{ inputs.x }}", "max": items, "concurrency": width, "as": "runs", "each": "{{ index }}"}
    each = Step("each", "foreach", config, HERE, steps=(body,))
    output = "{{ [steps.each.count, steps.each.failed] }}"
    return Workflow("fan", {"type": "object"}, (each,), output, None, (), {}, f"fan{items}-{width}", "")


def asking() -> Workflow:
    """A question to a person, and a step after it."""
    ask = Step("ask", "human", {"assign": "group:sav", "title": "?"}, HERE)
    done = Step("done", "code", None, HERE, with_={"x": 1})
    return Workflow("asking", {"type": "object"}, (ask, done), None, None, (), {}, "asking", "")


async def trivial(context: StepContext, given: dict[str, JSON]) -> JSON:
    """Give back what was given."""
    return {"x": given["x"]}


@dataclass(frozen=True, slots=True)
class House:
    """One engine on one PostgreSQL."""

    store: Store
    key: bytes
    meter: Meter
    postmaster: int

    def engine(self, step: StepFunction = trivial, *, concurrency: int = 10) -> Engine:
        """Make an engine as one worker would."""
        return engine_of(self.store, self.key, step, concurrency)

    def review(self, engine: Engine) -> Review:
        """Make the desk where people decide."""
        return Review(self.store, Vault(self.key), engine)

    def worker(self, file: str, *more: str) -> list[str]:
        """Words after the interpreter that make a process a worker of this house."""
        return [file, "--worker", self.store.url, self.key.hex(), *more]

    async def number(self, statement: str, *values: object) -> float:
        """Ask the database for one number."""
        async with self.store.connection() as connection:
            row = await (await connection.execute(statement.encode(), values)).fetchone()
        assert row is not None
        return float(next(iter(row.values())))


def engine_of(store: Store, key: bytes, step: StepFunction = trivial, concurrency: int = 10) -> Engine:
    """Make an engine on a store."""
    vault = Vault(key)
    return Engine(store, vault, {"code": step}, desk=TaskDesk(store, vault), pace=Pace(concurrency=concurrency))


@contextlib.asynccontextmanager
async def house(size: int = 10) -> AsyncIterator[House]:
    """Start a PostgreSQL of our own with the schema in it, and take it away at the end."""
    home = pathlib.Path(tempfile.mkdtemp(prefix="metier-bench-"))
    embedded = Embedded(home)
    await asyncio.to_thread(embedded.start)
    try:
        await create_database(embedded.url("postgres"), "metier")
        postmaster = embedded.pid()
        assert postmaster is not None
        async with Store(embedded.url(), size=size) as store:
            await store.migrate(migrations())
            yield House(store, secrets.token_bytes(32), Meter(embedded.url(), postmaster), postmaster)
    finally:
        await asyncio.to_thread(embedded.stop)
        shutil.rmtree(home, ignore_errors=True)


async def start(engine: Engine, workflow: Workflow, number: int, who: Principal = WHO, beside: int = 8) -> list[RunId]:
    """Start a number of runs, some at once."""
    found: list[RunId] = []
    left = iter(range(number))

    async def some() -> None:
        for n in left:
            found.append(await engine.start(workflow, {"x": n}, who))

    await asyncio.gather(*(some() for _ in range(beside)))
    return found


async def until(true: Callable[[], Awaitable[bool]], pause_s: float = 0.05, most_s: float = 900.0) -> None:
    """Wait until something is so; look now and then."""
    deadline = time.monotonic() + most_s
    while not await true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so after {most_s:g} s")
        await asyncio.sleep(pause_s)


def spread(figures: Sequence[float]) -> dict[str, JSON]:
    """Give the middle and the long end of some figures."""
    ordered = sorted(figures)
    last = len(ordered) - 1
    return {
        "p50": round(statistics.median(ordered), 1),
        "p95": round(ordered[min(int(len(ordered) * 0.95), last)], 1),
        "most": round(ordered[last], 1),
    }


def told(bench: str, rows: Sequence[tuple[str, object, str]], figures: dict[str, JSON]) -> None:
    """Print a table of what was found beside its bar, then all figures as one line of JSON."""
    wide = max(len(name) for name, _, _ in rows)
    shown = [(name, f"{found}", bar) for name, found, bar in rows]
    across = max(len(found) for _, found, _ in shown)
    for name, found, bar in shown:
        print(f"{name:<{wide}}  {found:>{across}}  {bar}")
    print(json.dumps({"bench": bench, **figures}))
