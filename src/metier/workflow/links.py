"""Links that e-mails carry: signed, for one person and one task, good for a while, and once."""

from __future__ import annotations

import base64
import hmac
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from metier.calls import new_id
from metier.errors import Conflict, NotFound
from metier.store import Row, Store, Tx
from metier.vault import Vault
from metier.workflow.context import Clock, utc
from metier.workflow.reviewer import Reviewer
from metier.workflow.tasks import Task, TaskId

__all__ = ["LASTS", "Link", "LinkState", "Links"]

LASTS = timedelta(days=3)
"""How long a link is good when nobody uses it."""

_VISIT = timedelta(hours=1)
"""How long the page stays open to who came by a link."""
_TOKEN = re.compile(r"(link_[A-Za-z0-9]{1,60})\.([A-Za-z0-9_-]{20,100})\Z", re.ASCII)

LinkState: TypeAlias = Literal["good", "used", "expired", "over"]


@dataclass(frozen=True, slots=True)
class Link:
    """A link, found by its token."""

    id: str
    task: TaskId
    person: str
    assignee: str
    """For whom the task was when the link was sent."""
    organisation: str
    expires_at: datetime
    used_at: datetime | None
    state: LinkState

    @property
    def reviewer(self) -> Reviewer:
        """Who comes by it: that person, for whom the task was sent, and nobody else."""
        kind, _, name = self.assignee.partition(":")
        groups = frozenset({name}) if kind == "group" else frozenset[str]()
        return Reviewer(self.person, groups, self.id, self.organisation)


class Links:
    """Makes links and takes them back; the database knows which were used."""

    def __init__(self, store: Store, vault: Vault, *, clock: Clock = utc) -> None:
        self._vault = vault
        self._queries = store.queries("links")
        self._clock = clock

    async def make(self, task: Task, person: str, lasts: timedelta = LASTS, tx: Tx | None = None) -> str:
        """Make a link for somebody a task waits for, and give its token."""
        id, now = new_id("link"), self._clock()
        row = {
            "id": id,
            "task": task.id,
            "person": person,
            "assignee": task.assignee,
            "made_at": now,
            "expires_at": now + lasts,
        }
        await self._queries.run("add", row, tx)
        return f"{id}.{self._sign(id)}"

    async def read(self, token: str) -> Link:
        """Find a link by its token, whatever its state; looking changes nothing."""
        found = _TOKEN.match(token)
        if found is None or not hmac.compare_digest(found[2], self._sign(found[1])):
            raise NotFound("this link is none of ours, or it was cut: open the newest e-mail, or sign in")
        return await self._get(found[1])

    async def use(self, token: str) -> Link:
        """Take a link once; the second time, and when it is too old or its task is over, raise Conflict."""
        link = await self.read(token)
        if link.state == "good" and await self._queries.run("use", {"id": link.id, "now": self._clock()}):
            return link
        raise Conflict(f"the link {link.id!r} was used, is too old, or its task is over: sign in to see your tasks")

    async def visiting(self, id: str) -> Link | None:
        """Give the link somebody came by not long ago; None where that is over."""
        try:
            link = await self._get(id)
        except NotFound:
            return None
        return link if link.used_at is not None and link.used_at + _VISIT > self._clock() else None

    async def _get(self, id: str) -> Link:
        row = await self._queries.one("get", {"id": id})
        if row is None:
            raise NotFound("the task of this link is there no more: sign in to see your tasks")
        return Link(
            id=row["id"],
            task=TaskId(row["task"]),
            person=row["person"],
            assignee=row["assignee"],
            organisation=row["organisation"],
            expires_at=row["expires_at"],
            used_at=row["used_at"],
            state=self._state(row),
        )

    def _state(self, row: Row) -> LinkState:
        if row["state"] not in ("open", "claimed") or row["now_for"] != row["assignee"]:
            return "over"
        if row["used_at"] is not None:
            return "used"
        return "good" if row["expires_at"] > self._clock() else "expired"

    def _sign(self, id: str) -> str:
        return base64.urlsafe_b64encode(self._vault.digest("task-link", id.encode())).rstrip(b"=").decode()
