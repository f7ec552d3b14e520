"""`metier usage`: calls, tokens, money, energy and carbon, by project, system, model or day."""

from __future__ import annotations

import datetime
from typing import Any

import click

from metier.app import App
from metier.cli.terminal import Terminal, as_json_option, run

__all__ = ["command"]


@click.command()
@click.option(
    "--by", multiple=True, type=click.Choice(["project", "system", "model", "day"]), default=("system", "model"),
    show_default=True, help="What to group by; may be given several times.",
)  # fmt: skip
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="From this day on (UTC).")
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), help="Before this day (UTC).")
@click.option("--project", help="Only this project, by its id.")
@as_json_option
def command(by: tuple[Any, ...], since: Any, until: Any, project: str | None, as_json: bool) -> None:
    """Total what was called, with cost, energy and carbon as they were recorded.

    Energy and carbon are ranges; calls whose footprint is unknown are counted apart, never as zero.
    """

    async def work(app: App, terminal: Terminal) -> None:
        await app.ledger.flush()
        found = await app.ledger.usage(by, since=_utc(since), until=_utc(until), project=project)
        names = {system.id: system.name for system in await app.register.list()}
        terminal.data({"usage": found, "systems": names})
        terminal.table(
            [*by, "calls", "errors", "in", "out", "€", "Wh", "gCO2e", "not estimated"],
            [
                [
                    *(names.get(value, value) for value in (getattr(row, name) for name in by)),
                    row.calls, row.errors, row.input_tokens, row.output_tokens,
                    f"{row.cost_eur:.4f}" + (f" ({row.unpriced} unpriced)" if row.unpriced else ""),
                    _range(row.energy_low_wh, row.energy_high_wh), _range(row.carbon_low_g, row.carbon_high_g),
                    row.not_estimated,
                ]
                for row in found
            ],
        )  # fmt: skip
        if not found:
            terminal.say("No call was recorded. `metier demo` makes some.")

    run(work, as_json=as_json)


def _utc(day: datetime.datetime | None) -> datetime.datetime | None:
    return day.replace(tzinfo=datetime.UTC) if day else None


def _range(low: float | None, high: float | None) -> str:
    return "not estimated" if low is None or high is None else f"{low:.3g}–{high:.3g}"
