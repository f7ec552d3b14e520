"""What a decision table leaves out or decides twice, found by trying the cases its conditions can tell apart."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.cel import parse
from metier.workflow.rules import Table
from metier.workflow.shape import Mark
from metier.workflow.syntax import Node
from metier.workflow.table_cases import CASES_MAX, Cases, cases_of

__all__ = ["CASES_MAX", "Gap", "gaps"]

_SAID_MAX = 10
_ALWAYS = (None, "true")
_MEND: Mapping[str, str] = {
    "missing-case": "add a row for it, or a last row without 'when'",
    "overlap": "make one of them narrower, or write hit: first",
    "never-reached": "remove it, or move it up",
    "failing-row": "guard it, such as x != null && x > 1",
    "too-many-cases": "split the table",
    "no-case": "widen that schema",
}


@dataclass(frozen=True, slots=True)
class Gap:
    """One thing a table leaves open, with a case that shows it."""

    code: str
    """`missing-case`, `overlap`, `never-reached`, `failing-row`, `too-many-cases` or `no-case`."""
    message: str
    mark: Mark
    witness: Mapping[str, JSON]

    @property
    def mend(self) -> str:
        """What to do about it."""
        return _MEND[self.code]

    @property
    def doubtful(self) -> bool:
        """Whether it may be meant so: a decision that fails for no case that comes."""
        return self.code not in ("overlap", "failing-row")


def gaps(table: Table) -> tuple[Gap, ...]:
    """Try every combination of values that conditions can tell apart; each finding shows one of them."""
    cases = cases_of(table)
    first = table.rows[0].mark
    if cases.without is not None:
        return (Gap("no-case", f"no value for {cases.without!r} fits its schema, so no case was tried", first, {}),)
    looked = _Looked(table, cases)
    for case in cases:
        looked.look(case)
    if cases.tried < cases.count:
        message = f"there are {cases.count} cases; {cases.tried} spread among them were tried, and not the others"
        looked.found["many"] = Gap("too-many-cases", message, first, {})
    found = [*looked.found.values(), *looked.never()]
    return tuple(sorted(found, key=lambda gap: gap.code == "too-many-cases", reverse=True))[:_SAID_MAX]


@dataclass(slots=True)
class _Looked:
    """What the cases have shown so far."""

    table: Table
    cases: Cases
    found: dict[str, Gap] = field(default_factory=dict)
    reached: set[int] = field(default_factory=set)
    read: list[Node | None] = field(init=False)
    told: list[bool] = field(init=False)
    """For each row, whether the cases hold every way its condition can come out."""

    def __post_init__(self) -> None:
        self.read = [None if row.when is None else parse(row.when) for row in self.table.rows]
        self.told = [node is None or self.cases.tells(node) for node in self.read]

    def look(self, case: Mapping[str, JSON]) -> None:
        """Ask the rows as a decision does: `first` stops at the first that holds, and any at one that fails."""
        holding: list[int] = []
        deciding = failed = False
        open_ = True
        for number, row in enumerate(self.table.rows):
            if not open_ and (deciding or failed):
                break
            try:
                condition = self.read[number]
                holds = condition is None or row.true(condition, case)
            except Invalid as wrong:
                if not (deciding or failed):
                    message = f"row {number + 1} fails for {_shown(case)}: {wrong.message}"
                    self.found.setdefault(f"failing {number}", Gap("failing-row", message, row.mark, case))
                failed = True
                # Another case of the same kind may pass, where the condition is more than a comparison.
                open_ = open_ and not self.told[number]
                continue
            if holds:
                if open_:
                    self.reached.add(number)
                    open_ = not self.told[number]
                if not (deciding or failed):
                    holding.append(number)
                    deciding = self.table.hit == "first"
        if failed:
            return
        if not holding:
            gap = Gap("missing-case", f"no row holds for {_shown(case)}", self.table.rows[0].mark, case)
            self.found.setdefault("missing", gap)
        if self.table.hit == "unique":
            for key, gap in self._overlaps(holding, case):
                self.found.setdefault(key, gap)

    def never(self) -> Iterator[Gap]:
        """Give the rows that decide nothing, of those the cases tell everything about."""
        for number, row in enumerate(self.table.rows):
            # A last row that always holds is a safety net: that it catches nothing is no mistake.
            known = self.told[number] and f"failing {number}" not in self.found and row.when not in _ALWAYS
            if number not in self.reached and known and self.cases.tried == self.cases.count:
                message = (
                    f"row {number + 1} never decides: rows before it hold whenever it does, or it holds for nothing"
                )
                yield Gap("never-reached", message, row.mark, {})

    def _overlaps(self, holding: list[int], case: Mapping[str, JSON]) -> Iterator[tuple[str, Gap]]:
        rows = self.table.rows
        named = [number for number in holding if rows[number].when not in _ALWAYS]
        for one, two in itertools.combinations(named, 2):
            key = f"overlap {one} {two}"
            if key not in self.found:
                message = f"rows {one + 1} and {two + 1} both hold for {_shown(case)}"
                yield key, Gap("overlap", message, rows[two].mark, case)


def _shown(case: Mapping[str, JSON]) -> str:
    return ", ".join(f"{name} = {value!r}" for name, value in case.items())[:300]
