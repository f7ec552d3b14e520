"""A program that keeps a worker with an agent alive, while the plan kills it -9 in every dangerous place."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import agents  # noqa: F401  # loaded once before the forks: it takes two seconds
import orjson

from metier.calls import JSON, Answer, Call, CallId, Impact, Receipt, ToolCall, Usage
from metier.store import Store, Tx
from metier.vault import Vault
from metier.workflow.definition import Workflow
from metier.workflow.dispatch import Pace
from metier.workflow.engine import Engine, StepContext
from metier.workflow.journal import Hold, Journal, Line
from metier.workflow.review import TaskDesk
from metier.workflow.steps.agent import AgentSteps
from metier.workflow.steps.tool import Effect
from tests.chaos.supervising import supervise
from tests.workflow.flows import flow, step

PACE = Pace(heartbeat_s=0.1, stall_s=1.5, recover_s=0.1, poll_s=0.1, grace_s=0.3, concurrency=4)
TURNS: tuple[tuple[tuple[str, JSON], ...], ...] = (
    (("stock_look", {"article": 1}), ("stock_look", {"article": 2}), ("stock_book", {"article": 1})),
    (("mail_send", {"to": "ana"}),),
    (("transfer_to_accounts", {}),),
    (("stock_book", {"article": 1}),),
    (),
)
"""What the model asks for, turn by turn; at the end it answers."""


def working() -> Workflow:
    """One agent that looks up, books, asks a person before it writes, hands over, and books again."""
    accounts: JSON = {
        "instructions": "agents/accounts.md", "model": "writer", "tools": ["stock.book"], "approve": [], "handoffs": []
    }  # fmt: skip
    config: JSON = {
        "instructions": "agents/desk.md", "model": "writer", "tools": ["stock.*", "mail.send"],
        "approve": ["mail.send"], "handoffs": {"accounts": accounts}, "max_turns": 8,
    }  # fmt: skip
    it = step("it", "agent", config, with_={"message": "Order two."})
    made = flow(it, output="{{ steps.it }}", name="agent-chaos")
    return replace(made, hash="agent-chaos", files={"agents/desk.md": "Be quick.", "agents/accounts.md": "Count."})


@dataclass(slots=True)
class Deaths:
    """What was planned, and what was written down; files survive the process."""

    folder: pathlib.Path

    def die(self, place: str, point: str) -> None:
        """Kill this very process, once for each place of the plan."""
        mark = self.folder / f"died {place} {point}"
        if [place, point] in json.loads((self.folder / "plan.json").read_text()) and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def write(self, line: str) -> None:
        """Append a line that survives the process."""
        with (self.folder / "log").open("a", encoding="utf-8") as log:
            log.write(line + "\n")

    async def ask(self, call: Call) -> Answer:
        """Answer by how far the conversation has come; "asked" is what reached the model, "paid" what it gave."""
        number = sum(message.role == "assistant" for message in call.messages) + 1
        self.write(f"asked turn.{number}")
        self.die(f"turn.{number}", "asked")
        await asyncio.sleep(0)
        self.write(f"paid turn.{number}")
        self.die(f"turn.{number}", "paid")
        calls = tuple(ToolCall("call_1", name, orjson.dumps(given).decode()) for name, given in TURNS[number - 1])
        usage = Usage(10, 5)
        receipt = Receipt(CallId(call.id), "here", usage, Decimal("0.01"), Impact("not estimated"), 0.0, {})
        return Answer("" if calls else "Done.", calls, "tool_calls" if calls else "stop", usage, receipt)

    async def use(self, effect: Effect, with_: dict[str, JSON]) -> JSON:
        """Have an effect outside, which knows its key and does it once; death may come before and after."""
        name = effect.key.removeprefix(f"{effect.context.run}/it/").replace("/", " ")
        self.die(name, "start")
        made = self.folder / f"effect {name}"
        self.write(f"called {name}")
        if not made.exists():
            made.touch()
            self.write(f"effect {name}")
        self.die(name, "done")
        return {"done": with_}


class DeadlyJournal(Journal):
    """The journal, whose worker dies before or after a line is written."""

    deaths: Deaths

    async def append(self, hold: Hold, lines: Sequence[Line], tx: Tx | None = None) -> bool:
        """Write, or die around it."""
        if not lines:
            return await super().append(hold, lines, tx)
        name = lines[-1].name
        self.deaths.die(name, "unwritten")
        pausing = await super().append(hold, lines, tx)
        self.deaths.die(name, "written")
        return pausing


async def work(url: str, key: str, folder: pathlib.Path) -> None:
    """Be a worker until told to stop by SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    vault, deaths = Vault(bytes.fromhex(key)), Deaths(folder)
    tools = dict.fromkeys(("stock.look", "stock.book", "mail.send"), deaths.use)
    async with Store(url, size=8) as store:
        steps, journal = AgentSteps.built(deaths.ask, {}, tools), DeadlyJournal(store, vault)
        journal.deaths = deaths

        async def deadly(context: StepContext, with_: dict[str, JSON]) -> JSON:
            return await steps(replace(context, _journal=journal), with_)

        engine = Engine(store, vault, {"agent": deadly}, desk=TaskDesk(store, vault), pace=PACE, max_strikes=20)
        await engine.work(stop)


def main(url: str, key: str, folder: str) -> None:
    """Keep a worker alive until this program is told to stop."""
    supervise(lambda: work(url, key, pathlib.Path(folder)), lambda _: None)


if __name__ == "__main__":
    main(*sys.argv[1:])
