"""`metier review corrections` and `agreement`: what people changed in drafts, and how often two readings agree."""

from __future__ import annotations

import dataclasses
import pathlib

import click
import orjson
from rich.markup import escape

from metier.app import App
from metier.cli.terminal import Terminal, as_json_option, run
from metier.errors import Invalid

__all__ = ["add_to"]

_PAGE = 200


def add_to(group: click.Group) -> None:
    """Put the commands into the group of reviews."""
    group.add_command(_corrections)
    group.add_command(_agreement)


@click.command(name="corrections")
@click.option("--flow", help="Only those of this workflow.")
@click.option("--export", type=click.Path(path_type=pathlib.Path), help="Write them all, in the clear, as JSON lines.")
@as_json_option
def _corrections(flow: str | None, export: pathlib.Path | None, as_json: bool) -> None:
    """List the drafts people corrected before they let them go: examples for prompts and training.

    They are kept sealed for a year, and go with an erasure of the person they are about. An exported file is neither
    sealed nor erased: keep it where such texts may be kept.
    """

    async def work(app: App, terminal: Terminal) -> None:
        if export is not None:
            terminal.data({"file": str(export), "corrections": (written := await _export(app, flow, export))})
            terminal.say(f"{written} corrections are in {escape(str(export))}, in the clear.")
            return
        found = await app.review.corrections.list(workflow=flow, limit=_PAGE)
        terminal.data({"corrections": found})
        terminal.table(
            ["correction", "workflow", "step", "prompt", "by", "when"],
            [[c.id, c.workflow, c.path, c.prompt, c.by, f"{c.made_at:%Y-%m-%d %H:%M}"] for c in found],
        )

    run(work, as_json=as_json)


@click.command(name="agreement")
@click.option("--flow", help="Only this workflow.")
@as_json_option
def _agreement(flow: str | None, as_json: bool) -> None:
    """Say how often a blind second reading came to the same decision, by workflow and step."""

    async def work(app: App, terminal: Terminal) -> None:
        found = await app.review.agreement(flow)
        terminal.data({"agreement": found})
        rows = [[row["workflow"], row["path"], row["twice"], row["agreed"]] for row in found]
        terminal.table(["workflow", "step", "read twice", "agreed"], rows)

    run(work, as_json=as_json)


async def _export(app: App, flow: str | None, path: pathlib.Path) -> int:
    written, after = 0, None
    try:
        with path.open("xb") as file:
            path.chmod(0o600)
            while found := await app.review.corrections.list(workflow=flow, after=after, limit=_PAGE):
                for one in found:
                    file.write(orjson.dumps(dataclasses.asdict(one), option=orjson.OPT_APPEND_NEWLINE))
                written, after = written + len(found), found[-1].id
    except OSError as error:
        raise Invalid(f"cannot write {str(path)!r}: {error.strerror}; name a new file in a folder of yours") from error
    return written
