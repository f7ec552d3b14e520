"""What commands share: settings read once, the platform opened, results shown or printed as JSON, plain errors."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import enum
import errno
import functools
import json
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import click
import psycopg

from metier import settings as configuration
from metier.app import App, Parts, build
from metier.deferred import deferred
from metier.errors import Broken, MetierError, Mistaken, Refused, Unavailable
from metier.settings import Settings

if TYPE_CHECKING:
    from rich import console as consoles
    from rich import markup
    from rich import progress as bars
    from rich import table as tables
    from rich import text as texts
else:
    # A server says one line, which needs none of this.
    consoles = deferred("rich.console")
    markup = deferred("rich.markup")
    bars = deferred("rich.progress")
    tables = deferred("rich.table")
    texts = deferred("rich.text")

__all__ = [
    "Loop",
    "Terminal",
    "administer",
    "as_json_option",
    "fail",
    "guarded",
    "plain",
    "quiet",
    "run",
    "without_platform",
]

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
"""The option every command has."""

_CODES: tuple[tuple[type[MetierError], int], ...] = ((Mistaken, 2), (Refused, 3), (Unavailable, 4), (Broken, 1))
_UNBROKEN = 100_000
"""Width given to what is no terminal, in characters."""
_PROSE = 24
"""Characters a cell with spaces may be narrowed to."""
_NO_WRITING = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR))


class Terminal:
    """Shows what a command found: tables for people, JSON for programs, progress on the error stream."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    @functools.cached_property
    def out(self) -> consoles.Console:
        """Where people read what was found."""
        made = consoles.Console(highlight=False)
        if not made.is_terminal:
            # What is piped is searched and cut by lines: a row stays one line, however long.
            made.width = _UNBROKEN
        return made

    @functools.cached_property
    def err(self) -> consoles.Console:
        """Where people read how it goes."""
        return consoles.Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        """Tell a person something; programs that asked for JSON do not see it."""
        if self.as_json:
            return
        if "[" in text:
            self.out.print(text, soft_wrap=True)
        else:
            click.echo(text)

    def note(self, text: str) -> None:
        """Tell how far a long work is, on the error stream."""
        self.err.print(f"[dim]{markup.escape(text)}[/dim]", soft_wrap=True)

    def data(self, value: object) -> None:
        """Print the result as JSON, when JSON was asked for."""
        if self.as_json:
            click.echo(json.dumps(plain(value), ensure_ascii=False, indent=2))

    def progress(self) -> bars.Progress:
        """A progress bar on the error stream, silent when that is no terminal."""
        return bars.Progress(
            bars.TextColumn("{task.description}"), bars.BarColumn(), bars.DownloadColumn(), bars.TimeRemainingColumn(),
            console=self.err, transient=True, disable=not self.err.is_terminal,
        )  # fmt: skip

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
        """Show rows to a person: as a table where it fits, else each row under its first cell."""
        if self.as_json:
            return
        cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
        least = [_least([column, *(row[number] for row in cells)]) for number, column in enumerate(columns)]
        if any(columns[1:]) and sum(least) + 2 * len(least) > self.out.width:
            self._stacked(columns, cells, title)
            return
        table = tables.Table(title=title, title_justify="left", header_style="bold dim", box=None, padding=(0, 2, 0, 0))
        for number, column in enumerate(columns):
            table.add_column(column, overflow="fold", no_wrap=number == 0, min_width=least[number])
        for row in cells:
            table.add_row(*(markup.escape(cell) for cell in row))
        self.out.print(table)

    def _stacked(self, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None) -> None:
        """Show each row as its first cell, and under it what the others say, with their names."""
        if title:
            self.out.print(f"[italic]{markup.escape(title)}[/italic]", soft_wrap=True)
        for first, *others in rows:
            self.out.print(f"[bold]{markup.escape(first)}[/bold]", soft_wrap=True)
            line = texts.Text()
            for name, cell in zip(columns[1:], others, strict=False):
                told = texts.Text.assemble("  ", (f"{name} ", "dim"), cell)
                if line and len(line) + len(told) > self.out.width:
                    self.out.print(line, soft_wrap=True)
                    line = texts.Text()
                line.append_text(told if cell.strip() else texts.Text())
            self.out.print(line, soft_wrap=True)


Loop: TypeAlias = Callable[[], asyncio.AbstractEventLoop]
"""Makes the event loop of a command, where the usual one is not wanted."""


