"""`metier usage`: calls, tokens, money, energy and carbon by any dimension; how long they took; what is unusual."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import click

from metier.app import App
from metier.cli import preparation
from metier.cli.terminal import Terminal, administer, as_json_option
from metier.record.unusual import Unusual
from metier.record.usage import KeyUsage, Latency, Usages

__all__ = ["command"]


@click.command()
@click.option(
    "--by", multiple=True, type=click.Choice(["organisation", "project", "system", "model", "day"]),
    default=("system", "model"), show_default=True, help="What to group by; may be given several times.",
)  # fmt: skip
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="From this day on (UTC).")
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), help="Before this day (UTC).")
@click.option("--project", help="Only this project, by its id or name.")
@click.option("--keys", "view", flag_value="keys", help="Total per key instead, dearest first.")
@click.option(
    "--unusual", "view", flag_value="unusual",
    help="Compare the last whole hour with the same hour of the eight weeks before (of the fourteen days before, for "
    "what is new) instead, by a robust z-score, and list what is five spreads or more away.",
)  # fmt: skip
@as_json_option
def command(by: tuple[Any, ...], since: Any, until: Any, project: str | None, view: str | None, as_json: bool) -> None:
    """Total what was called, with cost, energy and carbon as they were recorded, and how long answers took.

    Energy and carbon are ranges; calls whose footprint is unknown are counted apart, never as zero. Everything is read
    from totals per hour, which stay when records of calls are deleted. End users are known by a digest alone, and are
    in no total.

    Examples: metier usage --by project --by day --since 2026-01-01

    metier usage --keys
    """

    async def work(app: App, terminal: Terminal) -> None:
        await app.ledger.flush()
        systems, projects = await preparation.names(app)
        names, only = {**systems, **projects}, await preparation.project_id(app, project)
        if view == "keys":
            days = {"since": since and since.date(), "until": until and until.date()}
            _show_keys(terminal, await app.records.keys(**days, project=only), names)
        elif view == "unusual":
            found = await app.records.unusual(datetime.datetime.now(datetime.UTC))
            _show_unusual(terminal, [one for one in found if only in (None, one.project)], names)
        else:
            span = {"since": _utc(since), "until": _utc(until)}
            totals = await app.ledger.usage(by, **span, project=only)
            times = await app.ledger.latencies(**span, project=only)
            terminal.data({"usage": totals, "latencies": times, "systems": systems, "projects": projects})
            _show_totals(terminal, by, totals, names)
            _show_times(terminal, times)

    administer(work, as_json=as_json)


def _show_totals(terminal: Terminal, by: Sequence[str], totals: Sequence[Usages], names: Mapping[str, str]) -> None:
    thought = any(row.reasoning_tokens for row in totals)
    kept = any(row.cache_hits for row in totals)
    terminal.table(
        [
            *by, "calls", "errors", "in", "out", *(["thought"] if thought else []), "€", "Wh", "gCO2e", "not estimated",
            *(["from cache", "saved €", "saved Wh"] if kept else []),
        ],
        [
            [
                *(names.get(value, value) for value in (getattr(row, name) for name in by)),
                row.calls, row.errors,
                f"{row.input_tokens}" + (f" ({row.cached_tokens} cached)" if row.cached_tokens else ""),
                row.output_tokens, *([row.reasoning_tokens] if thought else []),
                f"{row.cost_eur:.4f}" + (f" ({row.unpriced} unpriced)" if row.unpriced else ""),
                _range(row.energy_low_wh, row.energy_high_wh), _range(row.carbon_low_g, row.carbon_high_g),
                row.not_estimated,
                *([row.cache_hits, f"{row.saved_eur:.4f}", f"{row.saved_kwh * 1000:.3g}"] if kept else []),
            ]
            for row in totals
        ],
    )  # fmt: skip
    if not totals:
        terminal.say("No call was recorded. `metier demo` makes some.")


def _show_times(terminal: Terminal, times: Sequence[Latency]) -> None:
    if not times:
        return
    said = {"first": "until the first piece", "whole": "until the end"}
    terminal.table(
        ["model", "seconds", "answers", "p50", "p95", "p99"],
        [
            [one.model, said[one.measure], one.calls, f"{one.p50_s:.3g}", f"{one.p95_s:.3g}", f"{one.p99_s:.3g}"]
            for one in times
        ],
    )


def _show_keys(terminal: Terminal, found: Sequence[KeyUsage], names: Mapping[str, str]) -> None:
    terminal.data({"keys": found})
    terminal.table(
        ["key", "project", "organisation", "calls", "errors", "in", "out", "€", "from cache", "saved €"],
        [
            [
                one.key, names.get(one.project, one.project), one.organisation, one.calls, one.errors,
                one.input_tokens, one.output_tokens,
                f"{one.cost_eur:.4f}", one.cache_hits, f"{one.saved_eur:.4f}",
            ]
            for one in found
        ],
    )  # fmt: skip


def _show_unusual(terminal: Terminal, found: Sequence[Unusual], names: Mapping[str, str]) -> None:
    terminal.data({"unusual": found, "systems": names})
    terminal.table(
        ["hour (UTC)", "project", "system", "model", "measure", "value", "usual", "spreads", "compared with"],
        [
            [
                f"{one.hour:%Y-%m-%d %H:00}", names.get(one.project, one.project),
                names.get(one.system or "", one.system or "all"),
                one.model or "all", one.measure, f"{one.value:.6g}", f"{one.usual:.6g}", f"{one.z:+.1f}",
                f"{one.compared} hours",
            ]
            for one in found
        ],
    )  # fmt: skip
    if not found:
        terminal.say("Nothing was unusual in the last whole hour.")


def _utc(day: datetime.datetime | None) -> datetime.datetime | None:
    return day.replace(tzinfo=datetime.UTC) if day else None


def _range(low: float | None, high: float | None) -> str:
    return "not estimated" if low is None or high is None else f"{low:.3g}–{high:.3g}"
