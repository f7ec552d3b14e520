"""`metier demo`: the main job, end to end, on the sample company's e-mails with the model of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import click
from rich.markup import escape

from metier import settings as configuration
from metier.app import App, Parts, build
from metier.calls import JSON, Principal, RunId
from metier.catalog import Catalog
from metier.cli import preparation
from metier.cli.emails import inputs_of
from metier.cli.terminal import Terminal, as_json_option, guarded, quiet
from metier.connectors.smtp import Sink, Smtp
from metier.errors import Mistaken, NoDeployment, ProviderTimeout, ProviderUnavailable, Unavailable
from metier.settings import Settings
from metier.workflow.definition import Workflow, load
from metier.workflow.engine import StepRecord
from metier.workflow.review import Reviewer, Task

__all__ = ["SENDER", "TEMPLATE", "Outcome", "answer", "command", "prepare", "require_answers"]

TEMPLATE = preparation.TEMPLATES / "support-reply"
_FIRST = ("01-retour-robot-html", "07-delivery-to-belgium-english", "10-client-furieux-mise-en-demeure")
SENDER = "Service client Tournevelle <service-client@tournevelle.example>"
_GOOD = 6
"""The judge's score from which the demonstration approves an answer whose citations are verified."""
_OUTAGES = frozenset(kind.code for kind in (Unavailable, ProviderUnavailable, ProviderTimeout, NoDeployment))
_REVIEWER = Reviewer("demo", frozenset({"sav", "juridique", "admins"}))


@dataclass(slots=True)
class Outcome:
    """What became of one e-mail."""

    email: str
    run: RunId
    status: str = ""
    category: str = ""
    route: str = ""
    citations: str = ""
    score: str = ""
    masked: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_eur: Decimal = Decimal(0)
    energy_wh: str = ""
    carbon_g: str = ""
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    outage: str = ""
    """Why the run failed, or why a step got no answer from its model in all its attempts."""


@click.command()
@click.option("--all", "everything", is_flag=True, help="The 12 e-mails instead of 3.")
@click.option(
    "--approve", is_flag=True, help="Act as the reviewer: approve what is verified and judged good, reject the rest."
)
@as_json_option
def command(everything: bool, approve: bool, as_json: bool) -> None:
    """Do the main job on real e-mails with a real local model.

    E-mails arrive, are classified, routed by rules, answered from the company's documents with checked citations,
    judged and improved, and wait for a person; with --approve, verified answers are sent to a mail server of the
    demonstration, on this machine. Personal data never reaches the model in clear.

    Example: metier demo --approve
    """
    terminal = Terminal(as_json)
    guarded(lambda: _demo(terminal, everything, approve), terminal)


async def _demo(terminal: Terminal, everything: bool, approve: bool) -> None:
    settings = configuration.load()
    quiet(settings)
    names = sorted(path.stem for path in (TEMPLATE / "sample" / "emails").glob("*.eml"))
    chosen = names if everything else [name for name in names if name in _FIRST]
    _introduce(terminal, settings, len(chosen))
    await preparation.fetch(settings, [preparation.CHAT_WEIGHTS, preparation.EMBEDDING_WEIGHTS], terminal)
    sink = Sink(settings.home / "demo" / "sent")
    parts = Parts(
        catalog=Catalog.from_yaml(preparation.local_models()),
        transport=Smtp(await sink.start()),
        confirm=sink.confirm,
        customers=TEMPLATE / "sample" / "customers.jsonl",
        mail_from=SENDER,
        loading=preparation.Loading(terminal),
    )
    try:
        async with build(settings, parts) as app:
            principal = await prepare(app, terminal)
            outcomes = await _work(app, principal, chosen, terminal, approve)
    finally:
        await sink.stop()
    _conclude(terminal, outcomes, sink, approve)
    require_answers(outcomes)


def _introduce(terminal: Terminal, settings: Settings, count: int) -> None:
    terminal.say("[bold]Métier[/bold]: the main job, end to end.")
    terminal.say(
        f"Model: [bold]{preparation.CHAT_WEIGHTS}[/bold], 1.5 billion parameters, on this machine's processor. Expect "
        "half a minute to two minutes an e-mail on two cores, and answers a person must read: a model this "
        "small forgets conditions and is a lenient judge. Citations and figures are verified by code, not by it."
    )
    terminal.say(f"Data stays under {str(settings.home)!r}. {count} e-mails of the sample company Tournevelle.\n")


