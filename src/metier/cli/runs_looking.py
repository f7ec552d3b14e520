"""`metier runs at` and `metier runs diff`: a run as it stood, and what two runs have come to."""

from __future__ import annotations

import json

import click
from rich.markup import escape

from metier.app import App
from metier.calls import JSON, RunId
from metier.cli.terminal import Terminal, as_json_option, plain, run
from metier.guardrails.pii import Table, hide

__all__ = ["add_to"]

_SHOWN = 220
_CLEAR = click.option("--clear", is_flag=True, help="Show values as they are, personal data included.")


def add_to(group: click.Group) -> None:
    """Give the group of runs these commands."""
    group.add_command(_at)
    group.add_command(_diff)


@click.command(name="at")
@click.argument("run_id")
@click.argument("line", type=click.IntRange(0), required=False)
@_CLEAR
@as_json_option
def _at(run_id: str, line: int | None, clear: bool, as_json: bool) -> None:
    """Show a run as it stood after a LINE of its journal: values, cost, and what it did next. Without LINE: now.

    Example: metier runs at run_0a1b 3
    """

    async def work(app: App, terminal: Terminal) -> None:
        then = await app.operations.at(RunId(run_id), line)
        names = Table()
        values = {path: plain(value) if clear else hide(plain(value), names) for path, value in then.values.items()}
        last = None if then.last is None else {"path": then.last.path, "kind": then.last.kind, "at": then.last.at}
        terminal.data(
            {
                "run": run_id, "line": then.line, "lines": then.lines, "last": last, "values": values,
                "next": list(then.next), "cost_eur": then.cost_eur,
            }
        )  # fmt: skip
        told = "" if then.last is None else f": {then.last.path} {then.last.kind} at {then.last.at:%d/%m %H:%M:%S}"
        terminal.say(f"[bold]line {then.line} of {then.lines}[/bold]{escape(told)}, {then.cost_eur:.6f} €")
        for path, value in values.items():
            terminal.say(f"  [bold]{escape(path)}[/bold] {escape(_short(value))}")
        terminal.say(f"next: {escape(', '.join(then.next)) or 'nothing'}")

    run(work, as_json=as_json)


@click.command(name="diff")
@click.argument("here")
@click.argument("there")
@_CLEAR
@as_json_option
def _diff(here: str, there: str, clear: bool, as_json: bool) -> None:
    """Compare what the steps of two runs have given, path by path.

    Example: metier runs diff run_0a1b run_0c2d
    """

    async def work(app: App, terminal: Terminal) -> None:
        one, other = await app.engine.get(RunId(here)), await app.engine.get(RunId(there))
        found = await app.operations.differences(one.id, other.id)
        names = Table()

        def shown(value: JSON) -> JSON:
            return plain(value) if clear else hide(plain(value), names)

        rows = [
            {
                "path": each.path, "here": shown(each.here), "there": shown(each.there), "here_kind": each.here_kind,
                "there_kind": each.there_kind,
            }
            for each in found
        ]  # fmt: skip
        terminal.data({"here": one, "there": other, "differences": rows})
        terminal.say(f"{one.id} {one.status} {one.cost_eur:.6f} € | {other.id} {other.status} {other.cost_eur:.6f} €")
        for row in rows:
            terminal.say(f"[bold]{escape(str(row['path']))}[/bold]")
            for side in ("here", "there"):
                kind = row[f"{side}_kind"]
                terminal.say(f"  [dim]{side}[/dim] {escape(_short(row[side])) if kind else 'not reached'}")
        if not rows:
            terminal.say("No step gave anything else.")

    run(work, as_json=as_json)


def _short(value: JSON) -> str:
    text = "".join(one if one.isprintable() else "\ufffd" for one in json.dumps(value, ensure_ascii=False))
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
