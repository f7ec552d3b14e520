"""Public model names and the deployments behind them; immutable, built from the `models:` section of metier.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

from metier.catalog_yaml import read
from metier.deployment import PROVIDERS, Deployment, EnergyCard, Hosting, Model, Price
from metier.errors import NotFound

__all__ = ["PROVIDERS", "Catalog", "Deployment", "Ending", "EnergyCard", "Hosting", "Model", "Price"]


_HERE = frozenset({"local", "scripted"})


@dataclass(frozen=True, slots=True)
class Ending:
    """A deployment whose provider ends it soon, or has ended it."""

    model: str
    deployment: str
    ends_on: date
    days: int
    """Days left; below zero, it is over."""
    replaced_by: str | None

    @property
    def message(self) -> str:
        """Say it in a sentence with what to do."""
        when = f"ends on {self.ends_on} (in {self.days} days)" if self.days >= 0 else f"ended on {self.ends_on}"
        advice = (
            f"try its replacement {self.replaced_by!r} on your cases, then change metier.yaml"
            if self.replaced_by
            else "choose a replacement and declare it as `replaced_by` in metier.yaml"
        )
        return f"deployment {self.deployment!r} of model {self.model!r} {when}: {advice}"


class Catalog:
    """Every model a client may name; immutable once built."""

    def __init__(self, models: Iterable[Model], *, changes_on: date | None = None) -> None:
        self._models = {model.name: model for model in models}
        self._by_provider = _named_by_provider(self._models)
        self.changes_on = changes_on
        """The next day on which a price changes; from that day on, ask `on` for the catalogue."""

    @classmethod
    def from_yaml(cls, data: Mapping[str, Any], eur_per_usd: object = None, *, today: date | None = None) -> Catalog:
        """Build from the `models:` section, or say by its key path which entry is wrong; prices in dollars need a rate.

        Without `eur_per_usd`, the convention of the list shipped with Métier holds.
        """
        return cls(read(data, eur_per_usd)).on(today or datetime.now(UTC).date())

    def model(self, name: str) -> Model:
        """Find a model by its public name, or by provider/model as providers call it."""
        try:
            return self._models[name]
        except KeyError:
            if name in self._by_provider:
                return self._by_provider[name]
            offer = ", ".join(sorted(self._models))
            if not offer:
                told = (
                    f"there is no model {name!r} here, nor any: run `metier init`, or declare `models:` in metier.yaml"
                )
                raise NotFound(told, param="model") from None
            raise NotFound(
                f"there is no model {name!r} here: use one of those listed by /v1/models ({offer})", param="model"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._models or name in self._by_provider

    def deployments(self) -> tuple[Deployment, ...]:
        """List every deployment once, in the order they are declared."""
        found = {d.id: d for model in self._models.values() for d in model.deployments}
        return tuple(found.values())

    def names(self) -> tuple[str, ...]:
        """List the public names in the order they are declared."""
        return tuple(self._models)

    def models(self) -> tuple[Model, ...]:
        """List the models in the order they are declared."""
        return tuple(self._models.values())

    def by_provider(self) -> tuple[Model, ...]:
        """List the models as provider/model too: each with the deployments of that provider alone."""
        return tuple(self._by_provider.values())

    def on(self, day: date) -> Catalog:
        """Give the catalogue with the prices of a day."""
        coming = [
            dated.since
            for model in self._models.values() for deployment in model.deployments for dated in deployment.prices
            if dated.since > day
        ]  # fmt: skip
        models = [
            replace(model, deployments=tuple(_on(deployment, day) for deployment in model.deployments))
            for model in self._models.values()
        ]
        return Catalog(models, changes_on=min(coming, default=None))

    def endings(self, today: date, within_days: int = 60) -> tuple[Ending, ...]:
        """List the deployments that their providers end within so many days, the soonest first."""
        found = [
            Ending(model.name, d.id, d.ends_on, (d.ends_on - today).days, d.replaced_by)
            for model in self._models.values() if not model.rules
            for d in model.deployments
            if d.ends_on is not None and (d.ends_on - today).days <= within_days
        ]  # fmt: skip
        return tuple(sorted(found, key=lambda ending: ending.ends_on))


def _named_by_provider(models: Mapping[str, Model]) -> dict[str, Model]:
    """Name what providers serve by provider/model; a public name comes first, what runs here has no such name."""
    found: dict[str, Model] = {}
    for model in models.values():
        if model.rules:
            continue
        for deployment in model.deployments:
            name = f"{deployment.provider}/{deployment.model_id}"
            if name in models or deployment.provider in _HERE:
                continue
            before = found.get(name)
            if before is None:
                found[name] = replace(model, name=name, deployments=(deployment,), fallbacks=(), split=(), shadow=())
            elif before.operation == model.operation:
                found[name] = replace(before, deployments=(*before.deployments, deployment))
    return found


def _on(deployment: Deployment, day: date) -> Deployment:
    """A price that has not begun yet is not known: the call is refused rather than priced by a guess."""
    if not deployment.prices:
        return deployment
    begun = [dated.price for dated in deployment.prices if dated.since <= day]
    return replace(deployment, price=begun[-1] if begun else None)
