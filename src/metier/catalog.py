"""Public model names and the deployments behind them, built purely from the `models:` section of metier.yaml."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import ROUND_UP, Decimal
from importlib import resources
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from metier.errors import ConfigError, NotFound

__all__ = ["PROVIDERS", "Catalog", "Deployment", "EnergyCard", "Hosting", "Model", "Price"]

Hosting = Literal["public", "private", "local"]
"""Who runs the machine: a public provider, our own servers or tenancy, this machine."""

PROVIDERS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "openai": (frozenset(), frozenset({"organization", "project"})),
    "azure": (frozenset(), frozenset({"api_version", "tenant_id", "client_id", "client_secret", "authority"})),
    "mistral": (frozenset(), frozenset()),
    "anthropic": (frozenset(), frozenset({"version", "beta"})),
    "gemini": (frozenset(), frozenset()),
    "vertex": (frozenset({"project", "location"}), frozenset({"service_account", "token_url"})),
    "bedrock": (frozenset({"region"}), frozenset({"access_key_id", "secret_access_key", "session_token"})),
    "local": (frozenset(), frozenset()),
    "scripted": (frozenset(), frozenset()),
}
"""Kinds of provider, each with the `options` a deployment must give and those it may give."""

_FREE = frozenset({"local", "scripted"})
_MILLIONTH = Decimal("0.000001")
_NANO = Decimal("0.000000001")


@dataclass(frozen=True, slots=True)
class Price:
    """What a deployment charges, in euros per million tokens."""

    input_eur: Decimal
    output_eur: Decimal
    cached_eur: Decimal
    """For input tokens the provider had in its prompt cache."""
    source: str = field(default="metier.yaml", compare=False)
    """Who says so: metier.yaml, this machine, or the pages the list shipped with Métier was compared with."""
    recorded_on: date | None = field(default=None, compare=False)
    """Day the figure entered the list shipped with Métier, for people to verify; None for any other price."""

    def of(self, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> Decimal:
        """Price so many tokens in euros, `cached_tokens` being part of the input, rounded up at the ninth decimal."""
        cached = min(cached_tokens, input_tokens)
        millionths = (
            self.input_eur * (input_tokens - cached) + self.cached_eur * cached + self.output_eur * output_tokens
        )
        return (millionths * _MILLIONTH).quantize(_NANO, ROUND_UP)


@dataclass(frozen=True, slots=True)
class EnergyCard:
    """What is known of a deployment to estimate its energy: a name EcoLogits knows, parameters, or watts."""

    provider: str = ""
    """Provider name in EcoLogits; empty when the model is described by its parameters or its power."""
    model: str | None = None
    """Exact model name in EcoLogits."""
    active_b: float | None = None
    """Billions of parameters active for one token."""
    total_b: float | None = None
    """Billions of parameters held in memory."""
    zone: str | None = None
    """Electricity mix zone, ISO 3166-1 alpha-3; None leaves the default of the method."""
    watts: float | None = None
    """Power declared for the local machine while it generates: energy is then measured time × power."""
    watts_high: float | None = None
    """Upper bound of that power; None means 20 % either side of `watts`."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """One provider, model id, address and credential behind a public model name."""

    id: str
    provider: str
    """Kind of provider, one of PROVIDERS: "openai" for every OpenAI-compatible server."""
    model_id: str
    base_url: str | None
    api_key: str | None
    price: Price | None
    """None when it is not known: calls are then refused unless `allow_unpriced`."""
    energy: EnergyCard | None
    context_tokens: int
    max_output_tokens: int
    timeout_s: float
    country: str | None
    """Where data goes, ISO 3166-1 alpha-2."""
    hosting: Hosting
    allow_unpriced: bool = False
    """Accept calls although their price is unknown; they then count as free in budgets."""
    options: Mapping[str, str] = field(default_factory=dict)
    """What this kind of provider needs beside the rest, such as a region or a second secret; never shown."""
    first_token_s: float | None = None
    """Longest wait for the head of the answer, and for its first piece; None leaves the provider's default."""
    between_s: float | None = None
    """Longest silence between two pieces; None leaves the provider's default."""

    def __repr__(self) -> str:
        """Show which deployment this is, never its credential."""
        return f"Deployment({self.id!r}, provider={self.provider!r}, model_id={self.model_id!r})"


