"""Makes each part of the platform once and hands it on: the only place that knows them all."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import pathlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from metier import gauges
from metier.admitting import admitting
from metier.background import every, kept_going
from metier.batches import Batches
from metier.calls import Call, Origin, Principal, Purpose, new_id
from metier.catalog import Catalog
from metier.connectors.customers import Customers
from metier.connectors.deliveries import Deliveries
from metier.connectors.outbox import Confirm, Outbox, Transport
from metier.connectors.smtp import Smtp, account_from_url
from metier.connectors.task_notices import TaskNotices
from metier.connectors.tools import Toolbox, tools
from metier.errors import ConfigError, NotFound
from metier.gateway import Gateway
from metier.governance.erasure import reach
from metier.governance.master_key import vouch
from metier.governance.register import ADMITTED, Register
from metier.guardrails.base import Chain, Guardrail
from metier.guardrails.pii import PersonalData
from metier.knowledge.embedding import Embed, Embedder, Vectors, stacked
from metier.knowledge.ingest import Ingest
from metier.knowledge.retrieve import Retrieve
from metier.owners import Owners
from metier.policy.admission import Admission
from metier.policy.constraints import Constraints
from metier.policy.keys import Keys
from metier.policy.leases import forgetting
from metier.providers.base import Counter, Provider
from metier.providers.builtin import built_in
from metier.record.ledger import Ledger
from metier.record.metrics import Metrics
from metier.record.otel import Spans
from metier.record.records import Records
from metier.record.responses import StoredResponses
from metier.reload import Configured, Reload, Roles, roles_of
from metier.reuse import cache, only_exact
from metier.sections import mail, sections
from metier.settings import Settings, read_config
from metier.store import Store
from metier.tries import Tries
from metier.tuning.call_labels import CallLabels
from metier.tuning.classifier import Classifiers
from metier.vault import Vault, master_key_file
from metier.vitals import Vitals
from metier.ways import Ways, typical_carbon
from metier.workflow.definition import Kind
from metier.workflow.dispatch import Pace, migrations
from metier.workflow.engine import Engine, StepContext, StepFunction
from metier.workflow.operations import Operations
from metier.workflow.releases import Called, Releases, Told
from metier.workflow.review import Review, TaskDesk
from metier.workflow.steps import step_functions
from metier.workflow.steps.agent import AgentParts
from metier.workflow.steps.agent_flows import FlowCalls
from metier.workflow.steps.agent_memory import Memory
from metier.workflow.steps.handed import Extract

__all__ = ["DEFAULT_ROLES", "App", "Parts", "build"]

_log = logging.getLogger(__name__)
_SWEEP_S = 6 * 3600
_LOOK_S = 10.0

DEFAULT_ROLES: Mapping[str, str] = {"writer": "writer", "judge": "judge", "embedder": "embedder"}
"""What workflows mean by a role where metier.yaml does not say."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What may be put in place of the usual parts: by tests, and by the demonstration."""

    providers: Mapping[str, Provider] = dataclasses.field(default_factory=dict)
    """Providers by name, added to or replacing the built-in ones."""
    catalog: Catalog | None = None
    transport: Transport | None = None
    """How e-mails leave; None sends them to METIER_SMTP_URL."""
    confirm: Confirm | None = None
    """Asks whether an e-mail was delivered; None means it cannot be known."""
    customers: pathlib.Path | None = None
    mail_from: str | None = None
    pace: Pace | None = None
    guardrails: Sequence[Guardrail] = ()
    """Further guardrails, after the masking of personal data, which always comes first."""
    roles: Mapping[str, str] | None = None
    around: Callable[[StepFunction], StepFunction] = lambda step: step
    """Put around every step function: by tests that count steps, or that die inside them."""
    loading: Callable[[str, float], None] = lambda model, seconds: None
    """Told while a local model is being loaded: name and seconds so far."""


