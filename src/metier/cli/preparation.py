"""What `init` and `demo` make once and find again: system, project, key, model weights, documents, classifier."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click
import yaml

from metier import weights
from metier.app import App
from metier.calls import Principal
from metier.cli.terminal import Terminal
from metier.errors import Conflict, NotFound
from metier.settings import Settings
from metier.tuning.train import fingerprint, fit, read_examples

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = [
    "CHAT_WEIGHTS",
    "EMBEDDING_WEIGHTS",
    "HOUSE",
    "TEMPLATES",
    "Loading",
    "approved_system",
    "classifier",
    "documents",
    "fetch",
    "house",
    "house_key",
    "key_option",
    "local_models",
    "names",
    "project",
    "project_id",
    "sources",
    "system_id",
    "write_config",
]

TEMPLATES = pathlib.Path(__file__).resolve().parent.parent / "templates"
"""The workflow templates carried by this package."""

HOUSE = "metier-house"
"""Name of the system and of the key for what the house itself does."""

CHAT_WEIGHTS = "qwen2.5-coder-1.5b-instruct-q4"
EMBEDDING_WEIGHTS = "multilingual-e5-small"


def local_models(chat: str = CHAT_WEIGHTS) -> dict[str, Any]:
    """Describe the models of this machine as the `models:` section of metier.yaml does."""
    own = {"provider": "local", "price": {"input": 0, "output": 0}, "hosting": "local", "country": "FR"}
    power = {"watts": 20, "watts_high": 60, "zone": "FRA"}
    talking = {**own, "model_id": chat, "energy": power, "context_tokens": 8192, "max_output_tokens": 1024}
    return {
        "writer": {"deployments": [{**talking, "id": "local-writer", "timeout_s": 900}]},
        "judge": {"deployments": [{**talking, "id": "local-judge", "timeout_s": 900}]},
        "embedder": {
            "operation": "embed",
            "deployments": [{**own, "id": "local-embedder", "model_id": EMBEDDING_WEIGHTS, "energy": power}],
        },
    }


class Loading:
    """Tells every five seconds that a model is still being loaded."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._told = -5.0

    def __call__(self, model: str, seconds: float) -> None:
        """Take note of how long it has been."""
        if seconds < self._told:
            self._told = -5.0
        if seconds >= self._told + 5:
            self._told = seconds
            self._terminal.note(f"loading {pathlib.Path(model).stem} ({seconds:.0f} s)")


def sources(settings: Settings) -> weights.Sources:
    """Where weights come from, by the settings."""
    authority = pathlib.Path(settings.ca_file) if settings.ca_file else None
    return weights.Sources(hub_url=settings.model_hub, index_url=settings.package_index, ca_file=authority)


