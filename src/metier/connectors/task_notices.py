"""Tells people by e-mail what is new about their tasks: each event once, in few letters, each with its own link."""

from __future__ import annotations

import asyncio
import contextlib
import email.policy
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TypeAlias

import psycopg

from metier.calls import JSON
from metier.connectors.effects import Commit, Deed, Doubt, Effects
from metier.connectors.outbox import Transport, message_id
from metier.connectors.people import Colleague, People, people
from metier.connectors.task_letters import News, letter
from metier.errors import ConfigError, Invalid, MetierError, NotFound
from metier.store import Row, Store, Tx
from metier.vault import Vault
from metier.workflow.context import Clock, utc
from metier.workflow.review import Review, Reviewer
from metier.workflow.tasks import Task, TaskId, barred, contents

__all__ = ["NOTICE", "Carrier", "TaskNotices"]

NOTICE = "task.notice"
"""What the outbox calls these letters; nobody is asked to settle one that is in doubt."""

Carrier: TypeAlias = tuple[Transport | None, str | None]
"""What carries e-mails of the house, and their sender."""

_EVERY_S = 5.0
_WINDOW = timedelta(minutes=10)
_LEASE = timedelta(minutes=5)
_FIRST = timedelta(seconds=30)
_LONGEST = timedelta(hours=1)
_OLD = timedelta(days=2)
_EVENTS = 500
_LETTERS = 50
_LINKS = 20

_log = logging.getLogger(__name__)