@dataclass(frozen=True, slots=True)
class App:
    """The platform, built: every part surfaces may use."""

    settings: Settings
    store: Store
    vault: Vault
    roles: Mapping[str, str]
    register: Register
    keys: Keys
    admission: Admission
    ledger: Ledger
    records: Records
    gateway: Gateway
    metrics: Metrics
    spans: Spans | None
    reload: Reload
    vitals: Vitals
    personal_data: PersonalData
    classifiers: Classifiers
    engine: Engine
    operations: Operations
    review: Review
    notices: TaskNotices
    releases: Releases
    deliveries: Deliveries
    outbox: Outbox | None
    toolbox: Toolbox
    conversations: Memory
    responses: StoredResponses
    batches: Batches

    @property
    def catalog(self) -> Catalog:
        """The models in force now."""
        return self.gateway.ways.catalog

    def remarks(self) -> Mapping[str, object]:
        """Say what people should know although calls are served."""
        return {**self.vitals.remarks(), **self.reload.remarks()}

    def embed(self, principal: Principal, origin: Origin | None = None) -> Embed:
        """Give a function that embeds texts in somebody's name, by the one road; `origin` is the step it is for."""
        model = self.roles["embedder"]

        async def embed(texts: Sequence[str], purpose: Purpose) -> Vectors:
            call = Call(principal, model, operation="embed", inputs=tuple(texts), purpose=purpose, origin=origin)
            answer = await self.gateway.collect(call)
            return stacked(answer.vectors)

        return embed

    def embedder(self, principal: Principal, origin: Origin | None = None) -> Embedder | None:
        """Give the embedding model as the knowledge room sees it; None where none is declared."""
        name = self.roles["embedder"]
        if name not in self.catalog.names():
            return None
        return Embedder(self.catalog.model(name).deployments[0].model_id, self.embed(principal, origin))

    def ingest(self, principal: Principal) -> Ingest:
        """Give the way into collections, in somebody's name."""
        return Ingest(self.store, self.embedder(principal), organisation=principal.organisation)

    def retrieve(self, principal: Principal, origin: Origin | None = None) -> Retrieve:
        """Give the search of collections, in somebody's name."""
        return Retrieve(self.store, self.embedder(principal, origin), organisation=principal.organisation)

    async def principal(self, name: str) -> Principal:
        """Give the caller behind a key of this house by the name of the key, for work done inside it."""
        for key in await self.keys.list():
            if key.name == name and key.revoked_at is None:
                return await self.keys.principal(key.id)
        raise NotFound(
            f"there is no key named {name!r} for work done in this house: "
            f"metier key issue {name!r} --system SYSTEM --project PROJECT --group public"
        )

    async def ready(self) -> Mapping[str, bool]:
        """Tell, part by part, whether calls can be served now."""
        return await self.vitals.ready()


@contextlib.asynccontextmanager
async def build(settings: Settings, parts: Parts | None = None) -> AsyncIterator[App]:
    """Build the platform, keep its background work going, and close everything in order at the end."""
    parts = parts or Parts()
    vault = Vault(settings.master_key or master_key_file(settings.home / "secrets" / "master.key"))
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(Store.open(settings))
        await store.migrate(migrations())
        await vouch(store, vault)
        providers = built_in(settings.home, parts.loading) | dict(parts.providers)
        for provider in providers.values():
            stack.push_async_callback(provider.close)
        app = _assemble(settings, parts, store, vault, providers)
        reach(app.records.erasure, app.personal_data, app.gateway)
        app.reload.registered = app.register.known
        owners = Owners(app.register, app.keys)
        app.metrics.add(owners.families)
        instead = (parts.transport, parts.mail_from)
        labels = app.gateway.ways.chooser.label = CallLabels(app.classifiers)
        app.reload.prepare = labels.use
        await labels.use(app.catalog)
        app.reload.sections = sections(
            settings, instead, app.admission.alerts, app.batches, app.toolbox, app.notices, app.operations
        )
        app.operations.read(settings.config)()
        app.records.erasure.also("agent_exchanges", app.conversations.forget)
        app.records.erasure.also("runs", app.operations.people.erase)
        app.operations.people.written = app.records.erasure.part
        app.records.erasure.also("corrections", app.review.corrections.erase)
        stack.push_async_callback(app.toolbox.close)
        named = {"names of projects and systems could not be read": owners.refresh}
        await app.records.contents.refresh()
        app.ledger.open()
        stack.push_async_callback(app.ledger.close)
        if app.spans is not None:
            stack.push_async_callback(app.spans.close)
        await stack.enter_async_context(kept_going([*_background(app), labels.run(), every(_LOOK_S, named)]))
        yield app