def run(
    main: Callable[[App, Terminal], Awaitable[None]],
    *,
    as_json: bool,
    parts: Parts | None = None,
    loop: Loop | None = None,
    secrets: bool = True,
) -> None:
    """Open the platform, do the work of a command, close everything, and turn failures into exit codes.

    Without `secrets`, providers' credentials may be unset: for work that calls no model.
    """
    terminal = Terminal(as_json)

    async def work() -> None:
        settings = configuration.load(secrets=secrets)
        quiet(settings)
        async with build(settings, parts) as app:
            await main(app, terminal)

    guarded(work, terminal, loop)


def administer(main: Callable[[App, Terminal], Awaitable[None]], *, as_json: bool) -> None:
    """Do the work of a command that calls no model, also where providers' credentials are not at hand."""
    run(main, as_json=as_json, secrets=False)


def without_platform(main: Callable[[Settings, Terminal], Awaitable[None]], *, as_json: bool) -> None:
    """Do work that needs the settings, no database and no credential of a provider."""
    terminal = Terminal(as_json)

    async def work() -> None:
        settings = configuration.load(secrets=False)
        quiet(settings)
        await main(settings, terminal)

    guarded(work, terminal)


def quiet(settings: Settings) -> None:
    """Send log lines to the error stream at the level asked for; libraries only speak of trouble."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", level="WARNING")
    logging.getLogger("metier").setLevel(settings.log_level.upper())
    logging.getLogger("procrastinate").setLevel("ERROR")
    # A connection given up with its command is no trouble; a database that is away is told by who needs it.
    logging.getLogger("psycopg.pool").setLevel("ERROR")


def fail(terminal: Terminal, error: MetierError) -> NoReturn:
    """Say what went wrong and leave with the code of whose fault it is."""
    if terminal.as_json:
        click.echo(json.dumps({"error": {"code": error.code, "message": error.message}}, ensure_ascii=False))
    else:
        terminal.err.print(
            f"[bold red]{markup.escape(error.code)}[/bold red] {markup.escape(error.message)}", soft_wrap=True
        )
    raise SystemExit(next((code for kind, code in _CODES if isinstance(error, kind)), 1))


def plain(value: object) -> Any:
    """Turn dataclasses, dates, decimals and sets into what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.repr}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(v) for v in value)
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, bytes | memoryview):
        return f"<{len(value)} bytes>"
    return value


def guarded(work: Callable[[], Awaitable[None]], terminal: Terminal, loop: Loop | None = None) -> None:
    """Run the work of a command and turn its failures into exit codes."""

    async def main() -> None:
        await work()

    try:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(main())
    except KeyboardInterrupt:
        terminal.err.print("[dim]stopped[/dim]")
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise  # whoever read has gone, such as `head`: click ends without a word
    except Exception as error:  # edge of the process: told in a line, traced at the level debug
        logging.getLogger("metier").debug("the command failed", exc_info=error)
        fail(terminal, _told(error))


def _told(error: BaseException) -> MetierError:
    """Turn whatever a command failed by into an error that says whose fault it is."""
    known = _first(error)
    if isinstance(known, MetierError):
        return known
    if isinstance(known, psycopg.Error):
        reason = str(known).strip().splitlines()[:1]
        return Unavailable(f"the database stopped answering: {' '.join(reason)}; check that it runs, then try again")
    if known is not None:
        place = f" to {str(known.filename)!r}" if known.filename else ""
        return Unavailable(
            f"writing{place} failed: {known.strerror}; make room or give access, or set METIER_HOME to another folder, "
            "then try again: what is already there is kept"
        )
    return Broken(
        f"the command failed unexpectedly ({type(error).__name__}): METIER_LOG_LEVEL=debug shows where; report it"
    )


def _least(cells: Sequence[str]) -> int:
    """Columns a cell needs to be read: prose may be broken between words, names and figures may not."""
    return max(min(len(cell), _PROSE) if " " in cell.strip() else len(cell) for cell in cells)


def _first(error: BaseException) -> MetierError | psycopg.Error | OSError | None:
    if isinstance(error, MetierError | psycopg.OperationalError | psycopg.InterfaceError):
        return error
    if isinstance(error, OSError) and error.errno in _NO_WRITING:
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((found for one in error.exceptions if (found := _first(one)) is not None), None)
    return None
