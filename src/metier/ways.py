"""Where a call may go: the model its name means today, what may answer it, and in which groups to try."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime

from metier.calls import Call, Principal, Usage
from metier.catalog import Catalog
from metier.deployment import Deployment, Model
from metier.errors import Invalid, NotAllowed
from metier.policy.constraints import Caching, Constraints, Eligible
from metier.record.impact import impact
from metier.router import Chooser, Group, Route, arm, groups, shadows

__all__ = ["Way", "Ways", "typical_carbon"]

_MOST_KEPT = 20_000
_TYPICAL = Usage(input_tokens=1_000, output_tokens=500)
_TYPICAL_S = 10.0


@dataclass(frozen=True, slots=True)
class Way:
    """Every deployment that may answer a call, fallbacks included, all of them allowed and able."""

    model: Model
    """The model chosen, with the deployments of every hop: what is held for the call covers the dearest."""
    groups: tuple[Group, ...]
    """To be tried one group after the other."""
    shadows: tuple[str, ...] = ()
    """Models that get a copy of the call."""
    route: Route | None = None
    """Which model was chosen and why, where the model asked for leaves it open."""


class Ways:
    """Finds the way of each call; holds the catalogue in force, which may be replaced while calls are answered."""

    def __init__(
        self,
        catalog: Catalog,
        constraints: Constraints | None = None,
        chooser: Chooser | None = None,
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
    ) -> None:
        self._today = today
        self.chooser = chooser or Chooser()
        """Follows the rules of models; the classifiers it asks may be put in place."""
        self._catalog: Catalog = catalog
        self._made: dict[tuple[int, ...], tuple[tuple[Eligible, ...], Way]] = {}
        self.use(catalog, constraints or Constraints())

    @property
    def catalog(self) -> Catalog:
        """The catalogue in force, with the prices of the day."""
        changes_on = self._catalog.changes_on
        if changes_on is not None and self._today() >= changes_on:
            self._catalog = self._catalog.on(self._today())
            self._made.clear()
        return self._catalog

    def use(self, catalog: Catalog, constraints: Constraints) -> None:
        """Put another catalogue and other rules in force; calls under way keep the way they found."""
        constraints.check(catalog.names())
        self._catalog = catalog
        self._constraints = constraints
        self._made = {}

    @property
    def systems(self) -> frozenset[str]:
        """The systems that metier.yaml has rules for, by name or id, registered or not."""
        return self._constraints.systems

    async def caching(self, principal: Principal) -> Caching | None:
        """Say how answers to the caller's system may be kept; None where they may not."""
        rules = await self._constraints.of(principal)
        return None if rules is None else rules.caching

    async def find(self, call: Call) -> Way:
        """Give the way of a call, or raise what keeps it from being answered: rights, rules, then capability."""
        catalog = self.catalog
        asked = catalog.model(call.model)
        allowed = call.principal.models
        if allowed is not None and call.model not in allowed:
            raise NotAllowed(
                f"key {call.principal.key_id!r} may not use the model {call.model!r}: ask its owner to widen it",
                param="model",
            )
        if asked.operation != call.operation:
            raise Invalid(f"the model {asked.name!r} is for {asked.operation!r}, not {call.operation!r}", param="model")
        rules = await self._constraints.of(call.principal)
        model, route = asked, None
        if asked.rules:
            model, route = self.chooser.choose(call, asked, catalog.model, None if rules is None else rules.sensitivity)
        if model.split:
            model = catalog.model(arm(call, model) or model.name)
        hops = [self._constraints.eligible(call, model, rules)]
        fallbacks = [catalog.model(name) for name in model.fallbacks if allowed is None or name in allowed]
        without_right = [name for name in model.fallbacks if allowed is not None and name not in allowed]
        if rules is not None and rules.prefer == "quality":
            fallbacks.sort(key=_measured, reverse=True)
        hops += [self._constraints.eligible(call, fallback, rules) for fallback in fallbacks]
        way = self._way(tuple(hops))
        if not way.groups:
            raise self._constraints.refusal(call, hops, without_right)
        if route is None and not model.shadow:
            return way
        return replace(way, route=route, shadows=shadows(call, model))

    def _way(self, hops: tuple[Eligible, ...]) -> Way:
        """The same hops make the same way, with rings and weights worked out once."""
        key = tuple(map(id, hops))
        kept = self._made.get(key)
        if kept is not None and all(mine is theirs for mine, theirs in zip(kept[0], hops, strict=True)):
            return kept[1]
        model = hops[0].model
        every = tuple(deployment for hop in hops for deployment in hop.deployments)
        way = Way(
            model if every == model.deployments else replace(model, deployments=every),
            tuple(group for hop in hops for group in groups(hop.parts, hop.model.affinity)),
        )
        if len(self._made) >= _MOST_KEPT:
            self._made.clear()
        self._made[key] = (hops, way)
        return way


def _measured(model: Model) -> float:
    """The mean of what was measured; a model nobody measured comes last, as declared."""
    return sum(model.quality.values()) / len(model.quality) if model.quality else -1.0


def typical_carbon(deployment: Deployment) -> float | None:
    """Estimate the grams of a typical call, the middle of the range; None when no estimate is possible."""
    carbon = impact(deployment, _TYPICAL, _TYPICAL_S).carbon_g
    return None if carbon is None else (carbon.low + carbon.high) / 2
