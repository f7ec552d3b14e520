"""`metier means`: code, rules, classifier and model measured for one step on the same labelled data."""

from __future__ import annotations

import hashlib
import pathlib
import sys
from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal

import click

from metier.app import App
from metier.calls import Principal
from metier.cli import flows, preparation
from metier.cli.terminal import Terminal, as_json_option, run
from metier.errors import BudgetExceeded, Invalid, NotFound
from metier.workflow.definition import Workflow
from metier.workflow.means import Ranking, judge, measure
from metier.workflow.means_csv import kinds
from metier.workflow.means_data import Candidate, How, Item, Kept, answer_of, candidates, rows, unheard
from metier.workflow.means_runners import Bill, Runners
from metier.workflow.shape import Step

__all__ = ["command"]


@click.command()
@click.argument("flow")
@click.argument("step")
@click.option(
    "--data", type=click.Path(path_type=pathlib.Path), required=True, help="Labelled rows, JSON Lines or .csv."
)
@click.option("--label", default="label", show_default=True, help="Field of a row that holds the right answer.")
@click.option("--column", multiple=True, metavar="NAME=FIELD", help="Where NAME, which the step is given, stands.")
@click.option("--answer", help="CEL over output that gives the answer; else the output's one field with an enum.")
@click.option("--means", "means_file", type=click.Path(path_type=pathlib.Path), help="Else means/STEP.yaml, if any.")
@click.option("--split", help="Only rows of this split; test where rows say one.")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many rows.")
@click.option("--margin", type=click.FloatRange(0, 100), default=2.0, show_default=True, help="Percent.")
@click.option("--cpu-watts", type=click.FloatRange(min=0), default=20.0, show_default=True, help="Of one busy core.")
@click.option("--dry-run", is_flag=True, help="Say what it would ask and cost, and ask nothing.")
@click.option("--yes", is_flag=True, help="Go on where the worst case is above what the project has left.")
@as_json_option
def command(
    flow: str, step: str, data: pathlib.Path, means_file: pathlib.Path | None, as_json: bool, **more: object
) -> None:
    """Measure every means for STEP of FLOW on the same labelled rows, and recommend the cheapest adequate one.

    A row names what the step is given as the step does, in JSON Lines or under the header of a CSV file.

    The means are the step as it is, and those of means/STEP.yaml beside the workflow. What was answered is kept: an
    interrupted measure goes on where it stopped.

    Example: metier means support-reply classify --data messages.jsonl
    """

    async def work(app: App, terminal: Terminal) -> None:
        workflow = flows.find(flow)
        found = _step(workflow, step)
        answer = answer_of(found, str(more["answer"]) if more["answer"] else None)
        place = means_file or _beside(flow, step)
        means = candidates(workflow, found, place)
        split, limit = more["split"], more["limit"]
        items = rows(
            data,
            found,
            str(more["label"]),
            str(split) if split else None,
            limit if isinstance(limit, int) else None,
            How(_columns(more["column"]), kinds(workflow, found), terminal.note),
        )
        kept = Kept(_kept(app, workflow, found), answer)
        who = await _principal(app, workflow)
        runners = Runners(workflow, who, app.gateway.collect, app.catalog, app.roles, app.classifiers.get)
        await runners.check(means)
        bill = runners.bill(means, items, kept)
        strange = unheard(found, answer, items)
        if strange is not None:
            terminal.note(strange)
        terminal.note(_foretold(bill, means, items))
        if more["dry_run"]:
            terminal.data(
                {"candidates": [one.name for one in means], "rows": len(items), "bill": bill, "unheard": strange}
            )
            return
        await _guard(app, who, bill, terminal, yes=bool(more["yes"]))
        await measure([(one, runners.of(one)) for one in means], items, answer, kept, terminal.note)
        margin, watts = float(str(more["margin"])) / 100, float(str(more["cpu_watts"]))
        _show(terminal, judge(means, items, kept, margin=margin, cpu_watts=watts), strange)

    run(work, as_json=as_json)


