"""`metier train`: a classifier from labelled messages, measured on a split that training never sees."""

from __future__ import annotations

import pathlib
from typing import Any

import click

from metier.app import App
from metier.cli import preparation
from metier.cli.terminal import Terminal, as_json_option, run
from metier.tuning.train import Trained, fit, read_examples

__all__ = ["command"]


@click.command()
@click.argument("name", required=False)
@click.argument("messages", required=False, type=click.Path(path_type=pathlib.Path))
@click.option(
    "--features", type=click.Choice(["best", "embeddings", "tfidf"]), default="best", show_default=True,
    help="What the classifier looks at; best keeps what cross-validation finds more often right.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Measure and keep nothing.")
@click.option("--list", "list_", is_flag=True, help="List the versions that were trained.")
@as_json_option
def command(
    name: str | None, messages: pathlib.Path | None, features: str, dry_run: bool, list_: bool, as_json: bool
) -> None:
    """Train the classifier NAME on MESSAGES and keep it as a new version.

    MESSAGES is a JSON Lines file of {text, label, split} with the splits train, validation and test. Both kinds of
    features are measured on the test split, which is never used for fitting or choosing.

    Example: metier train intent messages.jsonl
    """

    async def work(app: App, terminal: Terminal) -> None:
        if list_ or name is None or messages is None:
            await _list(app, terminal)
            return
        examples = read_examples(messages)
        embed = app.embed(await preparation.house(app))
        kinds: list[Any] = ["tfidf", "embeddings"] if features == "best" else [features]
        if "embeddings" in kinds and app.roles["embedder"] not in app.catalog.names() and features == "best":
            kinds.remove("embeddings")
        trained: dict[str, Trained] = {kind: await fit(examples, kind, embed, terminal.note) for kind in kinds}
        chosen = max(trained, key=lambda kind: trained[kind].cross_validation.accuracy)
        version = None if dry_run else await app.classifiers.add(name, trained[chosen].classifier, trained[chosen].card)
        terminal.data(
            {"name": name, "version": version, "chosen": chosen, "cards": {k: t.card for k, t in trained.items()}}
        )
        _show(trained, terminal)
        terminal.say(f"Kept as [bold]{name}@{version}[/bold] ({chosen})" if version else "Nothing was kept.")

    run(work, as_json=as_json)


def _show(trained: dict[str, Trained], terminal: Terminal) -> None:
    terminal.table(
        ["features", "test", "right", "95 % interval", "macro F1", "calibration error", "CPU ms", "wall ms"],
        [
            [
                kind, t.test.count, f"{t.test.accuracy:.1%}", f"{t.test.interval[0]:.0%}–{t.test.interval[1]:.0%}",
                f"{t.test.macro_f1:.3f}", f"{t.test.calibration_error:.3f}",
                f"{t.test.cpu_ms:.2f}", f"{t.test.wall_ms:.1f}",
            ]
            for kind, t in trained.items()
        ],
    )  # fmt: skip


async def _list(app: App, terminal: Terminal) -> None:
    found = await app.classifiers.list()
    terminal.data({"classifiers": [{**row, "created_at": row["created_at"].isoformat()} for row in found]})
    terminal.table(
        ["classifier", "features", "labels", "right on test", "trained"],
        [
            [
                f"{row['name']}@{row['version']}", row["card"]["features"], len(row["card"]["labels"]),
                f"{row['card']['test']['accuracy']:.1%} of {row['card']['test']['count']}", row["created_at"].date(),
            ]
            for row in found
        ],
    )  # fmt: skip
