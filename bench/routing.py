"""A simulated house of model servers under trouble: our router beside three others, in the same bad weather.

python bench/routing.py               every scenario, about half a minute
python bench/routing.py --short      the version the tests run
python bench/routing.py --seed 3

Deterministic: the same seed gives the same figures. Nothing is measured on a clock; all times are simulated seconds.
A call that fails counts with the whole time a caller waits (the deadline), so that failing fast is not being quick.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

from metier.calls import Call, ConversationId, KeyId, Message, Principal, ProjectId, SystemId
from metier.deployment import Affinity, Deployment, Price
from metier.router import Flight, Group, Health, Retries, groups, plan

__all__ = ["OTHERS", "SCENARIOS", "Figures", "Scenario", "main", "simulate"]

DEADLINE_S = 30.0
FIRST_TOKEN_S = 8.0
MOST_TRIES = 5
RETRY_PERCENT = 20.0
NODES = 8
SLOTS = 8
BASE_S = 0.15
PREFILL_TOKENS_S = 5_000.0
DECODE_S = 0.01
CACHED_CONVERSATIONS = 20
FREE = Price(Decimal(0), Decimal(0), Decimal(0))
PRINCIPAL = Principal(KeyId("k"), ProjectId("p"), SystemId("s"))


@dataclass(frozen=True, slots=True)
class Job:
    """One call: when it comes, how long its prompt and its answer are, what it shares with others."""

    number: int
    at: float
    prompt: int
    output: int
    conversation: int
    shared: int = 0
    """Tokens of the prompt that a server has read before, if it served this conversation lately."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What a node does at one moment."""

    slowness: float = 1.0
    hangs: bool = False
    breaks: bool = False
    """Answers begin and are cut off."""
    refuses: bool = False
    limit_per_s: float | None = None
    """Calls above this rate get 429 with the seconds to wait."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Calls to come and the weather over each node."""

    name: str
    jobs: Callable[[random.Random, float], list[Job]]
    weather: Callable[[int, float], Weather]
    affinity: Affinity = "none"
    limits_rpm: Callable[[int], int | None] = lambda node: None


@dataclass(frozen=True, slots=True)
class Figures:
    """What one router made of one scenario."""

    p50_s: float
    p99_s: float
    error_rate: float
    calls: int
    tries: int


class Strategy(Protocol):
    """A router under test: which node next, and what it is told."""

    def order(self, job: Job, now: Callable[[], float]) -> Iterator[int]: ...
    def began(self, job: Job, node: int, now: float) -> object: ...
    def first(self, flight: object, now: float) -> None: ...
    def answered(self, flight: object, job: Job, now: float) -> None: ...
    def failed(self, flight: object, now: float, wait_s: float | None, silent: bool) -> None: ...
    def left(self, flight: object, now: float) -> None: ...
    def may_retry(self, now: float) -> bool: ...


class Ours:
    """The router of Métier, as the gateway calls it."""

    def __init__(self, scenario: Scenario, dice: random.Random) -> None:
        made = [_deployment(number, scenario.limits_rpm(number)) for number in range(NODES)]
        self._deployments = made
        self._ways: tuple[Group, ...] = groups([made], scenario.affinity)
        self._health, self._retries = Health(), Retries()
        self._dice = dice

    def order(self, job: Job, now: Callable[[], float]) -> Iterator[int]:
        self._retries.called("m", now())
        call = Call(
            PRINCIPAL, "m", messages=(Message("user", f"conversation {job.conversation}"),),
            conversation=ConversationId(str(job.conversation)),
        )  # fmt: skip
        for deployment in plan(self._ways, self._health, now, self._dice.random, call, job.prompt):
            yield int(deployment.id)

    def began(self, job: Job, node: int, now: float) -> object:
        return self._health.began(self._deployments[node], job.prompt, now)

    def first(self, flight: object, now: float) -> None:
        assert isinstance(flight, Flight)
        self._health.first(flight, now)

    def answered(self, flight: object, job: Job, now: float) -> None:
        assert isinstance(flight, Flight)
        self._health.answered(flight, job.output, now)

    def failed(self, flight: object, now: float, wait_s: float | None, silent: bool) -> None:
        assert isinstance(flight, Flight)
        self._health.failed(flight, now, wait_s, silent=silent)

    def left(self, flight: object, now: float) -> None:
        assert isinstance(flight, Flight)
        self._health.left(flight, now)

    def may_retry(self, now: float) -> bool:
        return self._retries.allow("m", RETRY_PERCENT, now)


