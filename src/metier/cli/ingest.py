"""`metier ingest`: documents into a collection, with the groups that may read them."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.markup import escape

from metier.app import App
from metier.cli import preparation
from metier.cli.terminal import Terminal, as_json_option, run
from metier.errors import Invalid, MetierError
from metier.knowledge.ingest import DocumentReport

__all__ = ["command"]


@click.command()
@click.argument("collection")
@click.argument("paths", nargs=-1, type=click.Path(path_type=pathlib.Path))
@click.option("--group", "groups", multiple=True, default=("public",), show_default=True, help="Who may read them.")
@click.option("--remove", multiple=True, help="Name of a document to take out; several times.")
@click.option("--list", "list_", is_flag=True, help="Only list what the collection holds.")
@click.option("--dry-run", is_flag=True, help="Say which files would be read, and change nothing.")
@preparation.key_option
@as_json_option
def command(
    collection: str,
    paths: tuple[pathlib.Path, ...],
    groups: tuple[str, ...],
    list_: bool,
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Put documents into a collection: text, Markdown, HTML, DOCX, PDF, XLSX; folders are read whole.

    An unchanged document costs nothing; a changed one replaces its old text at once. What cannot be read is said.

    Example: metier ingest sav ./documents --group sav
    """
    remove: tuple[str, ...] = given["remove"]

    async def work(app: App, terminal: Terminal) -> None:
        if not (paths or remove or list_):
            raise Invalid(f"there is nothing to put into {collection!r}: give files or folders")
        files = _files(paths)
        if dry_run:
            terminal.data({"files": [str(f) for f in files], "groups": list(groups)})
            terminal.say(f"{len(files)} files would be read for {', '.join(groups)}. Nothing was changed.")
            return
        ingest = app.ingest(await preparation.house(app, given["key"]))
        if collection not in {c.name for c in await ingest.collections()}:
            if list_ or remove:
                raise Invalid(f"there is no collection {collection!r}: `metier ingest {collection} FILES` makes it")
            await ingest.create(collection)
        if list_:
            listed = await ingest.list(collection)
            terminal.data({"documents": listed})
            terminal.table(
                ["document", "title", "groups", "chunks", "said"],
                [[d.name, d.title, ", ".join(sorted(d.groups)), d.chunks, "; ".join(d.warnings)] for d in listed],
            )
            return
        for name in remove:
            await ingest.remove(collection, name)
            terminal.say(f"{escape(name)} removed")
        reports, refused = list[DocumentReport](), list[dict[str, str]]()
        for number, file in enumerate(files, 1):
            terminal.note(f"{number}/{len(files)} {file.name}")
            try:
                reports.append(await ingest.add(collection, file.name, file.read_bytes(), frozenset(groups)))
            except MetierError as error:
                refused.append({"name": file.name, "reason": error.message})
            except OSError as error:
                refused.append({"name": file.name, "reason": f"it cannot be read: {error.strerror}"})
        _tell(terminal, reports, refused)
        if refused:
            raise SystemExit(1)

    run(work, as_json=as_json)


def _tell(terminal: Terminal, reports: Sequence[DocumentReport], refused: Sequence[Mapping[str, str]]) -> None:
    terminal.data({"documents": reports, "refused": refused})
    terminal.table(
        ["document", "status", "chunks", "embedded", "said"],
        [[r.name, r.status, r.chunks, r.embedded, "; ".join(r.warnings)] for r in reports],
    )
    for one in refused:
        terminal.say(f"[red]not read[/red] {escape(one['name'])}: {escape(one['reason'])}")


def _files(paths: tuple[pathlib.Path, ...]) -> list[pathlib.Path]:
    found: list[pathlib.Path] = []
    for path in paths:
        if path.is_dir():
            found.extend(sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")))
        elif path.is_file():
            found.append(path)
        else:
            raise Invalid(f"there is no file or folder {str(path)!r}")
    names = [path.name for path in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Invalid(f"two files are named {twice[0]!r}: names identify documents, rename one")
    return found
