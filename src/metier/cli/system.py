"""`metier system`: the register of AI uses, without which no call is admitted."""

from __future__ import annotations

import getpass
from typing import Any

import click
from rich.markup import escape

from metier.app import App
from metier.cli import preparation
from metier.cli.terminal import Terminal, administer, as_json_option
from metier.governance.register import MOVES

__all__ = ["command"]


@click.group()
def command() -> None:
    """Register AI uses and have them approved.

    Statuses: idea, qualified, pilot, general, suspended, retired. Keys are issued, and calls admitted, only for systems
    in pilot or general; suspending one stops its calls within a second.
    """


@command.command(name="register")
@click.argument("name")
@click.option("--purpose", required=True, help="What it is for, in the words of its owner.")
@click.option("--owner", required=True, help="Who answers for it.")
@as_json_option
def _register(name: str, purpose: str, owner: str, as_json: bool) -> None:
    """Write a new AI use into the register, as an idea."""

    async def work(app: App, terminal: Terminal) -> None:
        system = await app.register.register(name, purpose, owner, getpass.getuser())
        terminal.data({"system": system})
        terminal.say(f"{system.id} registered as {system.status}. Next: metier system move {escape(name)} pilot")

    administer(work, as_json=as_json)


@command.command(name="move")
@click.argument("system")
@click.argument("status", type=click.Choice(list(MOVES)))
@click.option("--reason", default="", help="Why; kept with the move.")
@as_json_option
def _move(system: str, status: Any, reason: str, as_json: bool) -> None:
    """Move a system to another status; who, when and why are recorded.

    Approving for a pilot from an idea records each step on the way.
    """

    async def work(app: App, terminal: Terminal) -> None:
        found, by = await preparation.system_id(app, system), getpass.getuser()
        if status in ("pilot", "general"):
            moved = await app.register.approve(found, by, status, reason)
        else:
            moved = await app.register.move(found, status, by, reason)
        terminal.data({"system": moved})
        terminal.say(f"{escape(moved.name)}: {moved.status}")

    administer(work, as_json=as_json)


@command.command(name="list")
@as_json_option
def _list(as_json: bool) -> None:
    """List every registered system."""

    async def work(app: App, terminal: Terminal) -> None:
        found = await app.register.list()
        unknown = sorted(app.gateway.ways.systems - await app.register.known())
        terminal.data({"systems": found, "unregistered": unknown})
        terminal.table(
            ["id", "name", "status", "owner", "purpose", "changed"],
            [[s.id, s.name, s.status, s.owner, s.purpose, s.changed_at.date()] for s in found],
        )
        for name in unknown:
            terminal.say(escape(f"Warning: systems.{name} in metier.yaml: no system of that name is registered."))

    administer(work, as_json=as_json)


@command.command(name="show")
@click.argument("system")
@as_json_option
def _show(system: str, as_json: bool) -> None:
    """Show a system with every move of its status."""

    async def work(app: App, terminal: Terminal) -> None:
        found = await preparation.system_id(app, system)
        one, moves = await app.register.get(found), await app.register.approvals(found)
        terminal.data({"system": one, "approvals": moves})
        terminal.say(f"[bold]{escape(one.name)}[/bold] ({one.id}), {one.status}")
        terminal.say(escape(f"{one.purpose}\nowner: {one.owner}"))
        terminal.table(
            ["when", "from", "to", "by", "reason"],
            [[m.at.isoformat(timespec="seconds"), m.old_status, m.new_status, m.by_whom, m.reason] for m in moves],
        )

    administer(work, as_json=as_json)