async def prepare(app: App, terminal: Terminal) -> Principal:
    """Make, or find again, everything the workflow needs."""
    system = await preparation.approved_system(
        app, "support-reply", "Draft answers to customer e-mails, approved by an adviser", "Customer service", "demo"
    )
    project = await preparation.project(app, "demo", Decimal(10))
    principal = await preparation.house_key(app, "workflow support-reply", project, system, ["public"])
    began = time.monotonic()
    done = await preparation.documents(
        app, principal, "sav", TEMPLATE / "sample" / "documents",
        lambda number, total, name: terminal.note(f"documents {number}/{total} {name}") if number % 6 == 0 else None,
    )  # fmt: skip
    told = ", ".join(f"{count} {status}" for status, count in sorted(done.items()))
    terminal.say(f"Documents: {told} ({time.monotonic() - began:.1f} s)")
    card = await preparation.classifier(app, principal, "intent", TEMPLATE / "sample" / "messages.jsonl", terminal.note)
    test = card["test"]
    low, high = test["interval"]
    terminal.say(
        f"Classifier intent@1 ({card['features']}): {test['accuracy']:.0%} right on {test['count']} messages never "
        f"used for training (95 % interval {low:.0%} to {high:.0%})\n"
    )
    return principal


async def _work(app: App, principal: Principal, names: list[str], terminal: Terminal, approve: bool) -> list[Outcome]:
    workflow = load(TEMPLATE / "flow.yaml")
    stop = asyncio.Event()
    outcomes = []
    async with asyncio.TaskGroup() as group:
        worker = group.create_task(app.engine.work(stop))
        try:
            for name in names:
                outcomes.append(await answer(app, principal, workflow, name, terminal, approve))
        finally:
            stop.set()
            with contextlib.suppress(asyncio.CancelledError):
                await worker
    return outcomes


async def answer(
    app: App, principal: Principal, workflow: Workflow, name: str, terminal: Terminal, approve: bool
) -> Outcome:
    """Start the run of one e-mail and follow it until it is over or waits for a person."""
    email, inputs = inputs_of((TEMPLATE / "sample" / "emails" / f"{name}.eml").read_bytes())
    run = await app.engine.start(workflow, inputs, principal)
    outcome = Outcome(name, run, problems=list(email.problems))
    terminal.say(f"[bold]{name}[/bold]  {escape(email.subject)}")
    for problem in email.problems:
        terminal.say(f"  [yellow]{escape(problem)}[/yellow]")
    began = time.monotonic()
    async with contextlib.aclosing(app.engine.follow(run)) as events:
        async for event in events:
            if event.path and event.kind in ("result", "error", "decision") and not event.name:
                terminal.say(f"  [dim]{time.monotonic() - began:6.1f} s[/dim]  {event.path} {_mark(event.kind)}")
            if event.status == "parked" and not (approve and await _decide(app, run, terminal)):
                break
    outcome.seconds = time.monotonic() - began
    await _fill(app, outcome)
    if outcome.outage:
        terminal.say(f"  [red]{escape(outcome.outage)}[/red]")
    terminal.say("")
    return outcome


def _mark(kind: str) -> str:
    return {"error": "[red]failed[/red]", "decision": "[cyan]decided[/cyan]"}.get(kind, "[green]done[/green]")


async def _decide(app: App, run: RunId, terminal: Terminal) -> bool:
    """Act as a careful reviewer: hand-offs are taken, verified answers approved, others rejected."""
    for task in await app.review.list(_REVIEWER, run=run):
        try:
            decision = _decision(task)
            await app.review.decide(task.id, _REVIEWER, decision, "demonstration")
        except Mistaken as error:
            terminal.say(f"  [yellow]{escape(error.message)}[/yellow]")
            return False
        return True
    return False


def _decision(task: Task) -> JSON:
    if task.edit is None:
        return {"decision": "taken", "note": "demonstration"}
    check, grade = task.show.get("steps.check"), task.show.get("steps.grade")
    verified = isinstance(check, dict) and check.get("ok") is True
    score = grade.get("score") if isinstance(grade, dict) else 0
    verified = verified and isinstance(score, int) and score >= _GOOD
    edited: Any = task.edit
    return {
        "decision": "approve" if verified else "reject",
        "edited": {"subject": edited["subject"], "body": edited["body"]},
    }


