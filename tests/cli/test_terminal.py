"""What tables come to: one line a row where nobody looks, and blocks where a terminal is too narrow."""

from __future__ import annotations

import pytest
from rich.console import Console

from metier.cli.terminal import Terminal, guarded

_COLUMNS = ["id", "name", "purpose", "held"]
_ROW = ["system_1m7yjhaez4nf56s5ysr", "help-desk", "Answers the questions of all who work here, day and night", "0.5"]


def shown(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of a table with one row."""
    terminal.table(_COLUMNS, [_ROW], title="Systems")
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_a_row_that_is_piped_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(Terminal(False), capsys)
    assert len(lines) == 3
    assert lines[2].split("  ") == _ROW


def test_prose_is_narrowed_before_a_table_is_given_up(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(False)
    terminal.out = Console(width=80)
    lines = shown(terminal, capsys)
    assert len(lines) > 3 and lines[2].startswith(f"{_ROW[0]}  help-desk  Answers")
    assert max(map(len, lines)) <= 80


def test_a_terminal_too_narrow_has_each_row_under_its_first_cell(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(False)
    terminal.out = Console(width=60)
    assert shown(terminal, capsys) == [
        "Systems",
        _ROW[0],
        "  name help-desk",
        f"  purpose {_ROW[2]}",
        "  held 0.5",
    ]


def test_what_is_said_is_not_broken_where_it_would_be_copied(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(False)
    terminal.out = Console(width=20)
    terminal.say("metier system move help-desk pilot")
    assert capsys.readouterr().out == "metier system move help-desk pilot\n"


def test_a_reader_that_has_gone_is_no_failure_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    async def work() -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        guarded(work, Terminal(False))
    assert capsys.readouterr().err == ""