def _assemble(settings: Settings, parts: Parts, store: Store, vault: Vault, providers: Mapping[str, Provider]) -> App:
    register, worker = Register(store), new_id("worker")
    admission = admitting(settings, store, vault, register, worker, (parts.transport, parts.mail_from))
    configured = _configured(settings.config, parts, register)
    ways, roles = Ways(configured.catalog, configured.constraints), Roles(configured.roles)
    metrics, spans = Metrics(lambda name: name in ways.catalog), Spans.to(settings.otlp_url)
    seen_by = [witness for witness in (metrics, spans) if witness is not None]
    ledger = Ledger(store, settings.home / "spool", worker, admission.charge, admission.settle_worker, seen_by)
    personal_data = PersonalData(store, vault)
    guardrails, tries = [personal_data, *parts.guardrails], Tries(providers)
    gateway = Gateway(
        ways=ways, ledger=ledger, admission=admission, guardrail=Chain(guardrails), tries=tries,
        counters={name: provider for name, provider in providers.items() if isinstance(provider, Counter)},
    )  # fmt: skip
    gateway.cache = cache(store, vault, gateway, roles, guardrails)
    reload = _reload(settings, parts, register, ways, roles)
    vitals = Vitals(store, ledger, settings.home, lambda: bool(ways.catalog.names()))
    metrics.add(reload.families, vitals.families, gauges.leases(admission.lent))
    metrics.add(*gauges.of(ledger, gateway.shadows, ways, tries.health), *([] if spans is None else [spans.families]))
    classifiers, releases = Classifiers(store), Releases(store, vault, _told)
    outbox, memory, handed = _outbox(settings, parts, store, vault), Memory(store, vault), list[App]()
    house = tools(outbox, _customers(settings, parts), parts.mail_from or settings.mail_from)
    toolbox = Toolbox.built(store, vault, settings.config.get("connectors"), house)
    steps = _steps(parts, handed, gateway, roles, toolbox, AgentParts(memory, FlowCalls(Called(releases))))
    engine = Engine(store, vault, steps, desk=TaskDesk(store, vault), pace=parts.pace)
    review = Review(store, vault, engine)
    engine.wire(flows=Called(releases))
    app = App(
        settings=settings,
        store=store,
        vault=vault,
        roles=roles,
        register=register,
        keys=Keys(store, vault, register.statuses, frozenset(ADMITTED)),
        admission=admission,
        ledger=ledger,
        records=Records(store, vault, ledger, forgetting(store)),
        gateway=gateway,
        metrics=metrics,
        spans=spans,
        reload=reload,
        vitals=vitals,
        personal_data=personal_data,
        classifiers=classifiers,
        engine=engine,
        operations=Operations(store, vault, engine, TaskDesk(store, vault), parts.pace),
        review=review,
        notices=_notices(settings, parts, store, vault, review),
        releases=releases,
        deliveries=Deliveries(store, vault, engine, review),
        outbox=outbox,
        toolbox=toolbox,
        conversations=memory,
        responses=StoredResponses(store, vault),
        batches=Batches.built(store, vault, settings.config.get("batches"), parts.pace),
    )
    handed.append(app)
    return app


def _steps(
    parts: Parts, handed: Sequence[App], gateway: Gateway, roles: Roles, toolbox: Toolbox, agents: AgentParts
) -> Mapping[Kind, StepFunction]:
    """Make what steps do; some of it needs the platform, which is handed in once it stands."""
    functions = step_functions(
        ask=gateway.collect,
        roles=roles,
        predict=lambda *given: _predict(handed[0], *given),
        search=lambda *given: _search(handed[0], *given),
        embedder=lambda context: handed[0].embedder(context.principal, _origin(context)),
        tools=toolbox,
        agents=agents,
    )
    return {kind: parts.around(function) for kind, function in functions.items()}


def _reload(settings: Settings, parts: Parts, register: Register, ways: Ways, roles: Roles) -> Reload:
    def make(config: Mapping[str, Any]) -> Configured:
        return _configured(config, parts, register)

    read = functools.partial(read_config, secrets=settings.secrets)
    return Reload(settings.config_path, settings.config, read, make, ways, roles)


