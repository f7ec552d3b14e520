"""The books of a day: what clients saw, what the provider served and what the ledger says must be one story."""

from __future__ import annotations

import json
import pathlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from day_clients import Phase, Said

__all__ = ["Books", "House", "Served", "read_journal"]

_MILLION = Decimal(1_000_000)
_SLACK_S = 1.0
"""What is decided holds everywhere within a second; a busy machine is given one more to say so."""
_ROWS = """
SELECT id, extract(epoch FROM at)::double precision AS at, key, organisation, project, system, model, deployment,
    outcome, error_code, input_tokens, output_tokens, estimated, cost_eur, reserved_eur, lease, cache, tries,
    conversation, duration_s
FROM calls ORDER BY at
"""
_HOURS = """
SELECT coalesce(sum(abs(coalesce(u.calls, 0) - coalesce(c.calls, 0))
    + abs(coalesce(u.errors, 0) - coalesce(c.errors, 0)) + abs(coalesce(u.tokens, 0) - coalesce(c.tokens, 0))
    + abs(coalesce(u.cost, 0) - coalesce(c.cost, 0))), 0) AS wrong
FROM (SELECT hour, organisation, project, system, model, calls, errors, input_tokens + output_tokens AS tokens,
        cost_eur AS cost FROM usage_hours) u
FULL JOIN (SELECT date_trunc('hour', at, 'UTC') AS hour, organisation, project, system, model, count(*) AS calls,
        count(*) FILTER (WHERE outcome <> 'answered') AS errors, sum(input_tokens + output_tokens) AS tokens,
        sum(cost_eur) AS cost FROM calls GROUP BY 1, 2, 3, 4, 5) c
    USING (hour, organisation, project, system, model)
"""
_KEYS = """
SELECT coalesce(sum(abs(coalesce(u.calls, 0) - coalesce(c.calls, 0))
    + abs(coalesce(u.cost, 0) - coalesce(c.cost, 0))), 0) AS wrong
FROM (SELECT key, sum(calls) AS calls, sum(cost_eur) AS cost FROM usage_keys GROUP BY 1) u
FULL JOIN (SELECT key, count(*) AS calls, sum(cost_eur) AS cost FROM calls GROUP BY 1) c USING (key)
"""
_LATENCIES = """
SELECT (SELECT coalesce(sum(calls), 0) FROM usage_latencies WHERE measure = 'whole')
     - (SELECT count(*) FROM calls WHERE outcome = 'answered') AS wrong
"""
_STANDINGS = """
SELECT l.scope, l.subject, l.measure, l.amount, s.spent, s.held,
    (SELECT coalesce(sum(cost_eur), 0) FROM calls c
     WHERE l.subject = CASE l.scope WHEN 'organisation' THEN c.organisation WHEN 'project' THEN c.project
                                    WHEN 'system' THEN c.system ELSE c.key END) AS cost,
    (SELECT coalesce(sum(greatest(cost_eur - reserved_eur, 0)), 0) FROM calls c
     WHERE l.subject = CASE l.scope WHEN 'organisation' THEN c.organisation WHEN 'project' THEN c.project
                                    WHEN 'system' THEN c.system ELSE c.key END) AS bound
FROM limits l JOIN standings s ON s.limit_id = l.id WHERE l.measure = 'money' ORDER BY l.scope, l.subject
"""


@dataclass(frozen=True, slots=True)
class Served:
    """One request as the provider saw it."""

    mark: str
    house: str
    operation: str
    happened: str
    prompt: int
    tokens: int
    began: float
    first: float
    ended: float


@dataclass(slots=True)
class House:
    """What the books must know of how the day was arranged."""

    keys: Mapping[str, str]
    """Names of keys by their public parts."""
    prices: Mapping[str, tuple[int, int]]
    """Euros per million input and output tokens, by deployment."""
    harsh: frozenset[int]
    """Phases in which connections may be cut, since a process was killed."""
    trying: frozenset[int]
    """Phases in which calls may fail, with a type."""
    suspended: tuple[str, float, float] = ("", 0.0, 0.0)
    """A key, and from when to when its system was suspended."""
    revoked: tuple[str, float] = ("", 0.0)
    hurried: tuple[str, int] = ("", 0)
    """A key, and how many requests a minute it has."""
    together: tuple[frozenset[str], int] = (frozenset(), 0)
    """Keys of a project, and how many calls it may make at a time."""