class _Plain:
    """What the other three have in common: they are told little, and retry elsewhere."""

    def __init__(self, scenario: Scenario, dice: random.Random) -> None:
        self._dice = dice
        self._in_flight = [0] * NODES

    def order(self, job: Job, now: Callable[[], float]) -> Iterator[int]:
        left = list(range(NODES))
        while left:
            node = self._choose(left)
            left.remove(node)
            yield node

    def _choose(self, left: Sequence[int]) -> int:
        return self._dice.choice(left)

    def began(self, job: Job, node: int, now: float) -> object:
        self._in_flight[node] += 1
        return (node, now)

    def first(self, flight: object, now: float) -> None:
        pass

    def answered(self, flight: object, job: Job, now: float) -> None:
        assert isinstance(flight, tuple)
        self._in_flight[flight[0]] -= 1

    def failed(self, flight: object, now: float, wait_s: float | None, silent: bool) -> None:
        assert isinstance(flight, tuple)
        self._in_flight[flight[0]] -= 1

    def left(self, flight: object, now: float) -> None:
        self.failed(flight, now, None, False)

    def may_retry(self, now: float) -> bool:
        return True


class WeightedRandom(_Plain):
    """Draws by weight; all weights are alike here."""


class FrozenMean(_Plain):
    """The least mean latency of the nine oldest answers of each node: a figure that never changes again."""

    def __init__(self, scenario: Scenario, dice: random.Random) -> None:
        super().__init__(scenario, dice)
        self._samples: list[list[float]] = [[] for _ in range(NODES)]

    def _choose(self, left: Sequence[int]) -> int:
        unknown = [node for node in left if len(self._samples[node]) < 9]
        if unknown:
            return self._dice.choice(unknown)
        means = {node: sum(self._samples[node]) / 9 for node in left}
        # Those within a tenth of the best share, as its makers let them.
        best = min(means.values())
        return self._dice.choice([node for node in left if means[node] <= best * 1.1])

    def answered(self, flight: object, job: Job, now: float) -> None:
        super().answered(flight, job, now)
        assert isinstance(flight, tuple)
        if len(self._samples[flight[0]]) < 9:
            self._samples[flight[0]].append((now - flight[1]) / job.output)


class PlainTwoChoices(_Plain):
    """The one of two drawn nodes with fewer calls under way."""

    def _choose(self, left: Sequence[int]) -> int:
        if len(left) == 1:
            return left[0]
        one, other = self._dice.sample(left, 2)
        return one if self._in_flight[one] <= self._in_flight[other] else other


OTHERS: Mapping[str, Callable[[Scenario, random.Random], Strategy]] = {
    "weighted random": WeightedRandom,
    "least mean, frozen": FrozenMean,
    "plain two choices": PlainTwoChoices,
}


class _Node:
    """A server with so many places; prompts it has read lately cost it less."""

    def __init__(self) -> None:
        self.busy = 0
        self.waiting: deque[_Try] = deque()
        self.read: OrderedDict[int, None] = OrderedDict()
        self.reads_until = 0.0
        """Prompts are read one after the other; answers are written side by side."""
        self.window = -1
        self.taken = 0


@dataclass(slots=True, eq=False)
class _Try:
    """One call at one node."""

    job: Job
    node: int
    order: Iterator[int]
    flight: object
    number: int
    running: bool = False
    over: bool = False
    begun: bool = False


