"""A worker with an agent is killed -9 in every turn and tool call: nothing is paid or done twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal

from metier.calls import RunId
from metier.store import Store
from metier.vault import Vault
from metier.workflow.engine import Engine
from metier.workflow.review import Review, Reviewer, TaskDesk
from tests.chaos.agent_worker import TURNS, working
from tests.workflow.flows import WHO

ROOT = pathlib.Path(__file__).parents[2]
ZOE = Reviewer("zoe", everywhere=True)
TURN_NAMES = tuple(f"turn.{number}" for number in range(1, len(TURNS) + 1))
TOOL_NAMES = ("turn.1.tool.1", "turn.1.tool.2", "turn.1.tool.3", "turn.2.tool.1", "turn.4.tool.1")


class Site:
    """A database, a folder for what workers write down, and the people's side."""

    def __init__(self, store: Store, folder: pathlib.Path) -> None:
        key = secrets.token_bytes(32)
        vault = Vault(key)
        self.key, self.store, self.folder = key.hex(), store, folder
        self.engine = Engine(store, vault, {}, desk=TaskDesk(store, vault))
        self.review = Review(store, vault, self.engine)
        self.plan([])

    def plan(self, deaths: Sequence[tuple[str, str]]) -> None:
        (self.folder / "plan.json").write_text(json.dumps(deaths))

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        command = [sys.executable, "-m", "tests.chaos.agent_worker", self.store.url, self.key, str(self.folder)]
        running = subprocess.Popen(command, cwd=ROOT)
        try:
            yield
        finally:
            running.terminate()
            running.wait(60)

    async def until(self, status: str, run: RunId) -> None:
        """Look until the run is there; the limit of the whole test is the only clock."""
        async with asyncio.timeout(540):
            while (found := await self.engine.get(run)).status != status:
                assert not found.over, found
                await asyncio.sleep(0.05)

    async def through(self) -> RunId:
        """Run the flow to its end, with the approval it asks for on the way."""
        run = await self.engine.start(working(), {}, WHO)
        with self.working():
            await self.until("parked", run)
            (task,) = [one for one in await self.review.of_run(run) if one.state == "open"]
            await self.review.decide(task.id, ZOE, {"decision": "approve"})
            await self.until("done", run)
        assert await self.engine.result(run) == {"text": "Done.", "agent": "accounts"}
        return run

    def counts(self, what: str) -> Counter[str]:
        lines = (self.folder / "log").read_text().splitlines()
        return Counter(line.partition(" ")[2] for line in lines if line.partition(" ")[0] == what)

    def marks(self) -> list[pathlib.Path]:
        return [*self.folder.glob("died *")]

    def died(self) -> int:
        return len(self.marks())

    async def done_once(self, run: RunId) -> None:
        """Every turn and tool result stands in the journal once, and every effect was had once."""
        names = Counter(line.name for line in await self.engine.steps(run) if line.kind == "answer")
        assert names == dict.fromkeys([*TURN_NAMES, *TOOL_NAMES], 1)
        effects = self.counts("effect")
        assert len(effects) == 5 and set(effects.values()) == {1}, "booking article 1 again is an effect of its own"
        assert (await self.engine.get(run)).failure is None


async def test_killed_at_every_line_of_the_journal_and_inside_every_model_call(
    store: Store, tmp_path: pathlib.Path
) -> None:
    site = Site(store, tmp_path)
    site.plan([(name, "asked") for name in TURN_NAMES] + [(name, "written") for name in (*TURN_NAMES, *TOOL_NAMES)])
    run = await site.through()
    await site.done_once(run)
    missed = {f"{name} written" for name in TOOL_NAMES} - {one.name.removeprefix("died ") for one in site.marks()}
    # The tools of a turn are used side by side: the death of one may come while the line of another is being kept.
    assert all(name.startswith("turn.1.tool.") for name in missed) and len(missed) < 3
    assert site.died() == 2 * len(TURN_NAMES) + len(TOOL_NAMES) - len(missed)
    assert site.counts("paid") == dict.fromkeys(TURN_NAMES, 1)
    assert site.counts("asked") == dict.fromkeys(TURN_NAMES, 2), "the one in flight is asked again, the others never"
    assert (await site.engine.get(run)).cost_eur == Decimal("0.01") * len(TURN_NAMES)


async def test_killed_inside_every_tool_call(store: Store, tmp_path: pathlib.Path) -> None:
    site = Site(store, tmp_path)
    effects = await _keys(store, tmp_path / "calm")
    site.plan(
        [(key, point) for key in effects for point in ("start", "done")] + [(name, "unwritten") for name in TOOL_NAMES]
    )
    run = await site.through()
    await site.done_once(run)
    assert site.died() == 3 * len(TOOL_NAMES)
    assert site.counts("paid") == dict.fromkeys(TURN_NAMES, 1)


async def test_an_answer_lost_with_its_process_is_the_only_thing_paid_again(
    store: Store, tmp_path: pathlib.Path
) -> None:
    site = Site(store, tmp_path)
    site.plan([("turn.2", "paid"), ("turn.4", "unwritten")])
    await site.done_once(await site.through())
    assert site.counts("paid") == {**dict.fromkeys(TURN_NAMES, 1), "turn.2": 2, "turn.4": 2}


async def _keys(store: Store, folder: pathlib.Path) -> list[str]:
    """What an undisturbed run of the same flow has for effects."""
    folder.mkdir()
    calm = Site(store, folder)
    await calm.done_once(await calm.through())
    return [*calm.counts("effect")]