class TaskNotices:
    """Sends notices of tasks; any number of workers may do it at any time, and each letter leaves once."""

    def __init__(self, store: Store, vault: Vault, review: Review, *, clock: Clock = utc) -> None:
        self._store = store
        self._vault = vault
        self._review = review
        self._clock = clock
        self._queries = store.queries("notices")
        self._effects = Effects(store, vault)
        self._people = People()
        self._carrier: Carrier = (None, None)

    @classmethod
    def built(
        cls, store: Store, vault: Vault, review: Review, section: object, carrier: Carrier, lang: str
    ) -> TaskNotices:
        """Make the notices of a house in one call, with the section `review` of metier.yaml."""
        made = cls(store, vault, review)
        made.use(made.read(section, carrier, lang), carrier)
        return made

    @staticmethod
    def read(section: object, carrier: Carrier, lang: str) -> People:
        """Read the section `review`, or refuse it; nothing changes yet."""
        found = people(section, lang)
        if found.known and (carrier[0] is None or not carrier[1]):
            raise ConfigError("review.people needs a mail server: set METIER_SMTP_URL and METIER_MAIL_FROM")
        return found

    def use(self, found: People, carrier: Carrier) -> None:
        """Put people and what carries e-mails in force."""
        self._people, self._carrier = found, carrier

    @property
    def people(self) -> People:
        """Who hears of tasks, as it is in force now."""
        return self._people

    async def work(self, stop: asyncio.Event, every_s: float = _EVERY_S) -> None:
        """Send what is new again and again until asked to stop."""
        while not stop.is_set():
            try:
                await self.once()
            except (MetierError, psycopg.Error) as error:
                _log.warning("notices of tasks could not be sent (%s): again in %g s", error, every_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), every_s)

    async def once(self) -> int:
        """Find who hears of what is new, put it into letters, send those; gives how many have left."""
        await self._address()
        await self._plan()
        return await self._send()

    async def _address(self) -> None:
        async with self._store.transaction() as tx:
            await self._queries.one("alone", {}, tx)
            rows = await self._queries.all("fresh", {"limit": _EVENTS}, tx)
            standing = {
                one.name: await self._review.absences.standing(_reviewer(one))
                for one in (self._people.known.values() if rows else ())
            }
            for row in rows:
                heard = [] if row["at"] < self._clock() - _OLD else self._hearing(row, standing)
                await self._queries.run("address", {"event": row["event"], "people": heard}, tx)

    def _hearing(self, row: Row, standing: Mapping[str, Reviewer]) -> list[str]:
        """Who hears of an event: for whom the task is now and who may decide it, without who did it."""
        if not standing or row["state"] not in ("open", "claimed"):
            return []
        payload = contents(self._vault, row)
        found = []
        for name, reviewer in standing.items():
            theirs = reviewer.organisation == row["organisation"] and reviewer.may(row["assignee"])
            taken = row["claimed_by"] not in (None, name)
            if theirs and not taken and name != row["by_name"] and barred(row, payload, reviewer) is None:
                found.append(name)
        return found

    async def _plan(self) -> None:
        now = self._clock()
        async with self._store.transaction() as tx:
            await self._queries.one("alone", {}, tx)
            for row in await self._queries.all("waiting", {"since": now - _WINDOW}, tx):
                events: Sequence[int] = row["events"]
                if row["letters"] + len(events) <= self._people.letters:
                    for event in events:
                        await self._put(tx, row["recipient"], [event], digest=False)
                elif not row["digest"]:
                    await self._put(tx, row["recipient"], events, digest=True)

    async def _put(self, tx: Tx, recipient: str, events: Sequence[int], *, digest: bool) -> None:
        row = {
            "letter": f"notice/{events[0]}/{recipient}",
            "recipient": recipient,
            "events": [*events],
            "digest": digest,
            "now": self._clock(),
        }
        await self._queries.run("plan", row, tx)

    async def _send(self) -> int:
        now, left = self._clock(), 0
        taken = await self._queries.all("take", {"now": now, "until": now + _LEASE, "limit": _LETTERS})
        for row in {row["letter"]: row for row in sorted(taken, key=lambda row: int(row["event"]))}.values():
            place = {"letter": row["letter"], "recipient": row["recipient"]}
            try:
                over = await self._leave(row)
            except Invalid as error:
                over = type(error).__name__
            except MetierError as error:
                _log.warning("the notice %s could not be sent: %s", row["letter"], error)
                wait = min(_FIRST * 2 ** min(row["tries"] - 1, 10), _LONGEST)
                await self._queries.run("later", {**place, "next_at": now + wait})
                continue
            if over:
                await self._queries.run("give_up", {**place, "error": over})
            else:
                await self._queries.run("sent", {**place, "now": self._clock()})
                left += 1
        return left

    async def _leave(self, row: Row) -> str:
        """Send one letter; what was written down first is what leaves. Gives why there is nothing to send."""
        transport, sender = self._carrier
        to = self._people.known.get(row["recipient"])
        if transport is None or not sender or to is None:
            return "gone"
        if row["planned_at"] < self._clock() - _OLD:
            return "late"
        key, content = str(row["letter"]), b""
        name = message_id(key, sender.rsplit("@", 1)[-1].strip("> "))
        if await self._effects.state(key) is None:
            content = await self._written(row, to, sender, name)
            if not content:
                return "over"

        async def transmit(kept: bytes, _: str, commit: Commit) -> JSON:
            await transport.transmit(kept, commit)
            return None

        deed = Deed(NOTICE, "", content, transmit, _arrived, name, f"the notice {key!r}")
        await self._effects.once(key, deed, to.organisation)
        return ""

    async def _written(self, row: Row, to: Colleague, sender: str, name: str) -> bytes:
        told = await self._queries.all("told", {"letter": row["letter"], "recipient": row["recipient"]})
        latest = {str(one["task"]): one for one in told}
        news: list[News] = []
        for id, one in latest.items():
            task = await self._waiting(TaskId(id), to)
            if task is None:
                continue
            link = f"/review/links/{await self._review.links.make(task, to.name)}" if len(news) < _LINKS else ""
            news.append(News(task, one["kind"], one["by_name"], link))
        if not news:
            return b""
        message = letter(sender, to, self._people, news, len(told))
        message["Message-ID"] = f"<{name}>"
        return message.as_bytes(policy=email.policy.SMTP)

    async def _waiting(self, id: TaskId, to: Colleague) -> Task | None:
        """Give a task that still waits for somebody."""
        try:
            task = await self._review.get(id, _reviewer(to))
        except NotFound:
            return None
        return task if task.state in ("open", "claimed") else None


def _reviewer(one: Colleague) -> Reviewer:
    return Reviewer(one.name, one.groups, None, one.organisation)


async def _arrived(_: Doubt) -> bool | None:
    """What may have arrived is not sent again: a reminder comes anyway, and nobody is asked to look for it."""
    return True
