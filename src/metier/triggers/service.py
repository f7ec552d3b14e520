"""The room of triggers in one piece: what is deployed, what surfaces bring, and the worker that runs sources."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Mapping, Sequence

from metier.calls import JSON, Principal
from metier.connectors.mail import ToText
from metier.errors import Invalid, NotAllowed, NotFound
from metier.knowledge.ingest import parsers
from metier.knowledge.parse import Limits, parse
from metier.store import Store
from metier.triggers import asked, form, mailbox, webhook
from metier.triggers.deployment import Deployed, Deployments
from metier.triggers.event import Event, Feed, Mount, SecretsOf, Source, Taken
from metier.triggers.feed import EventLog
from metier.triggers.intake import Intake, Starter, Who
from metier.triggers.kinds import KINDS
from metier.triggers.runner import Haste, Runner
from metier.triggers.uploads import Upload
from metier.vault import Vault
from metier.workflow.context import Clock, utc
from metier.workflow.shape import TriggerKind

__all__ = ["Triggers"]

_PURPOSE = "form"


class Triggers:
    """Starts flows by themselves: one run for each event, whoever brings it and however often."""

    def __init__(
        self,
        store: Store,
        vault: Vault,
        deployments: Deployments,
        intake: Intake,
        mounting: tuple[SecretsOf, Who, str | None, Feed],
        clock: Clock = utc,
    ) -> None:
        self.deployments = deployments
        self.intake = intake
        self._store = store
        self._vault = vault
        self._secrets, self._who, self._ca_file, self._feed = mounting
        self._clock = clock

    @classmethod
    def built(
        cls,
        store: Store,
        vault: Vault,
        starter: Starter,
        who: Who,
        secrets: SecretsOf,
        *,
        ca_file: str | None = None,
        clock: Clock = utc,
    ) -> Triggers:
        """Make the room in one call."""
        deployments = Deployments(store, KINDS, clock)
        intake = Intake(store, vault, starter, who, deployments, clock)
        return cls(store, vault, deployments, intake, (secrets, who, ca_file, EventLog(store, vault)), clock)

    def runner(self, haste: Haste | None = None) -> Runner:
        """Give the worker that runs sources; any number of processes may run one."""
        return Runner(self._store, self.deployments, self.intake, KINDS, self.source, haste)

    async def source(self, trigger: Deployed) -> Source:
        """Make the source of a trigger."""
        kind = KINDS[trigger.kind]
        if kind.open is None:
            raise Invalid(f"a {trigger.kind} trigger has no source: its events are brought to it")
        principal = await self._who(trigger.key_id)
        return kind.open(
            Mount(
                config=trigger.config,
                project=trigger.project,
                organisation=principal.organisation,
                secrets=self._secrets,
                to_text=_to_text(),
                since=trigger.made_at,
                ca_file=self._ca_file,
                feed=self._feed,
                clock=self._clock,
            )
        )

    async def fire(self, id: str, event: Event) -> Taken:
        """Take an event given by hand, as if it had happened."""
        return await self.intake.take(await self.deployments.get(id), event)

    def message(self, data: bytes) -> Event:
        """Make the event that a mailbox would bring of a message as it was received."""
        return mailbox.event_of(data, _to_text())

    async def ask(self, asker: Principal, flow: str, inputs: Mapping[str, JSON], once: str | None = None) -> Taken:
        """Start a flow with an `api` trigger in the asker's project; the same `once` gives the run it has started."""
        found = await self.deployments.list(project=asker.project, flow=flow, kind="api")
        if not found:
            raise NotFound(f"no flow {flow[:80]!r} with an api trigger is deployed in this project")
        return await self._brought(found[0], asked.asked(inputs, once, asker))

    async def hook(self, id: str, delivery: webhook.Delivery) -> Taken:
        """Take what another program has sent and signed; whoever did not sign learns nothing."""
        trigger = await self._open(id, "webhook")
        principal = await self._who(trigger.key_id)
        secret = await self._secrets.get(
            str(trigger.config["secret"]), "webhook", organisation=principal.organisation, project=trigger.project
        )
        return await self._brought(trigger, webhook.verified(secret, delivery, self._clock()))

    def form_path(self, trigger: Deployed) -> str:
        """Give the path of a form; whoever has it may fill the form in."""
        return f"/forms/{trigger.id}/{self._token(trigger.id)}"

    async def form(self, id: str, token: str) -> form.Form:
        """Give the form behind an address."""
        trigger = await self._form(id, token)
        return form.form_of(trigger, await self.deployments.workflow(trigger))

    async def fill(
        self,
        id: str,
        token: str,
        values: Mapping[str, str],
        once: str,
        lang: str = "en",
        uploads: Mapping[str, Sequence[Upload]] | None = None,
    ) -> Taken:
        """Start the run of a form that was filled in; what does not fit is told to the person, and not kept."""
        trigger = await self._form(id, token)
        asked = form.form_of(trigger, await self.deployments.workflow(trigger))
        # Reading files takes a while, and others are served meanwhile.
        event = await asyncio.to_thread(form.filled, asked, values, once, uploads or {}, _to_text(), lang)
        return await self._brought(trigger, event)

    async def _form(self, id: str, token: str) -> Deployed:
        if not hmac.compare_digest(self._token(id).encode(), token.encode("utf-8", "replace")):
            raise NotFound("there is no such form: its address may have been cut short")
        return await self._open(id, "form")

    async def _open(self, id: str, kind: TriggerKind) -> Deployed:
        trigger = await self.deployments.get(id)
        if trigger.kind != kind:
            raise NotFound(f"there is no {kind} {id[:80]!r}")
        return trigger

    async def _brought(self, trigger: Deployed, event: Event) -> Taken:
        if not trigger.enabled:
            raise NotAllowed(f"{trigger.flow!r} takes nothing by its {trigger.kind} now: it is paused")
        if trigger.kind != "webhook":
            # Whoever asks is there to mend it: nothing is kept for later.
            await self.intake.preview(trigger, event)
        taken = await self.intake.take(trigger, event)
        if taken.outcome == "failed" or (taken.outcome == "known" and taken.run is None and taken.error):
            raise Invalid(taken.error)
        return taken

    def _token(self, id: str) -> str:
        return self._vault.digest(_PURPOSE, id.encode("utf-8", "replace")).hex()[:32]


def _to_text() -> ToText:
    limits = Limits()
    readers = parsers(limits)
    return lambda name, content: parse(name, content, readers, limits).text
