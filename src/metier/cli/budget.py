"""`metier budget`: rates, quotas and budgets from the organisation to the end user, and what they left open."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import click
from rich.markup import escape

from metier.app import App
from metier.cli import preparation
from metier.cli.terminal import Terminal, administer, as_json_option
from metier.errors import Invalid, NotFound
from metier.policy import budgets
from metier.policy.limits import UNITS, Action, Limit, LimitPeriod, Scope, amount_text

__all__ = ["command"]

_SCOPES: tuple[Scope, ...] = ("organisation", "project", "system", "key")
_NOTHING = "There is no limit: calls are not bounded. `metier budget set --help` shows how to set one."


@click.group()
def command() -> None:
    """Set and show limits: rates, concurrency, quotas, and budgets of money, energy and carbon.

    All limits above a call are enforced together: of its organisation, project, system and key, and of its end user.
    """


def _whose(function: Any) -> Any:
    """Give a command the options that name whom a limit is for."""
    for scope in reversed(_SCOPES):
        words = {"key": "Key, by its public part.", "system": "System, by its id or name."}
        words |= {name: f"{name.capitalize()}, by its id or name." for name in ("organisation", "project")}
        function = click.option(f"--{scope}", help=words[scope])(function)
    return function


@command.command(name="set")
@click.argument("measure", type=click.Choice(["requests", "tokens", "concurrency", "money", "energy", "carbon"]))
@click.argument("amount", type=click.FloatRange(min=0))
@_whose
@click.option(
    "--per", type=click.Choice(["minute", "day", "month", "total"]),
    help="Period; minute by default for requests and tokens, month for the rest; concurrency has none.",
)  # fmt: skip
@click.option("--each-end-user", is_flag=True, help="For each of its end users alone.")
@click.option("--degrade-to", help="When used up, let this model answer instead of refusing.")
@click.option("--alert-only", is_flag=True, help="When used up, refuse nothing; alerts are sent all the same.")
@click.option("--unknown-passes", is_flag=True, help="Energy, carbon: let calls of unknown footprint pass, as nothing.")
@as_json_option
def _set(measure: Any, amount: float, per: Any, as_json: bool, **given: Any) -> None:
    """Set a limit, or change its amount: euros, Wh, grams of CO2e, or a number of requests, tokens or calls at a time.

    Examples: metier budget set money 50 --project shop --per month

    metier budget set requests 60 --key 3f9c0a41b2d7

    metier budget set energy 500 --organisation main --degrade-to small
    """

    async def work(app: App, terminal: Terminal) -> None:
        scope, subject = await _subject(app, given)
        rate = measure in ("requests", "tokens")
        period: LimitPeriod = per or ("now" if measure == "concurrency" else "minute" if rate else "month")
        if given["degrade_to"] is not None and given["degrade_to"] not in app.catalog.names():
            raise NotFound(f"there is no model {given['degrade_to']!r} to degrade to: metier models list shows them")
        action: Action = "degrade" if given["degrade_to"] else "alert" if given["alert_only"] else "refuse"
        asked = Limit(
            "", "end_user" if given["each_end_user"] else scope, subject, measure, period,
            Decimal(str(amount)), action, given["degrade_to"], given["unknown_passes"],
        )  # fmt: skip
        made = await app.admission.limits.set(asked, getpass.getuser())
        terminal.data({"limit": made})
        unit = UNITS[made.measure]
        whose = (await _names(app)).get(made.subject, made.subject)
        whose = f"each end user of {whose}" if made.scope == "end_user" else f"{made.scope} {whose}"
        often = "" if made.period == "now" else f" per {made.period}"
        terminal.say(escape(f"{whose}: {amount_text(made.amount)} {unit}{often} ({made.action}), {made.id}"))

    administer(work, as_json=as_json)


@command.command(name="list")
@_whose
@as_json_option
def _list(as_json: bool, **given: Any) -> None:
    """Show every limit, or those of one subject: amount, what is used and held, and the forecast."""

    async def work(app: App, terminal: Terminal) -> None:
        subject = (await _subject(app, given))[1] if any(given.values()) else None
        _show(terminal, await budgets.standings(app.admission.limits, subject), await _names(app))

    administer(work, as_json=as_json)


@command.command(name="show")
@click.argument("limit")
@as_json_option
def _show_one(limit: str, as_json: bool) -> None:
    """Show one limit by its id."""

    async def work(app: App, terminal: Terminal) -> None:
        found = [one for one in await budgets.standings(app.admission.limits) if one.limit.id == limit]
        if not found:
            raise NotFound(f"there is no limit {limit!r}: metier budget list shows them")
        _show(terminal, found, await _names(app))

    administer(work, as_json=as_json)


@command.command(name="drop")
@click.argument("limits", nargs=-1, required=True)
@as_json_option
def _drop(limits: tuple[str, ...], as_json: bool) -> None:
    """Remove limits by their ids; calls are not bounded by them any more within a second."""

    async def work(app: App, terminal: Terminal) -> None:
        known = {one.id for one in await app.admission.limits.list()}
        strange = [one for one in limits if one not in known]
        if strange:
            raise NotFound(f"there is no limit {strange[0]!r}: metier budget list shows them; nothing was removed")
        await app.admission.limits.drop(limits)
        terminal.data({"dropped": limits})
        terminal.say(f"{len(limits)} removed.")

    administer(work, as_json=as_json)


@command.command(name="alerts")
@click.option("--limit", "most", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many.")
@as_json_option
def _alerts(most: int, as_json: bool) -> None:
    """List the alerts of late, and whether they reached the addresses of metier.yaml."""

    async def work(app: App, terminal: Terminal) -> None:
        found = await app.admission.alerts.list(most)
        terminal.data({"alerts": found})
        terminal.table(
            ["at", "what", "of", "measure", "spent", "of amount", "delivered", "error"],
            [
                [
                    row["at"].isoformat(timespec="minutes"), row["kind"] + ("" if row["forecast"] else " %"),
                    f"{row['told']['scope']} {row['told'].get('name') or row['told']['subject']}",
                    row["told"]["measure"],
                    amount_text(row["spent"]),
                    f"{row['told']['amount']:g} per {row['told']['period']}", f"{row['sent']}/{row['deliveries']}",
                    row["error"],
                ]
                for row in found
            ],
        )  # fmt: skip
        if not found:
            terminal.say("No alert.")

    administer(work, as_json=as_json)


@command.command(name="open")
@click.option("--silent-for", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds unheard.")
@as_json_option
def _open(silent_for: float, as_json: bool) -> None:
    """List what was left open: leases of workers not heard any more, and limits that disagree with the record.

    A lost worker's calls are carried over by the next start on its machine. Only when its disk is lost too, settle it.
    """

    async def work(app: App, terminal: Terminal) -> None:
        silent, drift = await app.admission.silent(silent_for), await app.admission.drift()
        terminal.data({"silent": silent, "drift": drift})
        terminal.table(
            ["worker", "of", "measure", "since", "held", "last heard"],
            [
                [
                    one.worker, f"{one.scope} {one.subject}" if one.scope else "a removed limit", one.measure,
                    one.starts_on, amount_text(one.granted - one.charged),
                    one.heartbeat_at.isoformat(timespec="seconds"),
                ]
                for one in silent
            ],
            title="Leases of silent workers",
        )  # fmt: skip
        terminal.table(
            ["limit", "of", "measure", "spent", "held", "recorded", "held by leases"],
            [
                [
                    row["id"], f"{row['scope']} {row['subject']}", row["measure"], amount_text(row['spent']),
                    amount_text(row['held']), amount_text(row['used']), amount_text(row['remaining']),
                ]
                for row in drift
            ],
            title="Limits that disagree with the record",
        )  # fmt: skip
        if not silent and not drift:
            terminal.say("Nothing is open.")

    administer(work, as_json=as_json)


@command.command(name="settle")
@click.argument("worker")
@click.option("--yes", is_flag=True, help="Do it; without, only what would be counted is shown.")
@as_json_option
def _settle(worker: str, yes: bool, as_json: bool) -> None:
    """Count as spent what a worker held whose disk is lost; only for one that will never come back.

    Example: metier budget settle worker_1m7yg97qg7r1b1gsmzj --yes
    """

    async def work(app: App, terminal: Terminal) -> None:
        held = [one for one in await app.admission.silent() if one.worker == worker]
        if not held:
            raise NotFound(f"no silent worker {worker!r} holds anything: metier budget open lists those that do")
        if yes:
            await app.admission.write_off(worker)
        terminal.data({"worker": worker, "settled": yes, "leases": held})
        for one in held:
            unit = UNITS[one.measure]
            terminal.say(f"{amount_text(one.granted - one.charged)} {unit} of {one.scope} {one.subject}")
        terminal.say("Counted as spent." if yes else "Nothing was changed: repeat with --yes to count this as spent.")

    administer(work, as_json=as_json)


async def _subject(app: App, given: dict[str, Any]) -> tuple[Scope, str]:
    named = [(scope, given[scope]) for scope in _SCOPES if given[scope] is not None]
    if len(named) != 1:
        raise Invalid("say whose limit it is by exactly one of --organisation, --project, --system and --key")
    ((scope, name),) = named
    if scope == "organisation":
        return scope, (await app.keys.organisation(name)).id
    if scope == "project":
        return scope, (await app.keys.project(name)).id
    if scope == "system":
        return scope, await preparation.system_id(app, name)
    return scope, (await app.keys.get(name)).id


async def _names(app: App) -> dict[str, str]:
    """What people call the organisations, projects, systems and keys that limits know by their ids."""
    names = {str(one.id): f"{one.id} ({one.name})" for one in await app.keys.list()}
    names |= {str(one.id): one.name for one in await app.keys.organisations()}
    names |= {str(one.id): one.name for one in await app.keys.projects()}
    return names | {one.id: one.name for one in await app.register.list()}


def _show(terminal: Terminal, found: Any, names: Mapping[str, str]) -> None:
    terminal.data({"limits": found})
    if not found:
        terminal.say(_NOTHING)
        return
    terminal.table(
        ["limit", "of", "amount", "per", "used", "held", "forecast", "when used up"],
        [
            [
                one.limit.id,
                f"each end user of {names.get(one.limit.subject, one.limit.subject)} ({one.members})"
                if one.limit.scope == "end_user"
                else f"{one.limit.scope} {names.get(one.limit.subject, one.limit.subject)}",
                f"{amount_text(one.limit.amount)} {UNITS[one.limit.measure]}", one.limit.period, amount_text(one.used),
                amount_text(one.held),
                "" if one.forecast is None else amount_text(one.forecast),
                f"degrades to {one.limit.degrade_to}" if one.limit.degrade_to else one.limit.action,
            ]
            for one in found
        ],
    )  # fmt: skip
