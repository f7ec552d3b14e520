"""The shape of the `models:` section of metier.yaml, checked where its bytes enter."""

from __future__ import annotations

import re
from datetime import date, time
from decimal import Decimal
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from metier.calls import Effort, Operation
from metier.deployment import CEILINGS, PROVIDERS, SENSITIVITIES, Affinity, Hosting, Modality, Sensitivity

__all__ = [
    "FREE",
    "AbilitiesEntry",
    "ChooseEntry",
    "ConditionEntry",
    "DatedPriceEntry",
    "DeploymentEntry",
    "EnergyEntry",
    "ModelEntry",
    "PriceEntry",
    "RuleEntry",
    "ShareEntry",
    "Sheet",
]

FREE = frozenset({"local", "scripted"})
"""Kinds of provider that charge nothing and run on this machine."""

_Name = Annotated[str, StringConstraints(min_length=1, max_length=120, pattern=r"^[\w.:/@+-]+$")]
_Version = Annotated[str, StringConstraints(max_length=120, pattern=r"^[^@\s\x00-\x1f]+@[1-9][0-9]*$")]
"""A trained classifier with its version, such as difficulty@1: what decides changes only when somebody writes so."""
_Label = Annotated[str, StringConstraints(min_length=1, max_length=120)]
_Money = Annotated[Decimal, Field(ge=0, allow_inf_nan=False, max_digits=18, decimal_places=9)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(gt=0)]
_Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class PriceEntry(_Strict):
    """A price per million tokens, and per piece for what is not text."""

    input: _Money
    output: _Money
    cached: _Money | None = None
    cache_write: _Money | None = None
    image: _Money = Decimal(0)
    minute: _Money = Decimal(0)
    search: _Money = Decimal(0)
    currency: Literal["EUR", "USD"] = "EUR"


class DatedPriceEntry(PriceEntry):
    """A price with the day it begins to hold."""

    since: date = Field(alias="from")


class EnergyEntry(_Strict):
    """What is known of a deployment to estimate its energy."""

    provider: str = ""
    model: str | None = None
    active_b: _Positive | None = None
    total_b: _Positive | None = None
    zone: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] | None = None
    watts: _Positive | None = None
    watts_high: _Positive | None = None


class AbilitiesEntry(_Strict):
    """What may be said of a whole model, and again of one deployment."""

    modalities: frozenset[Modality] | None = None
    tools: bool | None = None
    structured: bool | None = None
    languages: frozenset[_Language] | None = None
    version: str | None = None
    ends_on: date | None = None
    replaced_by: _Name | None = None


class DeploymentEntry(AbilitiesEntry):
    """One entry of `deployments:`."""

    id: _Name | None = None
    provider: str
    model_id: _Name
    base_model: _Name | None = None
    base_url: str | None = None
    api_key: str | None = None
    price: PriceEntry | None = None
    prices: Annotated[list[DatedPriceEntry], Field(min_length=1)] | None = None
    energy: EnergyEntry | None = None
    context_tokens: _Count | None = None
    max_output_tokens: _Count | None = None
    timeout_s: _Positive = 120.0
    country: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")] | None = None
    hosting: Hosting | None = None
    sensitivity: Sensitivity | None = None
    allow_unpriced: bool = False
    options: dict[str, str] = Field(default_factory=dict)
    first_token_s: _Positive | None = None
    between_s: _Positive | None = None
    priority: Annotated[int, Field(ge=0)] | None = None
    weight: _Positive | None = None
    rpm: _Count | None = None
    tpm: _Count | None = None

    @property
    def runs_on(self) -> Hosting:
        """Who runs the machine, where the entry does not say it."""
        return self.hosting or ("local" if self.provider in FREE else "public")

    @field_validator("options", mode="before")
    @classmethod
    def _dated(cls, given: object) -> object:
        """YAML reads a bare 2024-10-21, as versions of APIs are named, as a date."""
        if not isinstance(given, dict):
            return given
        return {name: value.isoformat() if type(value) is date else value for name, value in given.items()}

    @field_validator("base_url")
    @classmethod
    def _bare(cls, url: str | None) -> str | None:
        # Addresses stand in errors that callers read, so no secret may stand in an address.
        # `env/NAME` is only met where nobody is called and the variable is not set.
        if url is not None and not re.fullmatch(r"https?://\S+|env/\w+", url):
            raise ValueError("`base_url` is an address and begins with http:// or https://")
        if url is not None and any(mark in url for mark in "@?#"):
            raise ValueError("an address has no '@', '?' or '#': credentials go to `api_key` or `options`")
        return url

    @model_validator(mode="after")
    def _suits_provider(self) -> DeploymentEntry:
        if self.provider not in PROVIDERS:
            raise ValueError(f"`provider` is none of {', '.join(sorted(PROVIDERS))}")
        must, may = PROVIDERS[self.provider]
        if self.provider == "azure" and self.base_url is None:
            raise ValueError("provider 'azure' needs the `base_url` of its resource, https://NAME.openai.azure.com")
        missing, unknown = must - self.options.keys(), self.options.keys() - must - may
        if missing:
            raise ValueError(f"provider {self.provider!r} needs options: {', '.join(sorted(missing))}")
        if unknown:
            offer = ", ".join(sorted(must | may)) or "none"
            raise ValueError(f"provider {self.provider!r} takes these options: {offer}; not {sorted(unknown)[0]!r}")
        return self

    @model_validator(mode="after")
    def _is_consistent(self) -> DeploymentEntry:
        if self.price and self.prices:
            raise ValueError("give `price` or the dated `prices`, not both")
        most = CEILINGS[self.runs_on]
        if self.sensitivity and SENSITIVITIES.index(self.sensitivity) > SENSITIVITIES.index(most):
            raise ValueError(f"hosting {self.runs_on!r} may receive {most!r} data at most, not {self.sensitivity!r}")
        return self


