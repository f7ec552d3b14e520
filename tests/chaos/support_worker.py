"""A program that keeps a worker of the real platform alive, while the plan kills it -9 in every dangerous place."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from metier.app import Parts, build
from metier.calls import JSON
from metier.catalog import Catalog
from metier.connectors.smtp import Account, Smtp
from metier.settings import Settings
from metier.store import Store
from metier.workflow.dispatch import Pace
from metier.workflow.engine import StepContext, StepFunction
from tests.chaos.supervising import supervise
from tests.journeys.company import SAMPLE, SENDER

STEP_POINTS = ("start", "done", "left")
"""Before the step does anything; after all it does and before it is journalled; a moment after that."""
MAIL_POINTS = ("before", "claimed", "sent")
"""Before the message is claimed; claimed and nothing on the wire; delivered and not yet noted down."""


@dataclass(slots=True)
class Deaths:
    """What was planned, and what was written down; files survive the process."""

    folder: pathlib.Path
    database_url: str

    def around(self, function: StepFunction) -> StepFunction:
        """Write down each start of a step, and die before and after its work where that is planned."""

        async def watched(context: StepContext, with_: dict[str, JSON]) -> JSON:
            if await self.completed(context):
                self.write(f"repeated {context.path}")
            self.write(f"started {context.path} {context.attempt}")
            self.die(context.path, "start")
            value = await function(context, with_)
            self.die(context.path, "done")
            asyncio.get_running_loop().call_later(0.004, self.die, context.path, "left")
            return value

        return watched

    async def completed(self, context: StepContext) -> bool:
        """Whether the journal already has the result of this very step."""
        query = "SELECT 1 FROM journal WHERE run = %s AND path = %s AND kind = 'result' AND name = ''"
        async with Store(self.database_url, size=1) as store, store.connection() as connection:
            found = await connection.execute(query, (context.run, context.path))
            return await found.fetchone() is not None

    def die(self, path: str, point: str) -> None:
        """Kill this very process, once for each place of the plan."""
        mark = self.folder / f"died {path} {point}"
        if [path, point] in json.loads((self.folder / "plan.json").read_text()) and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def write(self, line: str) -> None:
        """Append a line that survives the process."""
        with (self.folder / "log").open("a", encoding="utf-8") as log:
            log.write(line + "\n")


class DeadlySmtp:
    """Real SMTP whose sender dies around the moment of sending."""

    def __init__(self, account: Account, deaths: Deaths) -> None:
        self._smtp = Smtp(account)
        self._deaths = deaths

    async def transmit(self, message: bytes, commit: Callable[[], Awaitable[None]]) -> None:
        """Hand the message over, or die on the way."""

        async def deadly() -> None:
            self._deaths.die("mail", "before")
            await commit()
            self._deaths.die("mail", "claimed")

        await self._smtp.transmit(message, deadly)
        self._deaths.write("delivered")
        self._deaths.die("mail", "sent")


async def work(site: dict[str, Any]) -> None:
    """Be a worker until told to stop by SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    home, mailbox = pathlib.Path(site["home"]), pathlib.Path(site["mailbox"])
    deaths = Deaths(pathlib.Path(site["folder"]), site["database_url"])
    account = Account("127.0.0.1", site["smtp_port"], starttls=False)

    async def confirm(identity: str) -> bool | None:
        return (mailbox / f"{identity}.eml").exists()

    pace = Pace(
        heartbeat_s=0.1, stall_s=site["stall_s"], recover_s=0.1, poll_s=0.1, grace_s=site["stall_s"] / 2, concurrency=4
    )
    parts = Parts(
        catalog=Catalog.from_yaml(site["models"]), transport=DeadlySmtp(account, deaths), confirm=confirm,
        mail_from=SENDER, customers=SAMPLE / "customers.jsonl", pace=pace, around=deaths.around,
    )  # fmt: skip
    settings = Settings(home=home, config_path=home / "metier.yaml", database_url=site["database_url"])
    async with build(settings, parts) as app:
        await app.engine.work(stop, [app.review.sweep])


def main(path: str) -> None:
    """Keep a worker alive until this program is told to stop."""
    site: dict[str, Any] = json.loads(pathlib.Path(path).read_text())

    def begun(child: int) -> None:
        written = pathlib.Path(site["folder"]) / "worker"
        written.with_suffix(".new").write_text(str(child))
        written.with_suffix(".new").replace(written)

    supervise(lambda: work(site), begun)


if __name__ == "__main__":
    main(sys.argv[1])
