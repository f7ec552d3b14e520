"""What the databases of `kind: sql` have in common: named queries, bounds of an answer, values as JSON."""

from __future__ import annotations

import base64
import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from metier.calls import JSON, Principal
from metier.connectors.effects import Commit, Confirm
from metier.errors import Invalid

__all__ = ["PARTS", "Bounds", "Database", "Query", "plain"]

# Quoted text, quoted names, comments and dollar quotes are left as they are; casts are no parameters.
PARTS = re.compile(
    r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/|(\$\w*\$).*?\1|::|%|(?<![:\w]):([a-z_][a-z0-9_]*)",
    re.DOTALL | re.IGNORECASE,
)
"""What a statement is gone through by: a parameter is what the second group holds."""


@dataclass(frozen=True, slots=True)
class Query:
    """One statement of the configuration."""

    name: str
    description: str
    statement: str
    """With :name where a parameter stands."""
    schema: Mapping[str, JSON]
    write: bool = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most that one query may take."""

    rows: int
    seconds: float
    most_bytes: int
    """Of all values of an answer together, as they come from the database."""

    def passed(self, query: Query, name: str) -> Invalid:
        """Make the error of an answer that is too large."""
        return Invalid(
            f"the query {query.name!r} of {name!r} answered more than {self.most_bytes:,} bytes: ask for less, or "
            "raise `most_bytes:`"
        )


class Database(Protocol):
    """Runs queries within the bounds it was made with."""

    asked: bool
    """Whether it can say how a write in doubt has ended."""

    def confirm(self, who: Principal) -> Confirm:
        """Give what asks, in the name of who wrote, how a write has ended."""
        ...

    async def read(self, query: Query, values: Mapping[str, Any], who: Principal | None) -> tuple[list[str], list[Any]]:
        """Give names of columns and rows, one more than allowed where there are more."""
        ...

    async def write(
        self, query: Query, values: Mapping[str, Any], who: Principal | None, commit: Commit
    ) -> tuple[list[str], list[Any], int]:
        """Give names of columns, rows given back, and how many were touched."""
        ...


def plain(value: Any) -> JSON:
    """Give a value of a database as JSON."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        # JSON has no words for what is no number.
        return value if value - value == 0 else None
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, bytes | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [plain(one) for one in value]
    return str(value)
