"""`metier calls`: recorded calls, what is kept of their contents and how long, who read it, and erasing it."""

from __future__ import annotations

import datetime
import getpass
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import click
from rich.markup import escape

from metier.app import App
from metier.cli import preparation
from metier.cli.terminal import Terminal, administer, as_json_option
from metier.errors import Invalid
from metier.record.erasure import Erased
from metier.record.keeping import Keeping
from metier.record.records import Filter, Line
from metier.vault import member

__all__ = ["command"]

_OUTCOMES = ("answered", "refused", "failed", "cancelled", "lost")
_reason = click.option("--reason", required=True, help="Why; kept with what is done.")
_dry_run = click.option("--dry-run", is_flag=True, help="Count, and change nothing.")


@click.group()
def command() -> None:
    """Look at recorded calls; say what is kept of what was said in them, for how long, and erase it.

    A record of a call says who, when, which model, how much: never what was said. That is kept apart, sealed, only for
    systems where somebody decided so (`keep`), shown only to whom somebody allowed it (`allow`), and every look is
    written down (`reads`).
    """


@command.command(name="list")
@click.option("--project", help="Only this project, by its id or name.")
@click.option("--system", help="Only this system, by name or id.")
@click.option("--key", help="Only this key, by its public part.")
@click.option("--model", help="Only this model.")
@click.option("--outcome", type=click.Choice(_OUTCOMES), help="Only calls that ended so.")
@click.option("--subject", help="Only calls for this end user, in the words of the client.")
@click.option("--organisation", default="main", show_default=True, help="Whose end user that is.")
@click.option("--since", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M"]), help="From this moment on (UTC).")
@click.option("--until", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M"]), help="Before this moment (UTC).")
@click.option("--after", help="Go on after this call, the last one of the page before.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Calls in a page.")
@as_json_option
def _list(after: str | None, limit: int, as_json: bool, **wanted: Any) -> None:
    """List recorded calls, latest first."""

    async def work(app: App, terminal: Terminal) -> None:
        await app.ledger.flush()
        subject, organisation = wanted.pop("subject"), wanted.pop("organisation")
        wanted["system"] = await preparation.system_id(app, wanted["system"]) if wanted["system"] else None
        wanted["project"] = await preparation.project_id(app, wanted["project"])
        wanted["since"], wanted["until"] = _utc(wanted["since"]), _utc(wanted["until"])
        wanted["end_user"] = member(app.vault, organisation, subject) if subject else None
        found = await app.records.page(Filter(**wanted), after=after, most=limit)
        terminal.data({"calls": found})
        terminal.table(
            ["id", "at", "model", "outcome", "in", "out", "€", "s", "contents"],
            [
                [
                    one.id, one.at.isoformat(timespec="seconds"), one.model, _ended(one),
                    one.input_tokens, one.output_tokens, f"{one.cost_eur:.5f}", f"{one.duration_s:.2f}",
                    "kept" if one.contents else "",
                ]
                for one in found
            ],
        )  # fmt: skip
        if len(found) == limit:
            terminal.say(f"Next page: metier calls list --after {found[-1].id}")

    administer(work, as_json=as_json)


@command.command(name="show")
@click.argument("call")
@click.option("--contents", is_flag=True, help="Show what was said too, if you may; that you did is written down.")
@click.option("--reason", default="", help="Why you read it; needed with --contents.")
@as_json_option
def _show(call: str, contents: bool, reason: str, as_json: bool) -> None:
    """Show everything recorded about one call."""

    async def work(app: App, terminal: Terminal) -> None:
        await app.ledger.flush()
        row = await app.records.get(call)
        shown = await app.records.contents.read(call, getpass.getuser(), reason) if contents else None
        terminal.data({"call": row} | ({"contents": shown} if contents else {}))
        systems, projects = await preparation.names(app)
        terminal.table(
            ["what", "value"],
            [[name, _told(value, {**systems, **projects})] for name, value in row.items() if value is not None],
        )
        if shown is not None:
            cut = ", cut: it was longer than what is kept" if shown.cut else ""
            terminal.say(f"[bold]contents[/bold] ({shown.mode}{cut})")
            terminal.table(["part", "value"], [["request", shown.request], ["answer", shown.answer]])

    administer(work, as_json=as_json)


@command.command(name="keep")
@click.argument("system", required=False)
@click.option("--capture", type=click.Choice(["none", "masked", "full"]), help="What to keep of what is said.")
@click.option("--contents-days", type=click.IntRange(1), help="Days to keep contents; 30 without a decision.")
@click.option("--metadata-days", type=click.IntRange(1), help="Days to keep records; 365 without a decision.")
@click.option("--reason", default="", help="Why; needed to change anything.")
@as_json_option
def _keep(
    system: str | None,
    capture: Any,
    contents_days: int | None,
    metadata_days: int | None,
    reason: str,
    as_json: bool,
) -> None:
    """Say what is kept of a system's calls and how long; without options, show what holds.

    masked keeps what the provider saw, with placeholders; full what the client saw. It holds everywhere within a
    second, for calls that begin from then on.
    """

    async def work(app: App, terminal: Terminal) -> None:
        keepings = app.records.keepings
        held: tuple[Keeping, ...]
        changes = {"capture": capture, "contents_days": contents_days, "metadata_days": metadata_days}
        if any(changes.values()):
            if system is None:
                raise Invalid("changing what is kept needs a system: metier calls keep SYSTEM …", param="system")
            found = await preparation.system_id(app, system)
            held = (await keepings.decide(found, getpass.getuser(), reason, **changes),)
        else:
            wanted = await preparation.system_id(app, system) if system else None
            held = tuple(one for one in await keepings.list() if wanted in (None, one.system))
        names: dict[str, str] = {one.id: one.name for one in await app.register.list()}
        terminal.data({"keepings": held, "systems": names})
        terminal.table(
            ["system", "capture", "contents (days)", "records (days)", "by", "since", "reason"],
            [
                [
                    names.get(one.system, one.system), one.capture, one.contents_days, one.metadata_days, one.by_whom,
                    one.at.isoformat(timespec="seconds"), one.reason,
                ]
                for one in held
            ],
        )  # fmt: skip
        if not held:
            terminal.say("Nothing was decided: no contents are kept, records for 365 days.")

    administer(work, as_json=as_json)


@command.command(name="erase")
@click.argument("call", required=False)
@click.option("--subject", help="Erase everything said for this end user, in the words of the client.")
@click.option("--project", help="Erase everything said in calls of this project that named no end user.")
@click.option("--organisation", default="main", show_default=True, help="Whose end user that is.")
@_reason
@_dry_run
@as_json_option
def _erase(
    call: str | None,
    subject: str | None,
    project: str | None,
    organisation: str,
    reason: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Erase what was said in one call, or for one person: keys first, so that backups are unreadable too.

    Stored responses, placeholders of the conversations, kept answers and, for a person, the runs they are in go too;
    with --project all its kept answers.
    Records of calls and totals stay, and no longer say whom they served. Files and batches belong to their project,
    and stay. What is under a legal hold is refused.
    """

    async def work(app: App, terminal: Terminal) -> None:
        await app.ledger.flush()
        by, erasure = getpass.getuser(), app.records.erasure
        if [call, subject, project].count(None) != 2:
            raise Invalid("say what to erase: one CALL, or --subject, or --project", param="call")
        found: Erased
        if call is not None:
            found = await erasure.call(call, by, reason, dry_run=dry_run)
        elif subject is not None:
            found = await erasure.person(organisation, subject, by, reason, dry_run=dry_run)
        else:
            owner = await app.keys.project(project or "")
            found = await erasure.project(owner.organisation, owner.id, by, reason, dry_run=dry_run)
        terminal.data({"erased": found})
        would = "Would erase" if dry_run else "Erased"
        other = found.elsewhere
        terminal.say(
            f"{would}: {found.keys} keys, {found.records} contents, {other.get('responses', 0)} stored responses, "
            f"{other.get('conversations', 0)} tables of placeholders, {other.get('kept_answers', 0)} kept answers, "
            f"{other.get('runs', 0)} runs; {found.unlinked} calls that say whom they served. "
            "Files belong to their project, which deletes them."
        )

    administer(work, as_json=as_json)


@command.command(name="retention")
@_dry_run
@as_json_option
def _retention(dry_run: bool, as_json: bool) -> None:
    """Delete what is old enough now; `metier serve` does so every hour."""

    async def work(app: App, terminal: Terminal) -> None:
        found = await app.records.retention.sweep(dry_run=dry_run)
        names: dict[str, str] = {one.id: one.name for one in await app.register.list()}
        terminal.data({"expired": found or (), "elsewhere": found is None, "systems": names, "dry_run": dry_run})
        terminal.table(
            ["system", "contents", "older than (days)", "calls", "older than (days)", "reason"],
            [
                [names.get(o.system, o.system), o.contents, o.contents_days, o.calls, o.metadata_days, o.reason]
                for o in found or ()
            ],
        )
        if not found:
            terminal.say("Another process is at it." if found is None else "Nothing is old enough.")

    administer(work, as_json=as_json)


@command.command(name="hold")
@click.option("--scope", type=click.Choice(["system", "project", "subject", "call"]), required=True, help="What it is.")
@click.argument("target")
@click.option("--organisation", default="main", show_default=True, help="Whose end user it is, for a subject.")
@_reason
@as_json_option
def _hold(scope: Any, target: str, organisation: str, reason: str, as_json: bool) -> None:
    """Keep calls from being deleted or erased until the hold is released."""

    async def work(app: App, terminal: Terminal) -> None:
        found = target
        if scope == "system":
            found = await preparation.system_id(app, target)
        elif scope == "subject":
            found = member(app.vault, organisation, target)
        elif scope == "project":
            found = (await app.keys.project(target)).id
        else:
            await app.records.get(target)
        held = await app.records.keepings.hold(scope, found, getpass.getuser(), reason)
        terminal.data({"hold": held})
        terminal.say(f"{held.id} holds {scope} {escape(found)}. Later: metier calls release {held.id}")

    administer(work, as_json=as_json)


@command.command(name="release")
@click.argument("hold")
@as_json_option
def _release(hold: str, as_json: bool) -> None:
    """End a legal hold."""

    async def work(app: App, terminal: Terminal) -> None:
        held = await app.records.keepings.release(hold, getpass.getuser())
        terminal.data({"hold": held})
        terminal.say(f"{held.id} holds no more.")

    administer(work, as_json=as_json)


@command.command(name="holds")
@as_json_option
def _holds(as_json: bool) -> None:
    """List legal holds, those that stand first."""

    async def work(app: App, terminal: Terminal) -> None:
        found = await app.records.keepings.holds()
        terminal.data({"holds": found})
        terminal.table(
            ["id", "scope", "target", "by", "since", "released", "reason"],
            [[h.id, h.scope, h.target, h.by_whom, h.at.date(), h.released_at, h.reason] for h in found],
        )

    administer(work, as_json=as_json)


@command.command(name="allow")
@click.argument("who")
@click.option("--system", required=True, help="Whose calls, by name or id.")
@click.option("--days", type=click.IntRange(1, 366), default=7, show_default=True, help="For how long.")
@click.option("--withdraw", is_flag=True, help="End it now instead.")
@_reason
@as_json_option
def _allow(who: str, system: str, days: int, withdraw: bool, reason: str, as_json: bool) -> None:
    """Let somebody read what was said in a system's calls, for some days."""

    async def work(app: App, terminal: Terminal) -> None:
        found, contents = await preparation.system_id(app, system), app.records.contents
        if withdraw:
            await contents.disallow(who, found)
        else:
            await contents.allow(who, found, getpass.getuser(), reason, days)
        readers = [one for one in await contents.readers() if one.system == found]
        terminal.data({"readers": readers})
        terminal.table(
            ["who", "until", "allowed by", "reason"], [[r.who, r.until.date(), r.granted_by, r.reason] for r in readers]
        )

    administer(work, as_json=as_json)


@command.command(name="reads")
@click.argument("call", required=False)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many, latest first.")
@as_json_option
def _reads(call: str | None, limit: int, as_json: bool) -> None:
    """List who read what was said, in one call or any, and who was refused."""

    async def work(app: App, terminal: Terminal) -> None:
        found = await app.records.contents.reads(call, limit)
        terminal.data({"reads": found})
        terminal.table(
            ["at", "call", "by", "outcome", "reason"],
            [[r.at.isoformat(timespec="seconds"), r.call, r.by_whom, r.outcome, r.reason] for r in found],
        )

    administer(work, as_json=as_json)


def _ended(call: Line) -> str:
    """Say how a call ended, and why where that is known."""
    ended = call.error_code or call.outcome
    return f"{ended} ({call.error_cause})" if call.error_cause else ended


def _utc(moment: datetime.datetime | None) -> datetime.datetime | None:
    return moment.replace(tzinfo=datetime.UTC) if moment else None


def _told(value: Any, names: Mapping[str, str]) -> Any:
    """Say a value of a record as people write it: names beside ids, and no figures as powers of ten."""
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    return f"{names[value]} ({value})" if isinstance(value, str) and value in names else value
