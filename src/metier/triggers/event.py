"""The nouns of triggers: an event, a source of events, and what a source is given to work with."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol, TypeAlias

from metier.calls import JSON, OrganisationId, Principal, RunId
from metier.connectors.mail import ToText
from metier.errors import Invalid
from metier.workflow.context import Clock, utc

__all__ = [
    "Emitted",
    "Event",
    "Feed",
    "Kind",
    "Mark",
    "Mount",
    "Outcome",
    "SecretsOf",
    "Source",
    "Taken",
    "only",
    "secret_name",
]

Outcome: TypeAlias = Literal["started", "known", "skipped", "failed"]
"""A run was started; the event had been taken before; `when` did not hold; it became a dead letter."""


_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened outside and may start one run."""

    id: str
    """The same whenever the same event is seen again, after a restart or by another process."""
    data: Mapping[str, JSON]
    """What templates and expressions of the trigger see as `event`."""
    state: JSON = None
    """How far the source has come once this event is settled; None leaves what is kept as it is."""
    fault: str = ""
    """Why it can become no run whatever the flow says, such as a file that is empty."""
    content: bytes = b""
    """What was sent, where two events under one id must be alike."""
    asker: Principal | None = None
    """Who asked for the run with a key of their own, where somebody did: pilots of a release are told by it."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A word of a source that it works, and how far it has come without an event."""

    state: JSON = None


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of an event."""

    outcome: Outcome
    run: RunId | None = None
    error: str = ""


class SecretsOf(Protocol):
    """Named secrets, given to whom they are for."""

    async def get(self, name: str, connector: str, *, organisation: str = "main", project: str | None = None) -> str:
        """Open the secret of a name for a connector."""
        ...


@dataclass(frozen=True, slots=True)
class Emitted:
    """Something a flow has emitted."""

    id: str
    key: str
    data: JSON
    at: datetime


class Feed(Protocol):
    """What flows have emitted."""

    async def emitted(self, project: str, event: str, after: tuple[datetime, str], limit: int) -> Sequence[Emitted]:
        """Give events of a name after a time and an id, in the order of both."""
        ...


class Source(Protocol):
    """Where events of one trigger come from; one process at a time runs it, and it may end anywhere at any time."""

    def events(self, state: JSON) -> AsyncGenerator[Event | Mark, None]:
        """Give events from where `state` says, until closed; each is settled before the next is asked for."""
        ...

    async def settle(self, event: Event, taken: Taken) -> None:
        """Tell the outside that an event was taken, such as by moving a file; again after a crash."""
        ...


@dataclass(frozen=True, slots=True)
class Mount:
    """What a source is given to work with."""

    config: Mapping[str, JSON]
    project: str
    organisation: OrganisationId
    secrets: SecretsOf
    to_text: ToText
    """Turns a named file into text."""
    since: datetime
    """When the trigger was made."""
    ca_file: str | None = None
    """Authorities trusted beside those of the machine."""
    feed: Feed | None = None
    clock: Clock = utc
    sleep: Callable[[float], Awaitable[object]] = field(default=asyncio.sleep)

    async def secret(self, name: str, connector: str) -> str:
        """Open a secret of the project the trigger belongs to."""
        return await self.secrets.get(name, connector, organisation=self.organisation, project=self.project)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of trigger: how its config is checked, and where its events come from."""

    check: Callable[[Mapping[str, JSON]], None]
    """Raises Invalid saying what is wrong in the config, before anything is deployed."""
    open: Callable[[Mount], Source] | None = None
    """Makes its source; None where events are brought by a request or by another flow."""


def secret_name(text: JSON, kind: str) -> str:
    """Give the name of a secret as a trigger says it; what may be the secret itself is refused and never repeated."""
    if not isinstance(text, str) or not _NAME.fullmatch(text) or text.startswith("whsec_"):
        raise Invalid(
            f"the {kind} trigger names its secret by small letters, digits, '.', '_' and '-', such as shop-hook; the "
            f"value itself stands nowhere in a workflow: metier secret set shop-hook --for {kind}"
        )
    return text


def only(config: Mapping[str, JSON], kind: str, needs: tuple[str, ...], may: tuple[str, ...]) -> None:
    """Refuse a config that lacks what it needs or says what the kind does not know."""
    for name in needs:
        if config.get(name) in (None, ""):
            raise Invalid(f"the {kind} trigger needs {name!r}: it says {', '.join(sorted(config)) or 'nothing'}")
    for name in config:
        if name not in (*needs, *may):
            raise Invalid(f"the {kind} trigger knows no {name!r}: it takes {', '.join(sorted((*needs, *may)))}")