def write_config(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Write metier.yaml whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    # Through JSON, so that equal parts are written out and not as YAML references to each other.
    text = yaml.safe_dump(json.loads(json.dumps(dict(content))), allow_unicode=True, sort_keys=False)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


async def fetch(settings: Settings, names: Sequence[str], terminal: Terminal) -> None:
    """Fetch weights that are not here yet, telling how far it is."""
    for name in names:
        if weights.find(settings.home, name) is None:
            with terminal.progress() as bar:
                await weights.pull(settings.home, name, _Fetching(name, bar, terminal), sources=sources(settings))


class _Fetching:
    """Shows a download as a bar, or as a line for each 100 MB where there is no terminal to draw on."""

    def __init__(self, name: str, bar: Progress, terminal: Terminal) -> None:
        self._name, self._bar, self._terminal = name, bar, terminal
        self._task = bar.add_task(name, total=None)
        self._told = -1

    def __call__(self, done: int, total: int, what: str) -> None:
        self._bar.update(self._task, completed=done, total=total, description=f"{self._name}: {what}")
        if self._bar.disable and done // 100_000_000 > self._told:
            self._told = done // 100_000_000
            self._terminal.note(f"{self._name}: {what}, {done / 1e6:.0f} of {total / 1e6:.0f} MB")


async def approved_system(app: App, name: str, purpose: str, owner: str, by: str) -> str:
    """Find the system of a name, or register it and have it approved for a pilot; gives its id.

    A system somebody suspended or retired stays so.
    """
    for system in await app.register.list():
        if system.name == name:
            if system.status in ("idea", "qualified"):
                await app.register.approve(system.id, by)
            return system.id
    made = await app.register.register(name, purpose, owner, by)
    await app.register.approve(made.id, by, reason="first use, under review by people")
    return made.id


async def system_id(app: App, name: str) -> str:
    """Find a system by its id or its name."""
    for system in await app.register.list():
        if name in (system.id, system.name):
            return system.id
    raise NotFound(f"there is no system {name!r} in the register: `metier system list` shows them")


async def project_id(app: App, name: str | None) -> str | None:
    """Find a project by its id or its name, so that no command looks for calls of a project that is none."""
    return None if name is None else (await app.keys.project(name)).id


async def names(app: App) -> tuple[dict[str, str], dict[str, str]]:
    """Give the names of all systems and of all projects by their ids, for tables that people read."""
    systems: dict[str, str] = {system.id: system.name for system in await app.register.list()}
    return systems, {project.id: project.name for project in await app.keys.projects()}


def key_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --key: under which key a command works, and so for which organisation, groups and budget."""
    return click.option(
        "--key", default=HOUSE, show_default=True, help="Key to work under, by its name: its organisation, its groups."
    )(command)


async def house(app: App, key: str = HOUSE) -> Principal:
    """Give the caller the house itself works under: indexing, training and questions on the command line."""
    if key != HOUSE:
        return await app.principal(key)
    try:
        return await app.principal(HOUSE)
    except NotFound:
        system = await approved_system(
            app, HOUSE, "Indexing documents, training classifiers, questions on the command line", "platform", "metier"
        )
        paying = await project(app, "default", Decimal(10))
        return await house_key(app, HOUSE, paying, system, ["public"])


async def project(app: App, name: str, limit_eur: Decimal) -> str:
    """Find or make a project with a monthly budget; gives its id."""
    try:
        found = await app.keys.project(name)
    except NotFound:
        try:
            found = await app.keys.create_project(name)
        except Conflict:
            found = await app.keys.project(name)
        await app.admission.set_budget(found.id, limit_eur)
    return found.id


async def house_key(app: App, name: str, project_id: str, system_id: str, groups: Sequence[str]) -> Principal:
    """Find or make the key under which the house itself works; its secret is not kept."""
    try:
        return await app.principal(name)
    except NotFound:
        await app.keys.issue(name, project_id, system_id, "metier", groups=groups)
        return await app.principal(name)


async def documents(
    app: App, principal: Principal, collection: str, folder: pathlib.Path, tell: Callable[[int, int, str], None]
) -> Mapping[str, int]:
    """Ingest the documents a manifest lists, with their rights; gives how many were added, replaced, unchanged."""
    ingest = app.ingest(principal)
    if collection not in {c.name for c in await ingest.collections()}:
        await ingest.create(collection)
    listed = yaml.safe_load((folder.parent / f"{folder.name}.yaml").read_text(encoding="utf-8"))["documents"]
    done: dict[str, int] = {}
    for number, item in enumerate(listed):
        tell(number, len(listed), item["file"])
        data = (folder / item["file"]).read_bytes()
        report = await ingest.add(collection, item["file"], data, frozenset(item["groups"]))
        done[report.status] = done.get(report.status, 0) + 1
    tell(len(listed), len(listed), "")
    return done


async def classifier(
    app: App, principal: Principal, name: str, messages: pathlib.Path, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Train a classifier on labelled messages unless it is; gives the card of the version in use.

    Messages that changed since make a new version. A version somebody else trained is left in use.
    """
    examples = read_examples(messages)
    for row in await app.classifiers.list():
        if row["name"] == name:
            card = dict(row["card"])
            if not card.get("prepared") or card["data_sha256"] == fingerprint(examples):
                return card
            break
    kind: Any = "embeddings" if app.embedder(principal) is not None else "tfidf"
    trained = await fit(examples, kind, app.embed(principal), tell)
    card = trained.card | {"prepared": True}
    await app.classifiers.add(name, trained.classifier, card)
    return card