@dataclass(frozen=True, slots=True)
class Model:
    """A public model name with the deployments that can serve it, best first."""

    name: str
    deployments: tuple[Deployment, ...]
    operation: Literal["chat", "embed"] = "chat"
    description: str = ""
    licence: str | None = None


class Catalog:
    """Every model a client may name; immutable once built."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._models = {model.name: model for model in models}

    @classmethod
    def from_yaml(cls, data: Mapping[str, Any], eur_per_usd: object = None) -> Catalog:
        """Build from the `models:` section, or say by its key path which entry is wrong; prices in dollars need a rate.

        Without `eur_per_usd`, the convention of the list shipped with Métier holds.
        """
        try:
            sheet = _Sheet.model_validate({"models": data, "eur_per_usd": eur_per_usd})
        except ValidationError as error:
            raise ConfigError(_explain(error)) from error
        known = _known_models(sheet.eur_per_usd)
        models = [_model(name, entry, known) for name, entry in sheet.models.items()]
        seen: dict[str, str] = {}
        for model in models:
            for deployment in model.deployments:
                if deployment.id in seen:
                    raise ConfigError(
                        f"models.{model.name}.deployments: the id {deployment.id!r} is already used under "
                        f"models.{seen[deployment.id]}: give each deployment its own `id`"
                    )
                seen[deployment.id] = model.name
        return cls(models)

    def model(self, name: str) -> Model:
        """Find a model by its public name."""
        try:
            return self._models[name]
        except KeyError:
            offer = ", ".join(sorted(self._models)) or "none is declared"
            raise NotFound(
                f"there is no model {name!r} here: use one of those listed by /v1/models ({offer})", param="model"
            ) from None

    def names(self) -> tuple[str, ...]:
        """List the public names in the order they are declared."""
        return tuple(self._models)

    def models(self) -> tuple[Model, ...]:
        """List the models in the order they are declared."""
        return tuple(self._models.values())


@dataclass(frozen=True, slots=True)
class _Known:
    host: str
    price: Price
    energy: EnergyCard | None
    context_tokens: int
    max_output_tokens: int


def _known_models(eur_per_usd: Decimal | None = None) -> Mapping[str, _Known]:
    """Read the list of public prices and energy cards shipped with Métier, each with its source and day."""
    raw = tomllib.loads(resources.files("metier").joinpath("data/known_models.toml").read_text("utf-8"))
    rate = Decimal(raw["eur_per_usd"]) if eur_per_usd is None else eur_per_usd
    known = {}
    for row in raw["models"]:
        usd = {name: Decimal(text) * rate for name, text in row["usd"].items()}
        card = row.get("energy")
        known[row["model_id"]] = _Known(
            host=row["host"],
            price=Price(
                input_eur=usd["input"],
                output_eur=usd["output"],
                cached_eur=usd["cached"],
                source=f"{row['source']}; 1 USD counted as {rate:f} EUR",
                recorded_on=row["recorded_on"],
            ),
            energy=EnergyCard(provider=card["provider"], model=card["model"]) if card else None,
            context_tokens=row["context_tokens"],
            max_output_tokens=row["max_output_tokens"],
        )
    return known


_Name = Annotated[str, StringConstraints(min_length=1, max_length=120, pattern=r"^[\w.:/@+-]+$")]
_Money = Annotated[Decimal, Field(ge=0, allow_inf_nan=False, max_digits=18, decimal_places=9)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class _PriceEntry(_Strict):
    input: _Money
    output: _Money
    cached: _Money | None = None


class _EnergyEntry(_Strict):
    provider: str = ""
    model: str | None = None
    active_b: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    total_b: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    zone: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] | None = None
    watts: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    watts_high: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class _DeploymentEntry(_Strict):
    id: _Name | None = None
    provider: str
    model_id: _Name
    base_url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s]+$")] | None = None
    api_key: str | None = None
    price: _PriceEntry | None = None
    energy: _EnergyEntry | None = None
    context_tokens: Annotated[int, Field(gt=0)] | None = None
    max_output_tokens: Annotated[int, Field(gt=0)] | None = None
    timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 120.0
    country: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")] | None = None
    hosting: Hosting | None = None
    allow_unpriced: bool = False
    options: dict[str, str] = Field(default_factory=dict)
    first_token_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    between_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _suits_provider(self) -> _DeploymentEntry:
        if self.provider not in PROVIDERS:
            raise ValueError(f"provider {self.provider!r} is none of {', '.join(sorted(PROVIDERS))}")
        must, may = PROVIDERS[self.provider]
        missing, unknown = must - self.options.keys(), self.options.keys() - must - may
        if missing:
            raise ValueError(f"provider {self.provider!r} needs options: {', '.join(sorted(missing))}")
        if unknown:
            offer = ", ".join(sorted(must | may)) or "none"
            raise ValueError(f"provider {self.provider!r} takes these options: {offer}; not {sorted(unknown)[0]!r}")
        return self


class _ModelEntry(_Strict):
    deployments: Annotated[list[_DeploymentEntry], Field(min_length=1)]
    operation: Literal["chat", "embed"] = "chat"
    description: str = ""
    licence: str | None = None


class _Sheet(_Strict):
    models: dict[_Name, _ModelEntry]
    eur_per_usd: Annotated[Decimal, Field(gt=0, le=1000, allow_inf_nan=False, max_digits=12, decimal_places=6)] | None


def _model(name: str, entry: _ModelEntry, known: Mapping[str, _Known]) -> Model:
    deployments = tuple(_deployment(name, index, d, known) for index, d in enumerate(entry.deployments))
    return Model(name, deployments, entry.operation, entry.description, entry.licence)


def _deployment(name: str, index: int, entry: _DeploymentEntry, known: Mapping[str, _Known]) -> Deployment:
    facts = _facts(entry, known)
    return Deployment(
        id=entry.id or (name if index == 0 else f"{name}#{index + 1}"),
        provider=entry.provider,
        model_id=entry.model_id,
        base_url=entry.base_url or (f"https://{facts.host}/v1" if facts else None),
        api_key=entry.api_key,
        price=_price(entry, facts),
        energy=_energy(entry, facts),
        context_tokens=entry.context_tokens or (facts.context_tokens if facts else 8192),
        max_output_tokens=entry.max_output_tokens or (facts.max_output_tokens if facts else 2048),
        timeout_s=entry.timeout_s,
        country=entry.country,
        hosting=entry.hosting or ("local" if entry.provider in _FREE else "public"),
        allow_unpriced=entry.allow_unpriced,
        options=entry.options,
        first_token_s=entry.first_token_s,
        between_s=entry.between_s,
    )


def _facts(entry: _DeploymentEntry, known: Mapping[str, _Known]) -> _Known | None:
    """Published figures hold only at the publisher's own address: a reseller's price is not known."""
    facts = known.get(entry.model_id) if entry.provider == "openai" else None
    if facts and entry.base_url and urlsplit(entry.base_url).hostname != facts.host:
        return None
    return facts


def _price(entry: _DeploymentEntry, facts: _Known | None) -> Price | None:
    if entry.price:
        cached = entry.price.input if entry.price.cached is None else entry.price.cached
        return Price(entry.price.input, entry.price.output, cached)
    if entry.provider in _FREE:
        return Price(Decimal(0), Decimal(0), Decimal(0), source="this machine")
    return facts.price if facts else None


def _energy(entry: _DeploymentEntry, facts: _Known | None) -> EnergyCard | None:
    if entry.energy:
        return EnergyCard(**entry.energy.model_dump())
    return facts.energy if facts else None


def _explain(error: ValidationError) -> str:
    lines = []
    for fault in error.errors(include_url=False, include_context=False):
        path = ".".join(str(part) for part in fault["loc"])
        # The rejected value is left out: it may be a credential in the wrong place.
        lines.append(f"metier.yaml: {path}: {fault['msg']}")
    return "; ".join(lines)
