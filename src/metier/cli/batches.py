"""`metier batches`: where batches of all projects stand, what they took, and their end."""

from __future__ import annotations

import click
from rich.markup import escape

from metier.app import App
from metier.batches import Batch
from metier.calls import Range
from metier.cli.terminal import Terminal, administer, as_json_option

__all__ = ["command"]


@click.group()
def command() -> None:
    """List, show or cancel batches."""


@command.command(name="list")
@click.option("--project", help="Only those of this project, by name or id.")
@click.option("--after", help="The next page: batches older than this one.")
@click.option("--limit", type=click.IntRange(1, 100), default=30, show_default=True)
@as_json_option
def _list(project: str | None, after: str | None, limit: int, as_json: bool) -> None:
    """List batches, newest first, with how far they are."""

    async def work(app: App, terminal: Terminal) -> None:
        owner = None if project is None else (await app.keys.project(project)).id
        await app.ledger.flush()
        found = await app.batches.list(owner, after=after, limit=limit)
        terminal.data({"batches": found})
        terminal.table(
            ["batch", "endpoint", "status", "waits for", "done", "failed", "of", "€", "made"],
            [
                [
                    b.id, b.endpoint, b.status, _waiting(b), b.done, b.failed, b.total, f"{b.totals.cost_eur:.4f}",
                    f"{b.created_at:%d/%m %H:%M}",
                ]
                for b in found
            ],
        )  # fmt: skip
        if len(found) == limit:
            terminal.say(f"More: metier batches list --after {found[-1].id}")

    administer(work, as_json=as_json)


@command.command(name="show")
@click.argument("batch_id")
@as_json_option
def _show(batch_id: str, as_json: bool) -> None:
    """Show how far a batch is, what it waits for, and what it took: calls, tokens, cost, energy and carbon."""

    async def work(app: App, terminal: Terminal) -> None:
        await app.ledger.flush()
        found = await app.batches.get(batch_id)
        terminal.data({"batch": found})
        _say(found, terminal)

    administer(work, as_json=as_json)


@command.command(name="cancel")
@click.argument("batch_id")
@as_json_option
def _cancel(batch_id: str, as_json: bool) -> None:
    """End a batch: calls under way are waited for, and what was answered is given."""

    async def work(app: App, terminal: Terminal) -> None:
        found = await app.batches.cancel(batch_id)
        terminal.data({"batch": found})
        terminal.say(f"{found.status}: a worker writes its results.")

    administer(work, as_json=as_json)


def _say(batch: Batch, terminal: Terminal) -> None:
    totals = batch.totals
    waits = _waiting(batch)
    terminal.say(
        f"[bold]{batch.id}[/bold] {batch.endpoint}: {batch.status}" + (f", waits for {waits}" if waits else "")
    )
    for error in batch.errors:
        where = f"line {error['line']}: " if error.get("line") else ""
        terminal.say(f"[red]{error['code']}[/red] {where}{escape(str(error['message']))}")
    rows = [
        ("requests", f"{batch.done} answered, {batch.failed} failed, of {batch.total}"),
        ("calls", totals.calls),
        ("tokens", f"{totals.input_tokens} in, {totals.output_tokens} out"),
        ("cost", f"{totals.cost_eur:.6f} €"),
        ("energy", _range(totals.energy_kwh, 1000, "Wh")),
        ("carbon", _range(totals.carbon_g, 1, "gCO2e")),
        ("window", batch.window),
        ("project", batch.project),
        ("key", batch.key_id),
        ("input", batch.input_file),
        ("output", batch.output_file),
        ("errors", batch.error_file),
        ("made", f"{batch.created_at:%d/%m/%Y %H:%M}"),
        ("ended" if batch.over else "expires", f"{batch.ended_at or batch.expires_at:%d/%m/%Y %H:%M}"),
    ]
    terminal.table(["", ""], rows)


def _waiting(batch: Batch) -> str:
    if batch.paused is None or batch.resume_at is None:
        return ""
    return f"{batch.paused} until {batch.resume_at.astimezone():%d/%m %H:%M:%S}"


def _range(value: Range | None, factor: float, unit: str) -> str:
    return "not estimated" if value is None else f"{value.low * factor:.2g}–{value.high * factor:.2g} {unit}"