async def _fill(app: App, outcome: Outcome) -> None:
    run = await app.engine.get(outcome.run)
    steps = await app.engine.steps(outcome.run)
    values = {s.path.rsplit(".", 1)[-1]: s.value for s in steps if s.kind == "result"}
    outcome.outage = _outage(steps) if run.failure is None else run.failure.message
    waiting = [task.assignee for task in await app.review.list(_REVIEWER, run=outcome.run)]
    outcome.status = f"waits for {waiting[0]}" if waiting else (run.outcome or run.status)
    outcome.category = _value(values, "classify", "category")
    outcome.route = _value(values, "policy", "route")
    if "check" in values:
        outcome.citations = f"{_value(values, 'check', 'verified')}/{_value(values, 'check', 'cited')}"
    outcome.score = _value(values, "grade", "score")
    if "send" in values:
        outcome.status = "sent"
    await app.ledger.flush()
    calls = await app.ledger.of_run(outcome.run)
    outcome.input_tokens = sum(row["input_tokens"] for row in calls)
    outcome.output_tokens = sum(row["output_tokens"] for row in calls)
    outcome.cost_eur = sum((row["cost_eur"] for row in calls), start=Decimal(0))
    outcome.masked = max((sum((row["masked"] or {}).values()) for row in calls), default=0)
    outcome.energy_wh = _range([(row["energy_low_kwh"], row["energy_high_kwh"]) for row in calls], 1000)
    outcome.carbon_g = _range([(row["carbon_low_g"], row["carbon_high_g"]) for row in calls], 1)


def _outage(steps: Sequence[StepRecord]) -> str:
    done = {step.path for step in steps if step.kind == "result"}
    errors = [step.value for step in steps if step.kind == "error" and step.path not in done]
    known = [value for value in errors if isinstance(value, dict) and value.get("code") in _OUTAGES]
    return str(known[-1].get("message", "")) if known else ""


def require_answers(outcomes: Sequence[Outcome]) -> None:
    """End as a failure, after everything was shown, when a model did not answer: a demonstration of nothing is none."""
    without = [outcome for outcome in outcomes if outcome.outage]
    if without:
        raise Unavailable(
            f"the model did not answer for {len(without)} of {len(outcomes)} e-mails, so they have no draft: "
            f"{without[-1].outage}; mend that and start the demonstration again"
        )


def _value(values: dict[str, JSON], step: str, key: str) -> str:
    found = values.get(step)
    return str(found.get(key, "")) if isinstance(found, dict) else ""


def _range(bounds: list[tuple[Any, Any]], factor: float) -> str:
    known = [(low, high) for low, high in bounds if low is not None]
    if not known:
        return "not estimated"
    low, high = (factor * sum(float(bound[i]) for bound in known) for i in (0, 1))
    return f"{low:.2g}–{high:.2g}"


def _conclude(terminal: Terminal, outcomes: list[Outcome], sink: Sink, approve: bool) -> None:
    names = [o.email.split("-", 1)[0] + " " + o.email.split("-", 1)[1][:14] for o in outcomes]
    terminal.table(
        ["e-mail", "category", "route", "citations", "score", "masked", "status"],
        [
            [name, o.category, o.route, o.citations, o.score, o.masked, o.status]
            for name, o in zip(names, outcomes, strict=True)
        ],
    )
    terminal.table(
        ["e-mail", "tokens in/out", "€", "Wh", "gCO2e", "seconds"],
        [
            [
                name, f"{o.input_tokens}/{o.output_tokens}", f"{o.cost_eur:.4f}", o.energy_wh, o.carbon_g,
                f"{o.seconds:.0f}",
            ]
            for name, o in zip(names, outcomes, strict=True)
        ],
    )  # fmt: skip
    sent = sorted(path.name for path in sink.folder.glob("*.eml")) if sink.folder.exists() else []
    terminal.say(
        "citations: verified by code / given. score: the model's own judgement, lenient. masked: personal values the "
        "model never saw. Energy: measured time × 20–60 W declared for this machine; carbon with the French mix."
    )
    if approve:
        terminal.say(f"Sent e-mails are kept under {str(sink.folder)!r} ({len(sent)} so far).")
    first = outcomes[0].run if outcomes else "RUN"
    terminal.say("\nThree commands to try next:")
    for command_line, purpose in (
        ("metier review", "read the drafts with their sources, approve, edit"),
        (f"metier runs show {first}", "every step, call, cost and gram of one run"),
        ("metier serve", "the gateway for your clients, and the review page"),
    ):
        terminal.say(f"  [bold].venv/bin/{command_line}[/bold]\n      {purpose}")
    terminal.data({"emails": outcomes, "sent": sent, "folder": str(pathlib.Path(sink.folder))})
