"""`metier review`: the tasks that wait for a person, read with their sources, edited, decided or handed off."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click
import yaml
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from metier.app import App
from metier.calls import JSON
from metier.cli import review_corrections, review_people
from metier.cli.review_who import as_person, in_groups, reviewer
from metier.cli.terminal import Terminal, as_json_option, run
from metier.connectors.deliveries import Delivery, Settlement
from metier.errors import Invalid
from metier.workflow.review import Task, TaskEvent, TaskId

__all__ = ["command"]


@click.group(invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Answer the tasks that wait for a person: list, show, edit, approve, reject, hand off.

    Whoever runs commands on this machine operates it: every task is theirs, whoever it is assigned to. --group and
    --as narrow that down. Without a subcommand, lists what waits.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(_list, name=None, groups=(), after=None, limit=50, as_json=False)


@command.command(name="list")
@as_person
@in_groups
@click.option("--after", help="The next page: tasks opened after this one.")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True)
@as_json_option
def _list(name: str | None, groups: tuple[str, ...], after: str | None, limit: int, as_json: bool) -> None:
    """List the tasks that wait for a person, of all groups unless told otherwise, oldest first."""

    async def work(app: App, terminal: Terminal) -> None:
        found = await app.review.list(
            None if name is None else reviewer(name, groups),
            assignees=[f"group:{group}" for group in groups] if groups and name is None else None,
            after=None if after is None else TaskId(after),
            limit=limit,
        )
        doubtful = [] if after else await app.deliveries.list(None if name is None else reviewer(name, groups))
        terminal.data({"tasks": found, "deliveries": doubtful})
        terminal.table(
            ["task", "title", "for", "state", "due", "run"],
            [
                [
                    t.id, _readable(t.title), t.assignee, t.claimer or t.state,
                    t.due_at and t.due_at.isoformat(" ", "minutes"), t.run,
                ]
                for t in found
            ],
        )  # fmt: skip
        terminal.say("metier review show TASK" if found else "Nothing waits for a person here.")
        if len(found) == limit:
            terminal.say(f"More: metier review list --after {found[-1].id}")
        if doubtful:
            terminal.table(
                ["of", "what", "to", "subject", "in doubt since"],
                [
                    [d.key, d.tool, _readable(d.recipient), _readable(d.subject), d.since.isoformat(" ", "minutes")]
                    for d in doubtful
                ],
                title="E-mails and actions that may or may not have happened:",
            )
            terminal.say(f"metier review settle {doubtful[0].key}")

    run(work, as_json=as_json)


@command.command(name="show")
@click.argument("task")
@as_person
@in_groups
@as_json_option
def _show(task: str, name: str | None, groups: tuple[str, ...], as_json: bool) -> None:
    """Show a task whole: the message, the sources, the checks and the draft."""

    async def work(app: App, terminal: Terminal) -> None:
        who = reviewer(name, groups)
        found = await app.review.get(TaskId(task), who)
        events = await app.review.history(found.id, who)
        terminal.data({"task": found, "events": events})
        _display(found, terminal)
        _tell(events, terminal)

    run(work, as_json=as_json)


@command.command(name="approve")
@click.argument("task")
@click.option("--edit", is_flag=True, help="Change the draft in $EDITOR before approving.")
@click.option("--note", default="", help="Why, kept with the decision for those who read the run later.")
@as_person
@in_groups
@as_json_option
def _approve(task: str, edit: bool, note: str, name: str | None, groups: tuple[str, ...], as_json: bool) -> None:
    """Approve a draft, as it is or edited; take a task that has no draft."""

    async def work(app: App, terminal: Terminal) -> None:
        who = reviewer(name, groups)
        found = await app.review.get(TaskId(task), who)
        positive = _choices(found)[0]
        decision: dict[str, JSON] = {"decision": positive, "note": note}
        if found.edit is not None:
            decision["edited"] = _edited(found.edit) if edit else found.edit
        await app.review.decide(found.id, who, _fitted(decision, found), note)
        terminal.data({"task": found.id, "decision": decision, "by": who.known_as, "note": note})
        terminal.say(f"{positive}: the run goes on as soon as a worker is free (metier worker).")

    run(work, as_json=as_json)


@command.command(name="reject")
@click.argument("task")
@click.option("--note", "--reason", required=True, help="Why: a refusal helps nobody without its reason.")
@as_person
@in_groups
@as_json_option
def _reject(task: str, note: str, name: str | None, groups: tuple[str, ...], as_json: bool) -> None:
    """Refuse what a task asks, with the reason; what follows of a refusal is for the flow to say."""

    async def work(app: App, terminal: Terminal) -> None:
        who = reviewer(name, groups)
        found = await app.review.get(TaskId(task), who)
        decision: dict[str, JSON] = {"decision": _choices(found)[-1], "note": note}
        if found.edit is not None:
            decision["edited"] = found.edit
        await app.review.decide(found.id, who, _fitted(decision, found), note)
        terminal.data({"task": found.id, "decision": decision, "by": who.known_as, "note": note})
        terminal.say(
            f"{decision['decision']}: kept with its reason. The run goes on as its flow says, as soon as a worker is "
            "free (metier worker)."
        )

    run(work, as_json=as_json)


@command.command(name="hand-off")
@click.argument("task")
@click.argument("to")
@click.option("--note", required=True, help="What the next person needs to know; they see it with the task.")
@as_person
@in_groups
@as_json_option
def _hand_off(task: str, to: str, note: str, name: str | None, groups: tuple[str, ...], as_json: bool) -> None:
    """Give a task to another group or person, with what they need to know: group:juridique, user:claire."""

    async def work(app: App, terminal: Terminal) -> None:
        await app.review.hand_off(TaskId(task), reviewer(name, groups), to, note)
        terminal.data({"task": task, "assignee": to})
        terminal.say(f"It now waits for {escape(to)}.")

    run(work, as_json=as_json)


@command.command(name="settle")
@click.argument("email")
@click.option("--delivered", "found", flag_value="delivered", help="You found it among the messages that left.")
@click.option("--send-again", "found", flag_value="again", help="It never left: the run sends it once more.")
@click.option("--drop", "found", flag_value="dropped", help="It never left and is not to: the run stays as it is.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@as_person
@in_groups
@as_json_option
def _settle(
    email: str, found: Settlement | None, yes: bool, name: str | None, groups: tuple[str, ...], as_json: bool
) -> None:
    """Say whether an e-mail or another action in doubt happened; its run goes on with what you found.

    The line broke after the letter was handed over and before the mail server answered: nobody but a person can tell
    whether it left. Look for its Message-ID in the log or the sent messages of the mail server, then say --delivered,
    --send-again or --drop. For an action of another connector, look in the other system for the identifier shown.
    Without an option, shows it and changes nothing. What you said is kept with your name and the time; EMAIL is
    what `metier review list` shows.
    """

    async def work(app: App, terminal: Terminal) -> None:
        who = reviewer(name, groups)
        given = await app.deliveries.get(email, who)
        if found is not None and not yes and as_json:
            raise Invalid("nobody can be asked for confirmation with --json: add --yes")
        if not as_json:
            _display_delivery(given, terminal)
        if found is None:
            terminal.data({"delivery": given})
            return
        asked = _ASKED[found].format(recipient=given.recipient)
        if not yes and not click.confirm(asked):
            terminal.say("Nothing was changed.")
            return
        terminal.data({"delivery": await app.deliveries.settle(given.key, who, found)})
        if found == "dropped":
            terminal.say(f"Settled: it is never sent. Cancel the run, or fork it: metier runs show {given.run}")
        else:
            terminal.say("Settled: the run goes on as soon as a worker is free (metier worker).")

    run(work, as_json=as_json)


review_people.add_to(command)
review_corrections.add_to(command)

_READABLE = 100
"""Widest frame around a text, in characters."""
_ASKED: Mapping[Settlement, str] = {
    "delivered": "Mark it as delivered to {recipient}? It is then never sent again.",
    "again": "Send it once more to {recipient}? If it did leave the first time, they get it twice.",
    "dropped": "Never send it to {recipient}? The run stays as it is.",
}


def _choices(task: Task) -> list[str]:
    """The decisions a task allows, the going-on one first."""
    properties: Any = (task.schema or {}).get("properties")
    choices = properties.get("decision", {}).get("enum") if isinstance(properties, dict) else None
    if not isinstance(choices, list) or not choices:
        raise Invalid(f"task {task.id!r} offers no decision: look at it with `metier review show {task.id} --json`")
    return [str(choice) for choice in choices]


def _fitted(decision: dict[str, JSON], task: Task) -> dict[str, JSON]:
    """Keep what the task asks for; a note is kept beside the decision in any case."""
    properties: Any = (task.schema or {}).get("properties")
    asked = properties if isinstance(properties, dict) else {}
    fitted = {key: value for key, value in decision.items() if key in asked}
    for key, schema in asked.items():
        if key not in fitted and isinstance(schema, dict) and schema.get("type") == "string":
            fitted[key] = ""
    return fitted


def _edited(draft: JSON) -> JSON:
    """Open the draft in $EDITOR as YAML and read it back."""
    text = yaml.safe_dump(draft, allow_unicode=True, sort_keys=False, width=100)
    found = click.edit(text, extension=".yaml")
    if found is None:
        raise Invalid("the editor was left without saving: nothing was decided")
    try:
        value: JSON = yaml.safe_load(found)
    except yaml.YAMLError as error:
        raise Invalid(f"the edited draft is not valid YAML: {error}; nothing was decided") from error
    return value


def _display(task: Task, terminal: Terminal) -> None:
    if terminal.as_json:
        return
    out = terminal.out
    due = f", due {task.due_at.isoformat(' ', 'minutes')}" if task.due_at else ""
    out.print(
        f"[bold]{escape(_readable(task.title))}[/bold]\n[dim]{task.id}, {task.workflow}, {task.assignee}{due}[/dim]"
    )
    for name, value in task.show.items():
        if value in (None, "", [], {}):
            continue
        out.print(_panel(out, _readable(value), name, "dim"))
    if task.edit is not None:
        out.print(_panel(out, _readable(task.edit), "draft", "green"))
    if task.decider:
        out.print(
            f"{task.state} by {escape(task.decider)}" + (f": {escape(_readable(task.note))}" if task.note else "")
        )
        return
    out.print(
        f"[dim]metier review approve {task.id} [--edit] · reject {task.id} --note … · comment {task.id} … · "
        f"hand-off {task.id} group:… --note …[/dim]"
    )


def _tell(events: Sequence[TaskEvent], terminal: Terminal) -> None:
    """Say what happened to a task, line by line."""
    if terminal.as_json:
        return
    for event in events:
        by = f" by {escape(_readable(event.by))}" if event.by else ""
        to = f" for {escape(_readable(event.target))}" if event.target else ""
        words = f": {escape(_readable(event.words))}" if event.words else ""
        terminal.out.print(f"[dim]{event.at:%Y-%m-%d %H:%M}[/dim] {event.kind.replace('_', ' ')}{to}{by}{words}")


def _display_delivery(given: Delivery, terminal: Terminal) -> None:
    out = terminal.out
    state = f"in doubt since {given.since.isoformat(' ', 'minutes')}" if given.doubtful else given.state
    out.print(f"[bold]{escape(_readable(given.subject))}[/bold]\n[dim]{escape(given.key)}, {state}[/dim]")
    named = f"Message-ID: <{escape(given.message_id)}>" if given.tool == "email.send" else escape(given.message_id)
    out.print(f"To: {escape(_readable(given.recipient))}\n{named}")
    if given.cancelled:
        out.print("Its run was cancelled: nothing is done again.")
    if given.settled_by and given.settled_at:
        at = given.settled_at.isoformat(" ", "minutes")
        out.print(f"settled as {given.settled_as} by {escape(given.settled_by)}, {at}")
    out.print(_panel(out, _readable(given.body), "", "dim"))


def _panel(out: Console, text: str, title: str, colour: str) -> Panel:
    """Frame a text, no wider than it reads well, where nobody's terminal says how wide either."""
    return Panel(
        escape(text), title=escape(title), title_align="left", border_style=colour, width=min(out.width, _READABLE)
    )


def _readable(value: JSON) -> str:
    """Write a value for a terminal, which must not obey the control characters a customer or a model wrote."""
    text = _written(value)
    return "".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in text)


def _written(value: JSON) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(v, dict) and "text" in v for v in value):
        hits: list[Any] = value
        return "\n\n".join(f"[{hit.get('id')}] {hit.get('title')}\n{hit.get('text')}" for hit in hits)
    try:
        return yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=100).strip()
    except yaml.YAMLError:
        return json.dumps(value, ensure_ascii=False, indent=2)