def _step(workflow: Workflow, name: str) -> Step:
    found = workflow.step(name)
    if found is None:
        known = ", ".join(sorted(one.id for one in workflow.walk()))
        raise NotFound(f"the workflow {workflow.name!r} has no step {name!r}: its steps are {known}")
    return found


def _columns(given: object) -> dict[str, str]:
    found = {}
    for one in given if isinstance(given, tuple) else ():
        name, cut, column = str(one).partition("=")
        if not name or not cut or not column:
            raise Invalid(
                f"--column is {str(one)[:80]!r}: write the name the step is given and the column, as text=Mail"
            )
        found[name.strip()] = column.strip()
    return found


def _beside(flow: str, step: str) -> pathlib.Path | None:
    if "/" in flow or flow.endswith((".yaml", ".yml")):
        given = pathlib.Path(flow)
        folder = given if given.is_dir() else given.parent
    else:
        folder = flows.folder(flow)
    found = folder / "means" / f"{step}.yaml"
    return found if found.is_file() else None


def _kept(app: App, workflow: Workflow, step: Step) -> pathlib.Path:
    name = hashlib.sha256(f"{workflow.name}/{step.id}".encode()).hexdigest()[:16]
    return app.settings.home / "means" / f"{name}.jsonl"


async def _principal(app: App, workflow: Workflow) -> Principal:
    """Who pays: the workflow's own key, else the house."""
    try:
        return await app.principal(f"workflow {workflow.name}")
    except NotFound:
        return await preparation.house(app)


async def _guard(app: App, who: Principal, bill: Bill, terminal: Terminal, *, yes: bool) -> None:
    budget = await app.admission.budget(who.project)
    left = None if budget is None else budget.limit_eur - budget.spent_eur - budget.held_eur
    if left is None or bill.most_eur <= left:
        return
    if bill.likely_eur > left:
        raise BudgetExceeded(
            f"measuring would cost about {bill.likely_eur:.4f} € and the project has {left:f} € left: "
            "raise its budget, or measure fewer rows with --limit"
        )
    told = f"measuring may cost up to {bill.most_eur:.4f} € and the project has {left:f} € left"
    asked = sys.stdin.isatty() and not terminal.as_json
    if not yes and not (asked and click.confirm(f"{told}. Go on?", err=True)):
        raise BudgetExceeded(f"{told}: accept it with --yes, or measure fewer rows with --limit")


def _foretold(bill: Bill, means: Sequence[Candidate], items: Sequence[Item]) -> str:
    calls = f"{bill.least_calls:,}" + (f" to {bill.most_calls:,}" if bill.most_calls > bill.least_calls else "")
    money = f"about {bill.likely_eur:.4f} €, at most {bill.most_eur:.4f} €" if bill.most_eur > Decimal(0) else "0 €"
    return f"{len(means)} means on {len(items)} rows: {calls} calls of models, {money}"


def _show(terminal: Terminal, found: Ranking, strange: str | None) -> None:
    terminal.data({"ranking": asdict(found), "unheard": strange})
    terminal.table(
        [
            "means", "kind", "right", "95 %", "behind the best", "p", "failed", "€ / 1,000", "Wh / 1,000", "p50 ms",
            "p95 ms", "CPU ms",
        ],
        [
            [
                f"{one.name} *" if one.name == found.recommended else one.name, one.kind,
                f"{one.quality:.1%} of {one.count}", f"{one.low:.1%}–{one.high:.1%}",
                f"{one.behind:.1%} ({one.behind_low:+.1%} to {one.behind_high:+.1%})", f"{one.mcnemar_p:.3g}",
                one.failed, f"{one.cost_eur * 1000:.4f}", "unknown" if one.wh is None else f"{one.wh * 1000:.3f}",
                f"{one.p50_ms:.1f}", f"{one.p95_ms:.1f}", f"{one.cpu_ms:.2f}",
            ]
            for one in found.measured
        ],
        title="* recommended" if found.recommended else None,
    )  # fmt: skip
    for reason in found.reasons:
        terminal.say(reason)
