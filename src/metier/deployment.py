"""What stands behind a public model name: deployments, what they can do, what they cost, what they emit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, time
from decimal import ROUND_UP, Decimal
from typing import Literal

from metier.calls import Operation
from metier.tokens import family_of

__all__ = [
    "CEILINGS",
    "PROVIDERS",
    "SENSITIVITIES",
    "Abilities",
    "Affinity",
    "Condition",
    "DatedPrice",
    "Deployment",
    "EnergyCard",
    "Hosting",
    "Modality",
    "Model",
    "Price",
    "Rule",
    "Sensitivity",
    "Share",
]

Hosting = Literal["public", "private", "local"]
"""Who runs the machine: a public provider, our own servers or tenancy, this machine."""

Sensitivity = Literal["public", "internal", "confidential", "secret"]
"""How bad it would be if others read the data, from harmless to grave."""

SENSITIVITIES: tuple[Sensitivity, ...] = ("public", "internal", "confidential", "secret")
"""From the least sensitive to the most."""

CEILINGS: Mapping[Hosting, Sensitivity] = {"public": "internal", "private": "confidential", "local": "secret"}
"""The most sensitive data each hosting may ever receive; a deployment may declare less, never more."""

Modality = Literal["text", "image", "audio", "document"]
"""What a model can be given."""

Affinity = Literal["none", "session", "prefix"]
"""What keeps calls on one deployment: nothing, their conversation, or the beginning of their prompt too."""

PROVIDERS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "openai": (frozenset(), frozenset({"organization", "project"})),
    "azure": (frozenset(), frozenset({"api_version", "tenant_id", "client_id", "client_secret", "authority"})),
    "mistral": (frozenset(), frozenset()),
    "anthropic": (frozenset(), frozenset({"version", "beta", "sampling", "structured", "thinking"})),
    "gemini": (frozenset(), frozenset()),
    "vertex": (frozenset({"project", "location"}), frozenset({"service_account", "token_url"})),
    "bedrock": (frozenset({"region"}), frozenset({"access_key_id", "secret_access_key", "session_token"})),
    "local": (frozenset(), frozenset()),
    "scripted": (frozenset(), frozenset()),
}
"""Kinds of provider, each with the `options` a deployment must give and those it may give."""

_MILLIONTH = Decimal("0.000001")
_NANO = Decimal("0.000000001")
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Price:
    """What a deployment charges, in euros per million tokens, and per piece for what is not text."""

    input_eur: Decimal
    output_eur: Decimal
    cached_eur: Decimal
    """For input tokens the provider had in its prompt cache."""
    cache_write_eur: Decimal | None = None
    """For input tokens the provider put into its prompt cache; None means as any input."""
    image_eur: Decimal = _ZERO
    """For each image made."""
    minute_eur: Decimal = _ZERO
    """For each minute of sound."""
    search_eur: Decimal = _ZERO
    """For each rerank."""
    source: str = field(default="metier.yaml", compare=False)
    """Who says so: metier.yaml, this machine, or the pages the list shipped with Métier was compared with."""
    recorded_on: date | None = field(default=None, compare=False)
    """Day the figure entered the list shipped with Métier, for people to verify; None for any other price."""
    publisher: bool = field(default=False, compare=False)
    """True where the list had it from the publisher's own page."""

    def of(
        self,
        input_tokens: int,
        output_tokens: int,
        cached_tokens: int = 0,
        cache_write_tokens: int = 0,
        *,
        images: int = 0,
        minutes: Decimal = _ZERO,
        searches: int = 0,
    ) -> Decimal:
        """Price so much in euros, cached and cache-written tokens being part of the input, rounded up at 1e-9."""
        cached = min(cached_tokens, input_tokens)
        written = 0 if self.cache_write_eur is None else min(cache_write_tokens, input_tokens - cached)
        millionths = (
            self.input_eur * (input_tokens - cached - written)
            + self.cached_eur * cached
            + self.output_eur * output_tokens
        )
        if written and self.cache_write_eur is not None:
            millionths += self.cache_write_eur * written
        total = millionths * _MILLIONTH
        if images or minutes or searches:
            total += self.image_eur * images + self.minute_eur * minutes + self.search_eur * searches
        return total.quantize(_NANO, ROUND_UP)