@dataclass(slots=True)
class _World:
    scenario: Scenario
    strategy: Strategy
    now: float = 0.0
    events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    counter: Iterator[int] = field(default_factory=itertools.count)
    nodes: list[_Node] = field(default_factory=lambda: [_Node() for _ in range(NODES)])
    latencies: list[float] = field(default_factory=list)
    errors: int = 0
    tries: int = 0
    current: dict[int, _Try] = field(default_factory=dict)

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.events, (when, next(self.counter), what))

    def arrive(self, job: Job) -> None:
        self.at(job.at + DEADLINE_S, lambda: self.give_up(job))
        self.attempt(job, self.strategy.order(job, lambda: self.now), 0)

    def attempt(self, job: Job, order: Iterator[int], number: int) -> None:
        if number >= MOST_TRIES or (number and not self.strategy.may_retry(self.now)):
            return self.lose(job)
        node = next(order, None)
        if node is None:
            return self.lose(job)
        self.tries += 1
        one = _Try(job, node, order, self.strategy.began(job, node, self.now), number)
        self.current[job.number] = one
        place, weather = self.nodes[node], self.scenario.weather(node, self.now)
        if weather.limit_per_s is not None and not self._within(place, weather.limit_per_s):
            wait = 10.0 - self.now % 10.0
            self.at(self.now + BASE_S, lambda: self.fail(one, wait))
        elif weather.refuses:
            self.at(self.now + BASE_S, lambda: self.fail(one, None))
        elif weather.hangs:
            self.at(self.now + FIRST_TOKEN_S, lambda: self.fail(one, None, True))
        else:
            self.at(self.now + FIRST_TOKEN_S, lambda: None if one.begun else self.fail(one, None, True))
            place.waiting.append(one)
            self.serve(node)
        return None

    def _within(self, place: _Node, limit_per_s: float) -> bool:
        window = int(self.now // 10.0)
        if window != place.window:
            place.window, place.taken = window, 0
        place.taken += 1
        return place.taken <= limit_per_s * 10.0

    def serve(self, node: int) -> None:
        place = self.nodes[node]
        while place.busy < SLOTS and place.waiting:
            one = place.waiting.popleft()
            if one.over:
                continue
            place.busy += 1
            one.running = True
            job, weather = one.job, self.scenario.weather(node, self.now)
            known = job.shared if job.conversation in place.read else 0
            place.read[job.conversation] = None
            place.read.move_to_end(job.conversation)
            if len(place.read) > CACHED_CONVERSATIONS:
                place.read.popitem(last=False)
            read_s = (job.prompt - known) / PREFILL_TOKENS_S * weather.slowness
            place.reads_until = max(self.now, place.reads_until) + read_s
            first = place.reads_until - self.now + BASE_S * weather.slowness
            whole = first + job.output * DECODE_S * weather.slowness
            self.at(self.now + first, lambda one=one: self.begin(one))  # type: ignore[misc]  # bound now, not later
            if weather.breaks:
                whole = first + (whole - first) / 2
                self.at(self.now + whole, lambda one=one: self.fail(one, None))  # type: ignore[misc]  # as above
            else:
                self.at(self.now + whole, lambda one=one: self.finish(one))  # type: ignore[misc]  # as above

    def begin(self, one: _Try) -> None:
        if not one.over:
            one.begun = True
            self.strategy.first(one.flight, self.now)

    def finish(self, one: _Try) -> None:
        if not one.over:
            self.strategy.answered(one.flight, one.job, self.now)
            self.latencies.append(self.now - one.job.at)
            self.end(one)

    def fail(self, one: _Try, wait_s: float | None, silent: bool = False) -> None:
        if one.over:
            return
        self.strategy.failed(one.flight, self.now, wait_s, silent)
        self.end(one)
        if one.begun:
            self.lose(one.job)
        else:
            self.attempt(one.job, one.order, one.number + 1)

    def give_up(self, job: Job) -> None:
        one = self.current.get(job.number)
        if one is not None:
            self.strategy.left(one.flight, self.now)
            self.end(one)
            self.lose(job)

    def lose(self, job: Job) -> None:
        self.current.pop(job.number, None)
        self.errors += 1
        self.latencies.append(DEADLINE_S)

    def end(self, one: _Try) -> None:
        one.over = True
        self.current.pop(one.job.number, None)
        if one.running:
            # A server stops working for a connection that is gone.
            self.nodes[one.node].busy -= 1
            self.serve(one.node)


def simulate(
    scenario: Scenario, make: Callable[[Scenario, random.Random], Strategy], seed: int, seconds: float
) -> Figures:
    """Run one scenario with one router; the calls and the weather are the same for every router of a seed."""
    world = _World(scenario, make(scenario, random.Random(seed + 1)))
    jobs = scenario.jobs(random.Random(seed), seconds)
    for job in jobs:
        world.at(job.at, lambda job=job: world.arrive(job))  # type: ignore[misc]  # bound now, not later
    while world.events:
        world.now, _, what = heapq.heappop(world.events)
        what()
    ordered = sorted(world.latencies)
    assert len(ordered) == len(jobs), "every call ends once"
    return Figures(
        p50_s=ordered[len(ordered) // 2],
        p99_s=ordered[min(len(ordered) - 1, math.ceil(len(ordered) * 0.99) - 1)],
        error_rate=world.errors / len(jobs),
        calls=len(jobs),
        tries=world.tries,
    )


def _arrivals(rate: float, shape: Callable[[random.Random, int, float], Job]) -> Callable[..., list[Job]]:
    def jobs(dice: random.Random, seconds: float) -> list[Job]:
        made: list[Job] = []
        at = 0.0
        while (at := at + dice.expovariate(rate)) < seconds:
            made.append(shape(dice, len(made), at))
        return made

    return jobs


def _usual(dice: random.Random, number: int, at: float) -> Job:
    return Job(number, at, _prompt(dice), _output(dice), number)


def _heavy(dice: random.Random, number: int, at: float) -> Job:
    prompt = int(min(30_000, 8_000 * dice.paretovariate(1.1))) if dice.random() < 0.008 else _prompt(dice)
    return Job(number, at, prompt, _output(dice), number)


def _reused(dice: random.Random, number: int, at: float) -> Job:
    shared = 6_000
    return Job(number, at, shared + _prompt(dice), _output(dice), dice.randrange(120), shared)


def _prompt(dice: random.Random) -> int:
    return int(min(4_000, dice.lognormvariate(6.0, 0.7)))


def _output(dice: random.Random) -> int:
    return max(2, int(min(300, dice.lognormvariate(4.8, 0.6))))


def _slow(node: int, now: float) -> Weather:
    return Weather(slowness=8.0) if node == 0 and now > 40 else Weather()


def _flapping(node: int, now: float) -> Weather:
    """For ten seconds of every minute one node breaks off what it begins, one hangs, one refuses."""
    if (now + node * 20) % 60 >= 10:
        return Weather()
    return {0: Weather(breaks=True), 1: Weather(hangs=True), 2: Weather(refuses=True)}.get(node, Weather())


def _storm(node: int, now: float) -> Weather:
    """For half of every minute six of eight nodes take one call in five seconds."""
    return Weather(limit_per_s=0.2) if node < 6 and now % 60 >= 30 else Weather()


def _calm(node: int, now: float) -> Weather:
    return Weather()


SCENARIOS: tuple[Scenario, ...] = (
    Scenario("slow node", _arrivals(26.0, _usual), _slow),
    Scenario("flapping node", _arrivals(16.0, _usual), _flapping),
    Scenario("429 storm", _arrivals(7.0, _usual), _storm),
    Scenario("heavy-tailed prompts", _arrivals(30.0, _heavy), _calm),
    Scenario("prefix reuse", _arrivals(5.0, _reused), _calm, affinity="session"),
)


def _deployment(number: int, rpm: int | None) -> Deployment:
    return Deployment(
        str(number), "scripted", "m", None, None, FREE, None, 128_000, 1_000, DEADLINE_S, None, "private", rpm=rpm
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, and the same as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="two simulated minutes instead of ten")
    given = parser.parse_args(argv)
    seconds = 120.0 if given.short else 600.0
    report: dict[str, dict[str, dict[str, float]]] = {}
    better = True
    for scenario in SCENARIOS:
        print(f"\n{scenario.name}")
        print(f"  {'router':<20} {'p50 s':>8} {'p99 s':>8} {'errors':>8} {'tries a call':>13}")
        rows = report[scenario.name] = {}
        for name, make in {"ours": Ours, **OTHERS}.items():
            found = simulate(scenario, make, given.seed, seconds)
            rows[name] = {"p50_s": found.p50_s, "p99_s": found.p99_s, "error_rate": found.error_rate}
            print(
                f"  {name:<20} {found.p50_s:8.2f} {found.p99_s:8.2f} {found.error_rate:8.2%} "
                f"{found.tries / found.calls:13.2f}"
            )
        mine = rows["ours"]
        better &= all(
            mine["p99_s"] < row["p99_s"] and mine["error_rate"] <= row["error_rate"]
            for name, row in rows.items() if name != "ours"
        )  # fmt: skip
    print()
    print(json.dumps({"bench": "routing", "seed": given.seed, "seconds": seconds, "better": better, "figures": report}))
    return 0 if better else 1


if __name__ == "__main__":
    raise SystemExit(main())
