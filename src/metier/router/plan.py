"""In which order deployments are tried for one call: chosen lazily, so that the first choice costs little."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from metier.calls import Call
from metier.deployment import Affinity, Deployment
from metier.router.health import Health
from metier.router.ring import Ring, point

__all__ = ["Group", "affinity_key", "groups", "plan"]

_DRAWS = 8
_SAMPLE = 8
_CROWDED = 1.1
"""A deployment is left by its keys when it has more than this many times the load of others."""
_PREFIX = 2_000
"""Characters at the beginning of a prompt that decide where it goes."""
_UNEQUAL = 1.5
"""Where weights are declared, the second choice must be this much better to win."""


@dataclass(frozen=True, slots=True)
class Group:
    """Deployments that share the calls among them, with the ring that keeps like calls together."""

    deployments: tuple[Deployment, ...]
    affinity: Affinity = "none"
    ring: Ring | None = None
    places: tuple[float, ...] = field(default=(), repr=False)
    """Cumulated weights from 0 to 1, where they differ."""


def groups(parts: Sequence[Sequence[Deployment]], affinity: Affinity = "none") -> tuple[Group, ...]:
    """Make the groups of a model out of its deployments, already parted and in the order they are to be tried."""
    made = []
    for part in parts:
        ring = Ring(part) if affinity != "none" and len(part) > 1 else None
        made.append(Group(tuple(part), affinity, ring, _places(part)))
    return tuple(made)


def affinity_key(call: Call, affinity: Affinity) -> int | None:
    """Tell what keeps this call with others like it: its cache key, its conversation, or how its prompt begins."""
    if call.cache_key:
        return point(f"{call.principal.key_id}/{call.cache_key}")
    if affinity == "session":
        name = call.conversation or call.end_user
        return point(f"{call.principal.key_id}/{name}") if name else None
    if affinity == "prefix":
        return _prefix(call)
    return None


def plan(
    ways: Sequence[Group],
    health: Health,
    now: Callable[[], float],
    random: Callable[[], float],
    call: Call,
    tokens: int = 1,
) -> Iterator[Deployment]:
    """Give deployments one after the other, the best first; those at rest come last, soonest awake first."""
    if len(ways) == 1 and len(ways[0].deployments) == 1:
        yield ways[0].deployments[0]
        return
    search = _Search(health, random, call, tokens)
    for group in ways:
        while (chosen := search.pick(group, now())) is not None:
            search.tried.add(chosen.id)
            yield chosen
    # Resting ones stay in the plan: a call that may still pass is better than a refusal of our own making.
    moment = now()
    resting = [d for group in ways for d in group.deployments if d.id not in search.tried]
    yield from sorted(resting, key=lambda deployment: health.rests_until(deployment, moment, tokens))


class _Search:
    """Looks for the next deployment of one call."""

    __slots__ = ("_call", "_health", "_random", "_tokens", "tried")

    def __init__(self, health: Health, random: Callable[[], float], call: Call, tokens: int) -> None:
        self._health = health
        self._random = random
        self._call = call
        self._tokens = tokens
        self.tried: set[str] = set()

    def pick(self, group: Group, now: float) -> Deployment | None:
        """The better of two drawn ones, unless the call belongs with others somewhere; None when nobody is free."""
        if len(group.deployments) == 1:
            only = group.deployments[0]
            return only if self._free(only, now) else None
        if group.ring is not None:
            key = affinity_key(self._call, group.affinity)
            kept = None if key is None else self._kept(group, group.ring, key, now)
            if kept is not None:
                return kept
        first, second = self._two(group, now)
        if first is None or second is None:
            return first
        worse = self._health.margin(first, second, self._tokens, now)
        return second if worse > (_UNEQUAL if group.places else 1.0) else first

    def _free(self, deployment: Deployment, now: float) -> bool:
        return deployment.id not in self.tried and not self._health.rests_until(deployment, now, self._tokens)

    def _two(self, group: Group, now: float) -> tuple[Deployment | None, Deployment | None]:
        """Draw two different ones that are free; look at all of them only when luck does not find two."""
        first: Deployment | None = None
        for _ in range(_DRAWS):
            drawn = self._draw(group)
            if drawn is first or not self._free(drawn, now):
                continue
            if first is not None:
                return first, drawn
            first = drawn
        rest = [d for d in group.deployments if d is not first and self._free(d, now)]
        if first is None:
            if not rest:
                return None, None
            first = rest.pop(int(self._random() * len(rest)))
        return first, rest[int(self._random() * len(rest))] if rest else None

    def _draw(self, group: Group) -> Deployment:
        place = self._random()
        if group.places:
            return group.deployments[min(bisect_right(group.places, place), len(group.places) - 1)]
        return group.deployments[int(place * len(group.deployments))]

    def _kept(self, group: Group, ring: Ring, key: int, now: float) -> Deployment | None:
        """Follow the ring to the first one that is free and not crowded."""
        health, size = self._health, len(group.deployments)
        if size <= _SAMPLE:
            others: Sequence[Deployment] = group.deployments
        else:
            others = [group.deployments[int(self._random() * size)] for _ in range(_SAMPLE)]
        usual = sum(health.load(other) / other.weight for other in others) / len(others)
        most = _CROWDED * (usual + self._tokens)
        for deployment in ring.walk(key):
            if self._free(deployment, now) and health.load(deployment) / deployment.weight <= most:
                return deployment
        return None


def _places(part: Sequence[Deployment]) -> tuple[float, ...]:
    weights = [deployment.weight for deployment in part]
    if len(set(weights)) <= 1:
        return ()
    total, reached, places = sum(weights), 0.0, []
    for weight in weights:
        reached += weight / total
        places.append(reached)
    return tuple(places)


def _prefix(call: Call) -> int | None:
    """The beginning of the prompt: its instructions, tools and first words, as far as a server caches them."""
    if not call.messages:
        return None
    left, pieces = _PREFIX, [call.principal.key_id, *(tool.name for tool in call.tools)]
    for message in call.messages:
        text = message.content or message.text
        pieces.append(text[:left])
        left -= len(text)
        if left <= 0:
            break
    return point("\0".join(pieces))