@dataclass(frozen=True, slots=True)
class DatedPrice:
    """A price with the day it begins to hold."""

    since: date
    price: Price


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
class Abilities:
    """What a deployment is declared to take and give; None means not declared, and then nothing is refused for it."""

    modalities: frozenset[str] | None = None
    tools: bool | None = None
    structured: bool | None = None
    """Whether it can be held to a JSON Schema."""
    languages: frozenset[str] | None = None
    """ISO 639-1 codes it is good in."""


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
    """None when it is not known: no call then goes there unless `allow_unpriced`."""
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
    window_known: bool = False
    """False when `context_tokens` is our guess: no call is then refused for its size."""
    abilities: Abilities = Abilities()
    priority: int = 0
    """Deployments of the same priority share the calls; a higher number serves when those before it cannot."""
    weight: float = 1.0
    """Part of the calls it takes beside those of its priority, other things being equal."""
    rpm: int | None = None
    """Requests a minute its provider grants; None when not declared."""
    tpm: int | None = None
    """Tokens a minute its provider grants; None when not declared."""
    sensitivity: Sensitivity | None = None
    """The most sensitive data it may receive, where that is less than its hosting allows."""
    version: str = ""
    ends_on: date | None = None
    """The day its provider ends it."""
    replaced_by: str | None = None
    """The public model name to use afterwards."""
    prices: tuple[DatedPrice, ...] = ()
    """Every known price, oldest first; `price` is the one of the day."""
    base_model: str | None = None
    """The known model behind a deployment whose `model_id` is a name of one's own."""

    @property
    def tokenizer(self) -> str:
        """The family its text is counted by before a provider has counted it."""
        return family_of(self.provider, self.base_model or self.model_id)

    @property
    def ceiling(self) -> Sensitivity:
        """The most sensitive data it may receive: what its hosting allows, or less where so declared."""
        most = CEILINGS[self.hosting]
        if self.sensitivity is None or SENSITIVITIES.index(self.sensitivity) > SENSITIVITIES.index(most):
            return most
        return self.sensitivity

    def __repr__(self) -> str:
        """Show which deployment this is, never its credential."""
        return f"Deployment({self.id!r}, provider={self.provider!r}, model_id={self.model_id!r})"


@dataclass(frozen=True, slots=True)
class Condition:
    """What a call must be like for a rule to choose for it; what is None is not asked."""

    min_tokens: int | None = None
    """Estimated tokens of the input, at four bytes each."""
    max_tokens: int | None = None
    languages: frozenset[str] | None = None
    """Language of the last message of the user, as far as its words tell."""
    has_tools: bool | None = None
    has_media: bool | None = None
    structured: bool | None = None
    efforts: frozenset[str] | None = None
    sensitivity: Sensitivity | None = None
    """At least this sensitive, as the rules of the system say."""
    groups: frozenset[str] | None = None
    """The caller belongs to one of these."""
    after: time | None = None
    before: time | None = None
    """Between two times of the day; `after` later than `before` goes over midnight."""
    weekdays: frozenset[int] | None = None
    """0 is Monday."""
    zone: str = "UTC"
    """Time zone of the times and days."""
    labels: frozenset[str] | None = None
    """What `classifier` makes of the last message of the user; while it cannot tell, the rule does not apply."""
    classifier: str | None = None
    """Name and version of a trained classifier, such as `difficulty@1`."""
    least_confidence: float = 0.7
    """How sure the classifier must be, 0 to 1; less sure, the rule does not apply."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a model that chooses among others: the first whose condition holds decides."""

    use: str
    when: Condition = Condition()


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a model's calls that goes to another model, always the same conversations or end users."""

    use: str
    percent: float


@dataclass(frozen=True, slots=True)
class Model:
    """A public model name with the deployments that can serve it, best first."""

    name: str
    deployments: tuple[Deployment, ...]
    """For a model that chooses by rules: all those of the models it may choose."""
    operation: Operation = "chat"
    description: str = ""
    licence: str | None = None
    version: str = ""
    strengths: tuple[str, ...] = ()
    """What it is good at, in a few words each."""
    quality: Mapping[str, float] = field(default_factory=dict)
    """Measured quality from 0 to 1 by name of task; empty means not measured."""
    fallbacks: tuple[str, ...] = ()
    """Models that may answer when none of its own deployments can."""
    rules: tuple[Rule, ...] = ()
    """Given, the model is a name only: each call goes to the model its first fitting rule names."""
    split: tuple[Share, ...] = ()
    """Canaries and comparisons: parts of the calls answered by other models."""
    shadow: tuple[Share, ...] = ()
    """Parts of the calls copied to other models, whose answers nobody sees."""
    affinity: Affinity = "none"
    retry_percent: float = 20.0
    """Most retries and fallbacks, in percent of its recent calls."""
