"""`metier review` between people: comments, changes asked for, absences and those who stand in."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta

import click
from rich.markup import escape

from metier.app import App
from metier.cli.review_who import as_person, in_groups, reviewer
from metier.cli.terminal import Terminal, as_json_option, run
from metier.errors import Invalid
from metier.workflow.review import TaskId

__all__ = ["add_to"]


def add_to(group: click.Group) -> None:
    """Put the commands into the group of reviews."""
    for command in (_comment, _changes, _link, _list, _declare, _end):
        group.add_command(command)


@click.command(name="comment")
@click.argument("task")
@click.argument("words")
@as_person
@in_groups
@as_json_option
def _comment(task: str, words: str, name: str | None, groups: tuple[str, ...], as_json: bool) -> None:
    """Say something on a task to whoever works on it, without deciding it."""

    async def work(app: App, terminal: Terminal) -> None:
        who = reviewer(name, groups)
        await app.review.comment(TaskId(task), who, words)
        terminal.data({"task": task, "by": who.known_as})
        terminal.say("Kept: metier review show " + escape(task))

    run(work, as_json=as_json)


@click.command(name="changes")
@click.argument("task")
@click.option("--note", required=True, help="What to change.")
@as_person
@in_groups
@as_json_option
def _changes(task: str, note: str, name: str | None, groups: tuple[str, ...], as_json: bool) -> None:
    """Ask for changes, where the step offers that decision: the draft goes back to whoever wrote it."""

    async def work(app: App, terminal: Terminal) -> None:
        who = reviewer(name, groups)
        found = await app.review.get(TaskId(task), who)
        await app.review.decide(found.id, who, {"decision": "changes"}, note)
        terminal.data({"task": found.id, "decision": "changes", "by": who.known_as, "note": note})
        terminal.say("changes: the run goes on with what you wrote.")

    run(work, as_json=as_json)


@click.command(name="link")
@click.argument("task")
@click.argument("person")
@as_json_option
def _link(task: str, person: str, as_json: bool) -> None:
    """Make a link to a task for PERSON, to send by e-mail: good for three days, once, without a key.

    Whoever holds it acts as PERSON on that one task: send it to nobody else. Looking at it decides nothing.
    """

    async def work(app: App, terminal: Terminal) -> None:
        token, link = await app.review.link(TaskId(task), reviewer(None, ()), person, None)
        path = f"/review/links/{token}"
        terminal.data({"task": link.task, "person": person, "path": path})
        terminal.say(path)

    run(work, as_json=as_json)


@click.command(name="absences")
@as_person
@as_json_option
def _list(name: str | None, as_json: bool) -> None:
    """List who is away and who stands in, now and later."""

    async def work(app: App, terminal: Terminal) -> None:
        found = await app.review.absences.list(reviewer(name, ()))
        terminal.data({"absences": found})
        rows = [
            [one.id, one.person, f"{one.from_at:%Y-%m-%d %H:%M}", f"{one.until_at:%Y-%m-%d %H:%M}", one.substitute]
            for one in found
        ]
        terminal.table(["absence", "who", "from", "until", "stands in"], rows)

    run(work, as_json=as_json)


@click.command(name="absent")
@click.argument("person")
@click.option("--from", "since", required=True, help="First day: 2026-08-03.")
@click.option("--until", required=True, help="Last day, included: 2026-08-21.")
@click.option("--substitute", required=True, help="Who stands in: user:max or group:sav.")
@as_json_option
def _declare(person: str, since: str, until: str, substitute: str, as_json: bool) -> None:
    """Declare that PERSON is away: the tasks in their name are also those of the substitute meanwhile."""

    async def work(app: App, terminal: Terminal) -> None:
        days = _day(since), _day(until) + timedelta(days=1)
        made = await app.review.absences.declare(reviewer(None, ()), *days, substitute, person=person)
        terminal.data({"absence": made})
        terminal.say(f"{escape(made.substitute)} stands in for {escape(made.person)}: metier review absences")

    run(work, as_json=as_json)


@click.command(name="back")
@click.argument("absence")
@as_json_option
def _end(absence: str, as_json: bool) -> None:
    """End an absence now, or withdraw one that has not begun."""

    async def work(app: App, terminal: Terminal) -> None:
        await app.review.absences.end(absence, reviewer(None, ()))
        terminal.data({"absence": absence})
        terminal.say("It is over.")

    run(work, as_json=as_json)


def _day(text: str) -> datetime:
    """The beginning of a day in the time zone of this machine."""
    try:
        return datetime.combine(date.fromisoformat(text), time()).astimezone()
    except ValueError:
        raise Invalid(f"{text[:40]!r} is no date: write it like 2026-08-03", param="from") from None
