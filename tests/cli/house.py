"""Runs `metier` commands as people do, on a house of their own."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from click.testing import CliRunner

from metier.cli import main

NEVER = ("Traceback", "psycopg", 'File "/', "failed unexpectedly")
"""Words that no command shows, whatever happens."""


@dataclass(frozen=True, slots=True)
class House:
    """A folder and a database that commands find through the environment."""

    home: pathlib.Path
    database_url: str
    more: Mapping[str, str] = field(default_factory=dict)
    """Further variables."""

    @property
    def environment(self) -> dict[str, str]:
        """What every command is started with; the width keeps tables whole."""
        own = {"METIER_HOME": str(self.home), "METIER_DATABASE_URL": self.database_url, "COLUMNS": "300"}
        return {**own, "METIER_LOG_LEVEL": "error", **self.more}

    def run(self, *arguments: str, code: int = 0, env: Mapping[str, str] | None = None) -> str:
        """Run a command that must leave with this code, and give all it wrote; it never shows a traceback."""
        done = CliRunner().invoke(main, arguments, env={**self.environment, **(env or {})}, prog_name="metier")
        told = f"metier {' '.join(arguments)} left with {done.exit_code}: {done.output}"
        assert done.exception is None or isinstance(done.exception, SystemExit), (told, done.exc_info)
        assert done.exit_code == code, told
        assert not [word for word in NEVER if word in done.output], told
        return done.output

    def data(self, *arguments: str, code: int = 0, env: Mapping[str, str] | None = None) -> Any:
        """Run a command with --json and give its one JSON document, which is all it writes to its output."""
        done = CliRunner().invoke(
            main, [*arguments, "--json"], env={**self.environment, **(env or {})}, prog_name="metier"
        )
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        assert done.exit_code == code, done.output
        assert not [word for word in NEVER if word in done.output], done.output
        return json.loads(done.stdout)
