"""`metier connectors`: the doors to the outside that metier.yaml declares: list, add, test without doing, remove."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import click
import yaml
from rich.markup import escape

from metier.app import App
from metier.cli import config_text
from metier.cli.terminal import Terminal, administer, as_json_option
from metier.connectors.tools import KINDS, Toolbox, tools
from metier.errors import Conflict, Invalid, MetierError, NotFound
from metier.settings import Settings

__all__ = ["command"]


@click.group()
def command() -> None:
    """List, add, test and remove connectors: HTTP, OpenAPI, MCP, SQL, drafts by IMAP, webhooks.

    A connector is an entry under `connectors:` of metier.yaml; each gives tools that steps and agents call by name.
    What it proves itself with is set by `metier secret` and only named there.
    """


@command.command(name="list")
@click.option("--tools", "with_tools", is_flag=True, help="Also their tools; servers that have to be are asked.")
@as_json_option
def _list(with_tools: bool, as_json: bool) -> None:
    """List the connectors of metier.yaml with their kinds, and the tools each gives."""

    async def work(app: App, terminal: Terminal) -> None:
        declared, box = _declared(app.settings.config), _box(app)
        rows, failures = list[dict[str, Any]](), list[str]()
        for name, entry in declared.items():
            row: dict[str, Any] = {"name": name, "kind": entry.get("kind")}
            if with_tools:
                try:
                    specs = await box.connector(name).tools()
                    row["tools"] = [{"name": s.name, "effect": s.effect, "description": s.description} for s in specs]
                except MetierError as error:
                    failures.append(f"{name}: {error.message}")
                    row["error"] = error.code
            rows.append(row)
        terminal.data({"connectors": rows})
        terminal.table(["connector", "kind"], [[row["name"], row["kind"]] for row in rows])
        given = [
            [s["name"], "effect" if s["effect"] else "read", s["description"]] for r in rows for s in r.get("tools", ())
        ]
        if given:
            terminal.table(["tool", "what", "for"], given)
        for failure in failures:
            terminal.say(f"[red]{escape(failure)}[/red]")
        if not rows:
            terminal.say("No connector is declared. `metier connectors add` writes one; see docs/howto/connectors.md.")

    administer(work, as_json=as_json)


@command.command(name="add")
@click.argument("name")
@click.option("--kind", type=click.Choice(sorted(KINDS)), help="What it speaks.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="One option; the value is YAML.")
@click.option("--file", type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path), help="The entry as YAML.")
@click.option("--replace", is_flag=True, help="Put it in place of the one of that name.")
@as_json_option
def _add(
    name: str, kind: str | None, options: tuple[str, ...], file: pathlib.Path | None, replace: bool, as_json: bool
) -> None:
    """Check an entry and write it into metier.yaml; nothing is reached. Secrets are named, never written.

    Example: metier connectors add hooks --kind webhook --option url=https://erp.exemple.fr/h --option secret=erp
    """

    async def work(app: App, terminal: Terminal) -> None:
        entry: dict[str, Any] = {"kind": kind} if kind else {}
        if file is not None:
            entry |= _mapping(_read(file), f"the file {str(file)!r}")
        for option in options:
            key, equals, value = option.partition("=")
            if not equals:
                raise Invalid(f"the option {option!r} has no '=': write KEY=VALUE")
            entry[key] = yaml.safe_load(value)
        known = _declared(_written(app.settings))
        if name in known and not replace:
            raise Conflict(f"there is a connector {name!r} already: --replace puts this one in its place")
        _box(app).read({name: entry})
        config_text.change(app.settings.config_path, ["connectors", name], entry)
        terminal.data({"connector": name, "entry": entry})
        terminal.say(f"{escape(name)} written. See that it works: metier connectors test {escape(name)}")

    administer(work, as_json=as_json)


@command.command(name="test")
@click.argument("name")
@click.option("--tool", help="Show what this operation would do, instead of reaching the other side.")
@click.option("--with", "given", default="{}", help="What it would be given, as JSON.")
@as_json_option
def _test(name: str, tool: str | None, given: str, as_json: bool) -> None:
    """Reach the other side without changing anything; with --tool, show what a call would do and do nothing.

    Example: metier connectors test crm --tool create --with '{"name": "Ada"}'
    """

    async def work(app: App, terminal: Terminal) -> None:
        connector = _box(app).connector(name)
        if tool is None:
            said = await connector.probe()
            terminal.data({"connector": name, "probe": said})
            terminal.say(escape(said))
            return
        try:
            with_ = json.loads(given)
        except ValueError:
            raise Invalid("what stands after --with is no JSON: write an object in quotes") from None
        shown = await connector.preview(tool.removeprefix(f"{name}."), _mapping(with_, "what stands after --with"))
        terminal.data({"would_do": shown})
        terminal.table(["", ""], [[key, _one(value)] for key, value in shown.items()])
        terminal.say("Nothing was done.")

    administer(work, as_json=as_json)


@command.command(name="remove")
@click.argument("name")
@as_json_option
def _remove(name: str, as_json: bool) -> None:
    """Take a connector out of metier.yaml; its secrets stay, steps that name its tools fail from then on."""

    async def work(app: App, terminal: Terminal) -> None:
        known = _declared(_written(app.settings))
        if name not in known:
            raise NotFound(f"there is no connector {name!r}: metier connectors list shows those there are")
        config_text.change(app.settings.config_path, ["connectors", name], None)
        terminal.data({"removed": name})
        terminal.say(f"{escape(name)} removed.")

    administer(work, as_json=as_json)


def _box(app: App) -> Toolbox:
    return Toolbox.built(app.store, app.vault, app.settings.config.get("connectors"), tools(app.outbox, None, None))


def _declared(config: Mapping[str, Any]) -> dict[str, Any]:
    return dict(config.get("connectors") or {})


def _written(settings: Settings) -> dict[str, Any]:
    """What metier.yaml holds as it stands in the file: references to variables stay references."""
    if not settings.config_path.exists():
        return {}
    return dict(yaml.safe_load(settings.config_path.read_text(encoding="utf-8")) or {})


def _read(file: pathlib.Path) -> Any:
    """Read a YAML file, or say that it is none."""
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        raise Invalid(f"the file {str(file)!r} is no YAML") from None


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Invalid(f"{what} must be an object, found {type(value).__name__}")
    return value


def _one(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
