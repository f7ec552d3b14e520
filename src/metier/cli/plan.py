"""`metier plan`: what runs of a workflow may take, before one is started, held against what may be spent."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal

import click

from metier.app import App
from metier.calls import JSON, Principal
from metier.cli import flows
from metier.cli.given import given
from metier.cli.terminal import Terminal, administer, as_json_option
from metier.errors import NotFound
from metier.policy.budgets import standings
from metier.workflow.definition import Workflow, accept
from metier.workflow.foresee import Foresight
from metier.workflow.plan import Plan
from metier.workflow.plan_amount import Amount
from metier.workflow.plan_verdict import Bound, Verdict, guard, verdict

__all__ = ["before_run", "command", "foresee"]

_MEASURES = (
    ("model calls", "calls", "{:,.1f}"),
    ("tokens in", "input_tokens", "{:,.0f}"),
    ("tokens out", "output_tokens", "{:,.0f}"),
    ("€", "eur", "{:,.6f}"),
    ("Wh", "wh", "{:,.3f}"),
    ("g CO2e", "carbon_g", "{:,.3f}"),
    ("seconds of work", "seconds", "{:,.1f}"),
    ("tries of steps", "tries", "{:,.1f}"),
    ("questions to people", "tasks", "{:,.1f}"),
)


@click.command()
@click.argument("flow")
@click.argument("values", nargs=-1)
@click.option(
    "--input", "--inputs", "input_file", type=click.Path(path_type=pathlib.Path), help="A JSON file of the inputs."
)
@click.option("--runs", type=click.IntRange(min=1), default=1, show_default=True, help="How many runs to foresee.")
@click.option("--project", help="Project that pays, by its id or name; else that of the workflow's own key.")
@click.option("--strict", is_flag=True, help="Refuse where the worst case is above the budget too.")
@as_json_option
def command(
    flow: str,
    values: tuple[str, ...],
    input_file: pathlib.Path | None,
    runs: int,
    project: str | None,
    strict: bool,
    as_json: bool,
) -> None:
    """Foresee calls, tokens, euros, Wh, g CO2e and time of FLOW: least, expected and worst case.

    The expected case is from earlier runs where there are any, else from the size of the prompts; each figure says
    which. Leaves with 3 when the expected case is above per_run_eur, or above what is left of a limit that holds for
    the runs: of its key, system, project or organisation. VALUES are key=value pairs, as `metier run` takes them;
    without inputs nothing is assumed of them.

    Example: metier plan support-reply --runs 200
    """

    async def work(app: App, terminal: Terminal) -> None:
        workflow = flows.find(flow)
        told = bool(values) or input_file is not None
        inputs = accept(workflow, given(workflow, values, input_file)) if told else None
        who, payer = await _payer(app, workflow, project)
        found = await foresee(app, workflow, inputs, payer)
        judged = verdict(found, runs, _per_run(workflow), await _bounds(app, who, payer))
        _show(terminal, found, judged, runs)
        if judged.level == "refuse" or (strict and judged.level == "ask"):
            raise SystemExit(3)

    administer(work, as_json=as_json)


async def foresee(
    app: App, workflow: Workflow, inputs: Mapping[str, JSON] | None = None, project: str | None = None
) -> Plan:
    """Plan one run of a workflow on the models of this house, with what earlier runs of the project took."""
    return await Foresight(app.store, lambda: app.catalog, app.roles, app.releases).of(workflow, inputs, project)


async def before_run(
    app: App, terminal: Terminal, workflow: Workflow, inputs: Mapping[str, JSON], who: Principal, *, yes: bool = False
) -> None:
    """Show the plan of a run that is about to start; refuse above the budget, ask where only the worst case is."""
    found = await foresee(app, workflow, accept(workflow, dict(inputs)), who.project)
    judged = verdict(found, 1, _per_run(workflow), await _bounds(app, who, who.project))
    terminal.note(
        f"plan: {found.expected.calls:.1f} calls and {found.expected.eur:.6f} € expected, "
        f"at most {found.most.calls:.0f} calls and {found.held_eur:.6f} €"
    )

    def ask(told: str) -> bool:
        return yes or (sys.stdin.isatty() and not terminal.as_json and click.confirm(f"{told}. Go on?", err=True))

    guard(judged, ask)


async def _payer(app: App, workflow: Workflow, project: str | None) -> tuple[Principal | None, str | None]:
    """Give the caller such runs have, where there is one, and the project that pays."""
    asked = None if project is None else (await app.keys.project(project)).id
    try:
        who = await app.principal(f"workflow {workflow.name}")
    except NotFound:
        return None, asked
    return (who, who.project) if asked in (None, who.project) else (None, asked)


async def _bounds(app: App, who: Principal | None, project: str | None) -> Sequence[Bound]:
    """Give what is left of every limit that refuses: those of the caller, or else those of the project."""
    limits = app.admission.limits
    if who is not None:
        applying = {limit.id for limit in await limits.of(who)}
    else:
        applying = {limit.id for limit in await limits.list(project)} if project is not None else set()
    found = []
    for one in await standings(limits) if applying else ():
        limit = one.limit
        if limit.id not in applying or limit.action != "refuse" or not limit.durable or limit.scope == "end_user":
            continue
        if limit.measure != "concurrency":
            left = limit.amount - one.used - one.held
            found.append(Bound(await limits.called(limit), limit.measure, left, limit.unknown_passes))
    return found


def _per_run(workflow: Workflow) -> Decimal | None:
    return None if workflow.budget is None else workflow.budget.per_run_eur


def _show(terminal: Terminal, found: Plan, judged: Verdict, runs: int) -> None:
    cases = {"least": found.least, "expected": found.expected, "most": found.most}
    terminal.data(
        {
            "workflow": found.workflow, "definition": found.definition, "runs": runs,
            "history_runs": found.history_runs, "at_once": found.at_once, "held_eur": found.held_eur,
            "per_run": {name: case.data() for name, case in cases.items()},
            "total": {name: case.times(runs).data() for name, case in cases.items()},
            "steps": [
                {
                    "id": step.id, "kind": step.kind, "expected_tries": step.expected_tries,
                    "most_tries": step.most_tries, "expected": step.expected.data(), "most": step.most.data(),
                    "source": step.source, "bound": step.bound,
                }
                for step in found.steps
            ],
            "verdict": judged, "notes": list(found.notes),
        }
    )  # fmt: skip
    title = f"{found.workflow} {found.definition[:12]}, " + (f"{runs} runs" if runs > 1 else "one run")
    terminal.table(
        ["", "least", "expected", "worst case"],
        [[name, *(_cell(case.times(runs), field, form) for case in cases.values())] for name, field, form in _MEASURES],
        title=title,
    )
    terminal.table(
        ["step", "kind", "tries", "at most", "€ expected", "€ at most", "expected from", "bound from"],
        [
            [
                step.id, step.kind, f"{step.expected_tries:.2f}", f"{step.most_tries:.0f}",
                _cell(step.expected, "eur", "{:,.6f}"), _cell(step.most, "eur", "{:,.6f}"), step.source, step.bound,
            ]
            for step in found.steps
        ],
    )  # fmt: skip
    if float(found.held_eur) < found.most.eur:
        terminal.say(f"With per_run_eur enforced, a run costs at most {found.held_eur:.6f} €.")
    terminal.say("Without what people add by asking for another try. ≥: something of it is not known.")
    for note in found.notes:
        terminal.say(f"[yellow]{note}[/yellow]")
    words = {"within": "[green]It fits the budget.[/green]", "ask": "[yellow]Ask first:[/yellow]"}
    terminal.say(f"{words.get(judged.level, '[red]Above the budget:[/red]')} {'; '.join(judged.reasons)}".rstrip())


def _cell(amount: Amount, field: str, form: str) -> str:
    figure: float = getattr(amount, field)
    return ("≥ " if field in amount.unknown else "") + form.format(figure)