def _configured(config: Mapping[str, Any], parts: Parts, register: Register) -> Configured:
    """Make what metier.yaml says, at the start and whenever it changes; what was put in its place stays."""
    catalog = parts.catalog or Catalog.from_yaml(config.get("models") or {}, config.get("eur_per_usd"))
    constraints = Constraints.from_yaml(config.get("systems") or {}, register.names, typical_carbon)
    for ending in catalog.endings(datetime.now(UTC).date()):
        _log.warning("%s", ending.message)
    roles = {**DEFAULT_ROLES, **(parts.roles or roles_of(config, catalog.names()))}
    for name in only_exact(config.get("systems") or {}, roles, catalog.names()):
        _log.warning(
            "systems.%s: cache: semantic needs a model with the role embedder, under `roles:` in metier.yaml; until "
            "then answers are only given again for the very same call", name,
        )  # fmt: skip
    return Configured(catalog, constraints, roles)


async def _predict(
    app: App, context: StepContext, name: str, version: int | None, text: str
) -> tuple[str, float, Mapping[str, float]]:
    classifier = await app.classifiers.get(name, version)
    (found,) = await classifier.predict([text], app.embed(context.principal, _origin(context)))
    return found.label, found.confidence, found.probabilities


async def _search(
    app: App, context: StepContext, collection: str, query: str, top_k: int, least: float | None
) -> Sequence[Extract]:
    hits = await app.retrieve(context.principal, _origin(context)).search(
        collection, query, context.principal.groups, top_k, least
    )
    return [Extract(hit.id, hit.document, hit.path, hit.text, hit.score) for hit in hits]


def _origin(context: StepContext) -> Origin:
    return Origin(context.run, context.path, context.attempt)


def _outbox(settings: Settings, parts: Parts, store: Store, vault: Vault) -> Outbox | None:
    if parts.transport is None and settings.smtp_url is None:
        return None
    sender = parts.mail_from or settings.mail_from
    if not sender or "@" not in sender:
        raise ConfigError("e-mails need a sender: set METIER_MAIL_FROM, such as support@exemple.fr")
    transport = parts.transport or Smtp(account_from_url(settings.smtp_url or ""))
    return Outbox(store, vault, transport, parts.confirm or _unknowable, domain=sender.rsplit("@", 1)[1].strip("> "))


def _notices(settings: Settings, parts: Parts, store: Store, vault: Vault, review: Review) -> TaskNotices:
    carrier = mail(settings, (parts.transport, parts.mail_from))
    return TaskNotices.built(store, vault, review, settings.config.get("review"), carrier, settings.lang)


async def _told(taken_back: Told) -> None:
    where = f"version {taken_back.version} of {taken_back.flow!r} in project {taken_back.project!r}"
    _log.warning("%s was taken back by rule: %s", where, taken_back.reason)


async def _unknowable(_: str) -> bool | None:
    return None


def _customers(settings: Settings, parts: Parts) -> Customers | None:
    path = parts.customers or settings.config.get("customers")
    return Customers(pathlib.Path(path)) if path else None


def _background(app: App) -> list[Coroutine[Any, Any, None]]:
    """What keeps keys, budgets, the spool and the rest fresh; a part that fails says so and goes on."""
    sweeps = {
        "expired placeholders could not be deleted": app.personal_data.purge,
        "stored responses whose time is over could not be deleted": app.responses.purge,
        "conversations of agents whose time is over could not be deleted": app.conversations.purge,
    }
    return [
        every(0.5, {"keys could not be refreshed": app.keys.refresh}),
        every(_SWEEP_S, sweeps),
        every(_LOOK_S, {"the disk could not be looked at": app.vitals.look}),
        app.admission.run(),
        app.admission.alerts.run(),
        app.ledger.run(),
        app.records.retention.run(),
        app.operations.keep(),
        app.gateway.run(),
        *([app.gateway.cache.entries.run()] if app.gateway.cache else []),
        app.reload.run(),
        *([app.spans.run()] if app.spans else []),
    ]