def read_journal(path: pathlib.Path) -> list[Served]:
    """Read what the provider wrote down."""
    return [Served(*json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


@dataclass(slots=True)
class Books:
    """Everything that was said, served and recorded, and what of it disagrees."""

    house: House
    said: Sequence[Said]
    served: Sequence[Served]
    rows: Sequence[Mapping[str, Any]] = ()
    wrong: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    of: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    """The row of each call, by its place among what was said."""

    def close(self, connection: Any, phases: Sequence[Phase], drift: Sequence[Any]) -> None:
        """Make all comparisons; what disagrees is in `wrong`, what is worth telling in `lines`."""
        self.rows = connection.execute(_ROWS).fetchall()
        self._match()
        self._ends(phases)
        self._provider()
        self._rules()
        self._money(connection)
        for name, query in (("hours", _HOURS), ("keys", _KEYS), ("latencies", _LATENCIES)):
            off = connection.execute(query).fetchone()["wrong"]
            self._must(off == 0, f"the totals by {name} are off by {off}")
        opened = connection.execute("SELECT count(*) AS n FROM leases WHERE closed_at IS NULL").fetchone()["n"]
        permits = connection.execute("SELECT coalesce(sum(amount), 0) AS n FROM grants WHERE slot = 0").fetchone()["n"]
        self._must(not opened, f"{opened} leases are still open")
        self._must(not permits, f"{permits} permits of concurrency are still held")
        self.wrong += [f"a limit disagrees with the ledger: {line}" for line in drift]
        self._tell(f"totals of {len(self.rows)} calls by hour, key and latency agree; open leases {opened}; drift "
                   f"{len(drift)}")  # fmt: skip

    def _must(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.wrong.append(otherwise)

    def _tell(self, line: str) -> None:
        self.lines.append(line)

    def _some(self, what: str, found: Sequence[object]) -> None:
        """Something that must not be: told with its number and the first few."""
        if found:
            self.wrong.append(f"{len(found)} {what}: " + "; ".join(str(one) for one in found[:4]))

    def _match(self) -> None:
        """Find the row of every call: by the name the client was told, else by conversation, else by key and time."""
        by_id = {row["id"]: row for row in self.rows}
        by_mark = {row["conversation"]: row for row in self.rows if row["conversation"]}
        taken: set[str] = set()
        lost: list[str] = []
        unnamed: list[int] = []
        for place, said in enumerate(self.said):
            row = by_id.get(said.call) if said.call.startswith("call_") else by_mark.get(said.mark)
            if row is not None:
                self._must(row["id"] not in taken, f"two clients were told the name {row['id']}")
                taken.add(row["id"])
                self.of[place] = row
            elif said.call.startswith("call_"):
                lost.append(f"{said.call} ({said.kind}, {said.outcome} {said.code}, phase {said.phase})")
            elif not said.call:
                unnamed.append(place)
        self._some("calls whose name a client was told are not in the ledger (LOST)", lost)
        left = [row for row in self.rows if row["id"] not in taken]
        names = self.house.keys
        strange: list[str] = []
        for row in left:
            fit = [place for place in unnamed if place not in self.of and names.get(row["key"]) == self.said[place].key
                   and self.said[place].at - 0.1 <= row["at"] <= self.said[place].until + 0.5]  # fmt: skip
            if fit:
                self.of[fit[0]] = row
            else:
                strange.append(f"{row['id']} {row['outcome']} {row['error_code']} {row['model']}")
        self._some("calls in the ledger that no client made (DOUBLE)", strange)
        self._must(len({row["id"] for row in self.rows}) == len(self.rows), "a call stands twice in the ledger")
        self._tell(f"calls sent {len(self.said)}; rows in the ledger {len(self.rows)}; matched {len(self.of)}; "
                   f"lost {len(lost)}; double {len(strange)}; without a row, since no key or body was good or no node "
                   f"was reached: {len(self.said) - len(self.of) - len(lost)}")  # fmt: skip

    def _ends(self, phases: Sequence[Phase]) -> None:
        """Every call has an end with a type, the same for its client and in the ledger."""
        may = {"answered": {"answered"}, "refused": {"refused"}, "failed": {"failed"},
               "left": {"cancelled", "answered", "failed", "refused"}}  # fmt: skip
        odd: list[str] = []
        wrong = [f"{said.kind}: {said.wrong} ({said.call})" for said in self.said
                 if said.wrong and said.outcome == "answered"]  # fmt: skip
        self._some("answers that are not right", wrong)
        self._some("calls were answered by silence", [s.kind for s in self.said if s.outcome == "silent"])
        for place, said in enumerate(self.said):
            row = self.of.get(place)
            if row is not None and said.outcome in may and row["outcome"] not in may[said.outcome] and not (
                # The answer was whole in the ledger before its client was cut off from it.
                said.phase in self.house.harsh and row["outcome"] in ("lost", "answered")
            ):  # fmt: skip
                odd.append(f"{said.call} {said.kind}: {said.outcome} {said.code} / {row['outcome']} "
                           f"{row['error_code']}")  # fmt: skip
        self._some("calls end otherwise in the ledger than for their client", odd)
        for number, phase in enumerate(phases):
            ends = Counter(said.outcome for said in self.said if said.phase == number)
            broken = [f"{said.kind} {said.status} {said.wrong}" for said in self.said
                      if said.phase == number and said.outcome == "broken"]  # fmt: skip
            failed = [f"{said.kind} {said.code} at {said.at - phase.began:.1f} s" for said in self.said
                      if said.phase == number and said.outcome == "failed"]  # fmt: skip
            if number not in self.house.harsh:
                self._some(f"calls broke off in {phase.name!r}", broken)
            if number not in self.house.trying:
                self._some(f"calls failed in {phase.name!r}", failed)
            self._tell(f"  {phase.name:<45} {phase.ended - phase.began:6.1f} s  " + "  ".join(
                f"{name} {ends[name]}" for name in ("answered", "refused", "failed", "left", "broken")))  # fmt: skip
        codes = Counter(f"{said.outcome} {said.code}" for said in self.said if said.code)
        self._tell("  with codes: " + ", ".join(f"{code} {number}" for code, number in sorted(codes.items())))

    def _provider(self) -> None:
        """Every request the provider served belongs to one call, and is paid once, at its price."""
        asked: dict[str, list[Served]] = defaultdict(list)
        for served in self.served:
            asked[served.mark].append(served)
        self._some("requests carried personal data", [s.mark for s in self.served if s.happened == "leaked"])
        self._some("requests carried no mark", [s for s in self.served if not s.mark])
        rows: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        repeated = {said.mark for said in self.said if said.kind == "repeated"}
        for place, said in enumerate(self.said):
            if place in self.of:
                rows[said.mark].append(self.of[place])
        faults: dict[str, list[str]] = defaultdict(list)
        for mark, requests in asked.items():
            given = [one for one in requests if one.happened == "served"]
            paid = [
                row for row in rows[mark] if row["cache"] is None and (row["deployment"] or row["outcome"] == "lost")
            ]
            tries = sum(row["tries"] for row in paid)
            if not paid:
                faults["questions were served without a row"].append(mark)
            elif len(requests) > tries:
                faults["questions were asked more often than recorded"].append(f"{mark} {len(requests)} of {tries}")
            if mark not in repeated and len(given) > 1:
                faults["questions were served twice"].append(mark)
            if len(given) > len(paid):
                faults["questions were served more often than paid"].append(mark)
        for place, said in enumerate(self.said):
            row = self.of.get(place)
            if row is not None and said.cost and Decimal(said.cost) != row["cost_eur"]:
                faults["calls cost otherwise than their client was told"].append(f"{said.call} {said.cost}")
            if row is None or row["cache"] is not None or row["estimated"] or row["deployment"] is None:
                continue
            fault = self._unlike(row, asked.get(said.mark, ()))
            if fault:
                faults["rows are not what the provider counted"].append(f"{row['id']} {said.kind}: {fault}")
        for what, found in faults.items():
            self._some(what, found)
        outcomes = Counter(f"{row['outcome']} {row['error_code'] or ''}".strip() for row in self.rows)
        self._tell("in the ledger: " + ", ".join(f"{name} {number}" for name, number in sorted(outcomes.items())))
        again = Counter(row["tries"] for row in self.rows)
        self._tell("deployments asked per call: " + ", ".join(f"{n}: {again[n]}" for n in sorted(again)))
        ends = Counter(f"{s.house} {s.happened}" for s in self.served)
        self._tell(f"the provider saw {len(self.served)} requests: " + ", ".join(
            f"{name} {number}" for name, number in sorted(ends.items())))  # fmt: skip
        kept = sum(1 for row in self.rows if row["cache"] is not None)
        self._tell(f"answers given again from the cache: {kept}, for nothing")
        self._some(
            "answers out of the cache cost something", [r["id"] for r in self.rows if r["cache"] and r["cost_eur"]]
        )
        self._estimated(asked)

    def _unlike(self, row: Mapping[str, Any], requests: Iterable[Served]) -> str:
        price = self.house.prices[row["deployment"]]
        cost = (row["input_tokens"] * Decimal(price[0]) + row["output_tokens"] * Decimal(price[1])) / _MILLION
        if cost != row["cost_eur"]:
            return f"{row['cost_eur']} instead of {cost}"
        if not (row["input_tokens"] or row["output_tokens"]) and row["outcome"] != "answered":
            return ""
        told = [(one.prompt, one.tokens) for one in requests
                if one.happened == "served" and row["deployment"].endswith(one.house)]  # fmt: skip
        return "" if (row["input_tokens"], row["output_tokens"]) in told else f"{row['input_tokens']}, {told}"

    def _estimated(self, asked: Mapping[str, Sequence[Served]]) -> None:
        """Calls that left no figure: what the ledger says beside what the provider had written by then."""
        table: dict[str, list[Decimal]] = defaultdict(lambda: [Decimal(0)] * 3)
        for place, row in self.of.items():
            if not row["estimated"] or (row["deployment"] is None and row["outcome"] != "lost"):
                continue
            true = Decimal(0)
            for one in asked.get(self.said[place].mark, ()):
                if one.happened in ("served", "left", "cut") and one.first:
                    name = f"{row['model']}-{one.house}"
                    price = self.house.prices.get(name, (0, 0))
                    true += (one.prompt * Decimal(price[0]) + one.tokens * Decimal(price[1])) / _MILLION
            name = f"{row['outcome']} {row['error_code'] or ''}".strip()
            table[name] = [x + y for x, y in zip(table[name], (1, row["cost_eur"], true), strict=True)]
        for name, (number, cost, true) in sorted(table.items()):
            self._tell(f"  estimated, {name}: {number} calls, {cost:.6f} € in the ledger, {true:.6f} € as the provider "
                       "would say")  # fmt: skip

    def _rules(self) -> None:
        """What was decided held: a suspended system, a revoked key, a rate."""
        key, since, until = self.house.suspended
        for place, said in enumerate(self.said):
            row = self.of.get(place)
            if said.key == key and row is not None:
                stopped = row["error_code"] == "system_not_approved"
                # A model that does not exist is refused before anybody asks about the system.
                if since + 1 + _SLACK_S < said.at and said.until < until and row["outcome"] != "refused":
                    self.wrong.append(f"{said.call} of a suspended system passed, {said.at - since:.1f} s after")
                if (stopped and not since <= said.until) or (stopped and said.at > until + 1 + _SLACK_S):
                    self.wrong.append(f"{said.call} was stopped although its system is approved")
            key_gone, at = self.house.revoked
            if said.key == key_gone and at and said.at > at + 1 + _SLACK_S and row is not None:
                self.wrong.append(f"{said.call} passed with a key revoked {said.at - at:.1f} s before")
        name, most = self.house.hurried
        times = [
            row["at"]
            for row in self.rows
            if self.house.keys.get(row["key"]) == name and (row["deployment"] or row["outcome"] in ("answered", "lost"))
        ]
        busiest = max((sum(1 for other in times if at <= other < at + 60) for at in times), default=0)
        self._together()
        self._tell(f"a key with {most} requests a minute made {busiest} in its busiest 60 s")
        self._must(busiest <= most, f"{busiest} requests passed in a minute of {most}")

    def _together(self) -> None:
        """No more calls of a project lie at the provider at a time than it may make."""
        keys, most = self.house.together
        marks = {said.mark for said in self.said if said.key in keys}
        turns: list[tuple[float, int]] = []
        for one in self.served:
            # Whose asker left is over for Métier a little before the provider sees it.
            if one.mark in marks and one.happened == "served":
                turns += [(one.began, 1), (one.ended, -1)]
        now = busiest = 0
        for _, turn in sorted(turns):
            now += turn
            busiest = max(busiest, now)
        self._tell(f"a project with {most} calls at a time had {busiest} at the provider")
        self._must(busiest <= most, f"{busiest} calls at a time of {most} reached the provider")

    def _money(self, connection: Any) -> None:
        """Budgets are what the ledger says, to the last digit, and passed their amount by no more than is stated."""
        for row in connection.execute(_STANDINGS).fetchall():
            whose = f"{row['scope']} {row['subject']}"
            over = max(row["spent"] - row["amount"], Decimal(0))
            self._must(row["spent"] == row["cost"], f"{whose}: {row['spent']} spent, {row['cost']} in the ledger")
            self._must(row["held"] == 0, f"{whose}: {row['held']} stay held")
            self._must(over <= row["bound"], f"{whose}: {over} over its budget, {row['bound']} at most")
            self._tell(f"  {whose}: {row['spent']:f} € spent = calls, of {row['amount']:f}; over by {over:f}, at most "
                       f"{row['bound']:f}")  # fmt: skip
        total = sum((row["cost_eur"] for row in self.rows), Decimal(0))
        self._tell(f"money in the ledger: {total:f} €, of which estimated "
                   f"{sum((row['cost_eur'] for row in self.rows if row['estimated']), Decimal(0)):f} €")  # fmt: skip

    def added(self, phases: Sequence[Phase]) -> list[str]:
        """Time that Métier, the proxy and this machine's queue added to what the provider took, per phase."""
        took: dict[str, list[Served]] = defaultdict(list)
        for served in self.served:
            took[served.mark].append(served)
        lines = []
        for number, phase in enumerate(phases):
            found: dict[str, list[float]] = {"whole": [], "first piece": []}
            for place, said in enumerate(self.said):
                served, row = took.get(said.mark, ()), self.of.get(place)
                if (
                    said.phase != number
                    or said.outcome != "answered"
                    or len(served) != 1
                    or row is None
                    or row["cache"]
                ):
                    continue
                (one,) = served
                if said.kind in ("stream", "messages stream"):
                    found["first piece"].append(1000 * (said.first_s - (one.first - one.began)))
                elif said.kind == "plain":
                    found["whole"].append(1000 * (said.until - said.at - (one.ended - one.began)))
            told = []
            for name, times in found.items():
                times.sort()
                if times:
                    told.append(f"{name} p50 {times[len(times) // 2]:.1f} p99 {times[len(times) * 99 // 100]:.1f} ms")
            rate = phase.made / max(phase.ended - phase.began, 0.001)
            cpu = 1000 * phase.cpu_s / max(phase.made, 1)
            lines.append(f"  {phase.name:<45} {rate:5.0f} calls/s, CPU {cpu:.2f} ms a call, added " + ", ".join(told))
        return lines