class ConditionEntry(_Strict):
    """What a call must be like for a rule to choose for it."""

    min_tokens: Annotated[int, Field(ge=0)] | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    languages: frozenset[_Language] | None = None
    has_tools: bool | None = None
    has_media: bool | None = None
    structured: bool | None = None
    efforts: frozenset[Effort] | None = None
    sensitivity: Sensitivity | None = None
    groups: frozenset[str] | None = None
    after: time | None = None
    before: time | None = None
    weekdays: frozenset[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]] | None = None
    zone: str = "UTC"
    labels: frozenset[str] | None = None
    classifier: _Version | None = None
    least_confidence: Annotated[float, Field(ge=0, le=1)] = 0.7

    @model_validator(mode="after")
    def _names_its_classifier(self) -> ConditionEntry:
        if (self.labels is None) != (self.classifier is None):
            raise ValueError("`labels` and the `classifier` that gives them belong together: write both")
        return self

    @field_validator("after", "before", mode="before")
    @classmethod
    def _clock(cls, given: object) -> object:
        """YAML reads 18:30 as the number 1110."""
        return time(*divmod(given, 60)) if isinstance(given, int) and 0 <= given < 24 * 60 else given

    @field_validator("zone")
    @classmethod
    def _zone(cls, given: str) -> str:
        try:
            ZoneInfo(given)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"there is no time zone {given!r} on this machine: write one such as UTC") from error
        return given


class RuleEntry(_Strict):
    """One entry of `rules:`."""

    use: _Name
    when: ConditionEntry = ConditionEntry()


class ChooseEntry(_Strict):
    """The entry `choose:`: a trained classifier says which model answers."""

    classifier: _Version
    by: Annotated[dict[_Label, _Name], Field(min_length=1)]
    otherwise: Annotated[_Name, Field(alias="else")]
    least_confidence: Annotated[float, Field(ge=0, le=1)] = 0.7


class ShareEntry(_Strict):
    """One entry of `split:` or `shadow:`."""

    use: _Name
    percent: Annotated[float, Field(gt=0, le=100)]


class ModelEntry(AbilitiesEntry):
    """One public model name."""

    deployments: Annotated[list[DeploymentEntry], Field(min_length=1)] = Field(default_factory=list)
    rules: Annotated[list[RuleEntry], Field(min_length=1)] | None = None
    choose: ChooseEntry | None = None
    operation: Operation = "chat"
    description: str = ""
    licence: str | None = None
    strengths: tuple[str, ...] = ()
    quality: dict[_Name, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    fallbacks: tuple[_Name, ...] = ()
    split: tuple[ShareEntry, ...] = ()
    shadow: tuple[ShareEntry, ...] = ()
    affinity: Affinity | None = None
    retry_percent: Annotated[float, Field(ge=0, le=100)] = 20.0

    @model_validator(mode="after")
    def _is_one_kind(self) -> ModelEntry:
        if [bool(self.deployments), bool(self.rules), self.choose is not None].count(True) != 1:
            raise ValueError("give a model either `deployments`, or `rules` or `choose` that choose another model")
        if not self.deployments and (self.split or self.shadow or self.fallbacks):
            raise ValueError("`split`, `shadow` and `fallbacks` belong to the models that `rules` or `choose` name")
        if sum(share.percent for share in self.split) > 100:
            raise ValueError("the shares of `split` come to more than 100 percent")
        return self


class Sheet(_Strict):
    """The sections of metier.yaml that make the catalogue."""

    models: dict[_Name, ModelEntry]
    eur_per_usd: Annotated[Decimal, Field(gt=0, le=1000, allow_inf_nan=False, max_digits=12, decimal_places=6)] | None
