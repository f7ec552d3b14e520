"""`metier runs again`, `expire` and `erase`: what is done to many runs, foreseen first."""

from __future__ import annotations

import functools
import sys
from decimal import Decimal
from typing import Any

import click
from rich.markup import escape

from metier.app import App
from metier.cli import flows
from metier.cli.review_who import operator, reviewer
from metier.cli.runs_chosen import chosen, which_runs
from metier.cli.runs_moving import dry_run_option, models_option, other_models, window_option
from metier.cli.terminal import Terminal, administer, as_json_option, run
from metier.errors import Conflict, Invalid
from metier.record.erasure import Target
from metier.triggers.askers import Askers
from metier.vault import member
from metier.workflow.rerun import Again, Foreseen, Many, Rerun

__all__ = ["add_to"]


def add_to(group: click.Group) -> None:
    """Give the group of runs these commands."""
    for command in (_again, _expire, _erase):
        group.add_command(command)


@click.command(name="again")
@click.argument("how", type=click.Choice(["resume", "retry", "fork", "afresh"]))
@which_runs
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="At most so many runs.")
@click.option("--from", "step", help="With retry: path of the step they are done again from.")
@click.option("--flow", help="With fork or afresh: another definition, a template's name or a path.")
@models_option
@click.option("--label", help="With fork or afresh: the same label starts no second run for any of them.")
@window_option
@click.option("--at-most-eur", type=click.FloatRange(0), help="Do nothing where they may cost more than this.")
@dry_run_option
@click.option("--yes", is_flag=True, help="Do not ask first.")
@as_json_option
def _again(how: Any, as_json: bool, **given: Any) -> None:
    """Do many runs again: `resume` from where they stopped, `retry` from a step, `fork` or `afresh` as other runs.

    The same runs, the same rules as for one: `fork` keeps what is the same, `afresh` keeps nothing. With --dry-run it
    says how many there are and the most they can cost.

    Example: metier runs again resume --status failed --code unavailable --since 2026-05-01 --dry-run
    """

    async def work(app: App, terminal: Terminal) -> None:
        again = Again(
            how,
            given["step"],
            flows.find(given["flow"]) if given["flow"] else None,
            other_models(given["models"]),
            given["label"],
            given["window"],
        )
        wanted, rerun = await chosen(app, given, given["limit"]), Rerun.on(app)
        most = None if given["at_most_eur"] is None else Decimal(str(given["at_most_eur"]))
        if given["dry_run"]:
            _show(terminal, await rerun.foresee(wanted, again), done=False)
            return
        if not given["yes"]:
            seen = await rerun.foresee(wanted, again)
            told = f"{len(seen.able)} runs are done again, for at most {_most(seen)}"
            if as_json or not sys.stdin.isatty():
                raise Conflict(f"{told}: nothing was done; look with --dry-run, then say --yes")
            click.confirm(f"{told}. Go on?", abort=True, err=True)
        asks = functools.partial(Askers(app.store).note, operator())
        done = await rerun.do(wanted, again, reviewer(None, ()).name, at_most_eur=most, asks=asks)
        _show(terminal, done, done=True)

    run(work, as_json=as_json)


@click.command(name="expire")
@click.option("--project", help="Only runs of this project, whatever metier.yaml says; needs --days.")
@click.option("--days", type=click.IntRange(0, 36_500), help="With --project: runs over for longer than this.")
@dry_run_option
@as_json_option
def _expire(project: str | None, days: int | None, dry_run: bool, as_json: bool) -> None:
    """Delete runs that have been over for longer than the section `runs` of metier.yaml keeps them.

    Workers do it every hour by themselves. Runs under way and runs under a legal hold stay.
    """

    async def work(app: App, terminal: Terminal) -> None:
        if (project is None) != (days is None):
            raise Invalid("--project and --days go together: whose runs, and over for how long", param="days")
        if project is not None and days is not None:
            found = await app.operations.erase_older((await app.keys.project(project)).id, days, dry_run=dry_run)
            terminal.data({"dry_run": dry_run, "runs": found})
        else:
            await app.operations.people.look()
            swept = await app.operations.retention.sweep(dry_run=dry_run)
            if swept is None:
                raise Conflict("another worker deletes runs at this moment: nothing is left to do here")
            found = swept.runs
            terminal.data({"dry_run": dry_run, "runs": found, "events": swept.events, "blobs": swept.blobs})
            terminal.say(f"{swept.events} old events")
        terminal.table(
            ["workflow", "project", "runs", "oldest"],
            [[one.flow, one.project, one.runs, f"{one.oldest:%d/%m/%Y}"] for one in found],
        )
        terminal.say("Nothing was deleted." if dry_run else "Deleted.")

    administer(work, as_json=as_json)


@click.command(name="erase")
@click.argument("person")
@click.option("--project", help="Only runs of this project, by its id or name.")
@click.option("--organisation", default="main", show_default=True, help="Whose end user that is.")
@click.option("--reason", default="metier runs erase", show_default=True, help="Why; kept with who did it.")
@dry_run_option
@as_json_option
def _erase(person: str, project: str | None, organisation: str, reason: str, dry_run: bool, as_json: bool) -> None:
    """Delete the runs a PERSON is in, by an e-mail address or by what an input calls them.

    Runs under way are cancelled first; what they have started goes too. Records of calls are erased with
    `metier calls erase --subject`, which takes these runs along.
    """

    async def work(app: App, terminal: Terminal) -> None:
        where = None if project is None else (await app.keys.project(project)).id
        target = Target(organisation, person=member(app.vault, organisation, person))
        by = reviewer(None, ()).name
        count = await app.operations.people.erase_alone(target, by, reason, dry_run, where)
        terminal.data({"dry_run": dry_run, "runs": count})
        terminal.say(f"{count} runs would be deleted." if dry_run else f"{count} runs were deleted.")

    administer(work, as_json=as_json)


def _show(terminal: Terminal, found: Many, *, done: bool) -> None:
    terminal.data(
        {
            "label": found.label, "dry_run": not done, "able": len(found.able), "most_eur": found.most_eur,
            "unpriced": found.unpriced, "more": found.more, "runs": found.runs,
        }
    )  # fmt: skip
    terminal.table(
        ["run", "workflow", "status", "first", "€ at most", "acts outside", "goes on as", "not done because"],
        [
            [
                one.run, one.workflow, one.status, ", ".join(one.first), _eur(one), ", ".join(one.outward), one.made,
                one.why_not,
            ]
            for one in found.runs
        ],
    )  # fmt: skip
    verb = "were" if done else "would be"
    terminal.say(f"{len(found.able)} of {len(found.runs)} runs {verb} done again, for at most {escape(_most(found))}.")
    if found.more:
        terminal.say("There are more such runs: raise --limit, or say it again.")
    if done and any(one.made not in (None, one.run) for one in found.runs):
        terminal.say(f"With --label {found.label} none of them is started a second time.")


def _eur(one: Foreseen) -> str:
    return "" if one.why_not else "not known" if one.most_eur is None else f"{one.most_eur:.6f}"


def _most(found: Many) -> str:
    return f"{found.most_eur:.6f} €" + (f" and {found.unpriced} whose price is not known" if found.unpriced else "")
