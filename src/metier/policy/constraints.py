"""What may never answer a call: rights, sensitivity, hosting, country, then capability; asked again on every hop."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from metier.calls import Call, Media, Principal, Text
from metier.deployment import SENSITIVITIES, Deployment, Hosting, Modality, Model, Sensitivity
from metier.errors import ConfigError, Invalid, MetierError, NoDeployment, NotAllowed
from metier.policy.mirror import Mirror

__all__ = ["Caching", "Constraints", "Eligible", "Prefer", "Rules"]

Prefer = Literal["order", "cost", "latency", "carbon", "quality"]
"""What decides among the deployments that may answer: the declared order, or one of four measures."""

_OTHERS = "*"
_EU = frozenset("AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK".split())
_MOST_KEPT = 20_000
_BYTES_PER_TOKEN = 4
_ROUND = 1_000
_TYPICAL_OUTPUT = 500
_UNPRICED = "has no known price"


@dataclass(frozen=True, slots=True)
class Caching:
    """How answers given to a system may be kept and given again."""

    mode: Literal["exact", "semantic"] = "exact"
    """For the very same question alone, or for questions that mean the same too."""
    ttl_s: float = 86_400.0
    """Seconds an answer is good for."""
    threshold: float = 0.93
    """Least similarity of two questions that may mean the same; the words of both are compared besides."""
    max_entries: int = 10_000
    """Answers kept for the system; the oldest leave first."""
    max_temperature: float = 0.5
    """Calls that ask for a higher one are answered anew."""
    within: Literal["system", "key", "end_user"] = "system"
    """Who shares answers, the rights being equal."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the house decided for one system: where its data may go, and what it prefers among what is left."""

    sensitivity: Sensitivity = "internal"
    """How sensitive its data is: no deployment with a lower ceiling is ever used."""
    hosting: frozenset[Hosting] | None = None
    """Hostings allowed, beyond what the sensitivity excludes; None adds no limit."""
    countries: frozenset[str] | None = None
    """Countries data may go to; a deployment of unknown country is then excluded, unless it runs on this machine."""
    models: frozenset[str] | None = None
    """Public names it may use, fallbacks included."""
    languages: frozenset[str] | None = None
    """Languages it works in; a deployment declared without one of them is excluded."""
    prefer: Prefer = "order"
    caching: Caching | None = None
    """None keeps no answer."""


@dataclass(frozen=True, slots=True)
class Eligible:
    """The deployments of one model that may answer a kind of call, in parts to be tried one after the other."""

    model: Model
    parts: tuple[tuple[Deployment, ...], ...]
    removed: Mapping[str, str]
    """Why each of the others may not, by deployment."""
    ruled: bool
    """True when rules of the house or a price nobody knows alone removed them, not what they can do."""
    windows: tuple[int, ...]
    """The known windows among them, smallest first."""
    most_output: int
    """The longest answer one of them gives, in tokens."""

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """Every one of them, the first to be tried first."""
        return self.parts[0] if len(self.parts) == 1 else tuple(d for part in self.parts for d in part)


@dataclass(frozen=True, slots=True)
class _Need:
    """What a call asks of whoever answers it, apart from its size."""

    modalities: frozenset[Modality]
    tools: bool
    structured: bool
    language: str


class Constraints:
    """Says which deployments may answer a call; what is not known to be allowed is not allowed."""

    def __init__(
        self,
        rules: Mapping[str, Rules] | None = None,
        names: Callable[[Sequence[str]], Awaitable[Mapping[str, str]]] | None = None,
        carbon: Callable[[Deployment], float | None] = lambda _: None,
        *,
        any_price: bool = False,
    ) -> None:
        self._rules = dict(rules or {})
        self._any_price = any_price
        """Whether a deployment without a known price counts too: where models are compared, not called."""
        self._names: Mirror[str] | None = Mirror(names, max_age_s=60.0) if names is not None else None
        """Names of systems by their id, for rules written with names."""
        self._carbon = carbon
        """Grams of a typical call; None when not known, which is preferred last."""
        self._kept: dict[tuple[int, str, _Need, int], Eligible] = {}

    @classmethod
    def from_yaml(
        cls,
        data: Mapping[str, Any],
        names: Callable[[Sequence[str]], Awaitable[Mapping[str, str]]] | None = None,
        carbon: Callable[[Deployment], float | None] = lambda _: None,
    ) -> Constraints:
        """Build from the `systems:` section of metier.yaml, or say by its key path which entry is wrong."""
        try:
            sheet = _Sheet.model_validate({"systems": data})
        except ValidationError as error:
            faults = error.errors(include_url=False, include_context=False, include_input=False)
            said = (f"metier.yaml: {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
            raise ConfigError("; ".join(said)) from error
        return cls({name: _rules(entry) for name, entry in sheet.systems.items()}, names, carbon)

    def check(self, models: Iterable[str]) -> None:
        """Refuse rules that name models which do not exist: they would allow nothing, silently."""
        known = frozenset(models)
        for system, rules in self._rules.items():
            for name in sorted((rules.models or frozenset()) - known):
                raise ConfigError(f"metier.yaml: systems.{system}.models: there is no model {name!r}")

    @property
    def systems(self) -> frozenset[str]:
        """The names or ids that rules are written for, but the one for every other system."""
        return frozenset(self._rules) - {_OTHERS}

    async def of(self, principal: Principal) -> Rules | None:
        """Give the rules of the caller's system, by its id or its name; None where the house set none."""
        rules = self._rules
        if not rules:
            return None
        found = rules.get(principal.system)
        if found is None and self._names is not None:
            # A name that cannot be read raises: without its rules no call is made.
            found = rules.get(await self._names.get(principal.system) or "")
        return found or rules.get(_OTHERS)

    def eligible(self, call: Call, model: Model, rules: Rules | None) -> Eligible:
        """Part the deployments of `model` into those that may answer and those that may not, with the reasons."""
        need = _need(call)
        system = call.principal.system if rules is not None else ""
        found = self._find(model, rules, system, need, 0)
        if not found.windows:
            return found
        asked = _size(call) + min(call.max_output_tokens or 0, found.most_output)
        too_small = bisect_left(found.windows, asked)
        return self._find(model, rules, system, need, found.windows[too_small - 1]) if too_small else found

    @staticmethod
    def refusal(call: Call, hops: Sequence[Eligible], without_right: Sequence[str] = ()) -> MetierError:
        """Say of every deployment which constraint removed it, when none is left."""
        reasons = [f"{name!r} {why}" for hop in hops for name, why in hop.removed.items()]
        reasons += [f"the key has no right to the fallback {name!r}" for name in without_right]
        if not reasons:
            return NoDeployment(f"model {call.model!r} has no deployment: declare one in metier.yaml", param="model")
        said = f"no deployment of model {call.model!r} may answer this call: {'; '.join(reasons)}"
        why = {reason for hop in hops for reason in hop.removed.values()}
        if _UNPRICED in why:
            said += (
                "; where a price is missing no money can be held: declare `price` in metier.yaml, or "
                "`allow_unpriced: true`"
            )
        if why == {_UNPRICED}:
            return NotAllowed(said, param="model")
        if all(hop.ruled for hop in hops):
            return NotAllowed(
                f"{said}; choose another model, or ask whoever answers for the system to change `systems:`",
                param="model",
            )
        return Invalid(f"{said}; choose another model from /v1/models or change the call", param="model")

    def _find(self, model: Model, rules: Rules | None, system: str, need: _Need, beyond: int) -> Eligible:
        """What was found for such a call before; `beyond` is the largest window that is too small for it."""
        key = (id(model), system, need, beyond)
        kept = self._kept.get(key)
        if kept is None or kept.model is not model:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            kept = self._kept[key] = self._part(model, rules, need, beyond)
        return kept

    def _part(self, model: Model, rules: Rules | None, need: _Need, beyond: int) -> Eligible:
        left: list[Deployment] = []
        removed: dict[str, str] = {}
        ruled = True
        for deployment in model.deployments:
            reason = _forbidden(deployment, model, rules) if rules is not None else None
            if reason is None and deployment.price is None and not (deployment.allow_unpriced or self._any_price):
                reason = _UNPRICED
            elif reason is None:
                reason = _unable(deployment, need, rules, beyond)
                ruled = ruled and reason is None
            if reason is None:
                left.append(deployment)
            else:
                removed[deployment.id] = reason
        windows = {deployment.context_tokens for deployment in left if deployment.window_known}
        parts = self._ordered(left, "order" if rules is None else rules.prefer)
        most = max((deployment.max_output_tokens for deployment in left), default=0)
        return Eligible(model, parts, removed, ruled, tuple(sorted(windows)), most)

    def _ordered(self, left: Sequence[Deployment], prefer: Prefer) -> tuple[tuple[Deployment, ...], ...]:
        """Part what is left by what the system prefers; equals share the calls."""
        if prefer == "latency":
            return (tuple(left),) if left else ()
        measure: Callable[[Deployment], float] = lambda deployment: deployment.priority  # noqa: E731  # one of three
        if prefer == "cost":
            measure = _typical_cost
        elif prefer == "carbon":
            measure = self._typical_carbon
        parts: dict[float, list[Deployment]] = {}
        for deployment in left:
            parts.setdefault(measure(deployment), []).append(deployment)
        return tuple(tuple(parts[rank]) for rank in sorted(parts))

    def _typical_carbon(self, deployment: Deployment) -> float:
        grams = self._carbon(deployment)
        return float("inf") if grams is None else grams


def _forbidden(deployment: Deployment, model: Model, rules: Rules) -> str | None:
    """The rule of the house that keeps data of this system away from a deployment."""
    if rules.models is not None and model.name not in rules.models:
        return f"the system may not use the model {model.name!r}"
    if SENSITIVITIES.index(deployment.ceiling) < SENSITIVITIES.index(rules.sensitivity):
        return f"takes {deployment.ceiling!r} data at most ({deployment.hosting}), this is {rules.sensitivity!r}"
    if rules.hosting is not None and deployment.hosting not in rules.hosting:
        return f"hosting {deployment.hosting!r} is not among {', '.join(sorted(rules.hosting))}"
    if rules.countries is not None and deployment.country not in rules.countries:
        if deployment.country is None and deployment.hosting == "local":
            return None
        where = "of unknown country" if deployment.country is None else f"in {deployment.country}"
        return f"is {where}, data may only go to {', '.join(sorted(rules.countries))}"
    return None


def _unable(deployment: Deployment, need: _Need, rules: Rules | None, beyond: int) -> str | None:
    """What the call needs and the deployment is declared not to have."""
    if deployment.window_known and deployment.context_tokens <= beyond:
        return f"holds {deployment.context_tokens} tokens, fewer than the call and its answer need"
    able = deployment.abilities
    if able.modalities is not None and not need.modalities <= able.modalities:
        return f"does not take {', '.join(sorted(need.modalities - able.modalities))}"
    if need.tools and able.tools is False:
        return "cannot call tools"
    if need.structured and able.structured is False:
        return "cannot be held to a JSON Schema"
    wanted = frozenset({need.language}) if need.language else rules.languages if rules is not None else None
    if wanted and able.languages is not None and not wanted <= able.languages:
        return f"is not declared good in {', '.join(sorted(wanted - able.languages))}"
    return None


def _need(call: Call) -> _Need:
    if call.operation == "chat" and not call.language and not any(message.parts for message in call.messages):
        # The everyday call: one of four values, made without looking at its parts.
        return _PLAIN[bool(call.tools), call.output is not None]
    kinds: set[Modality] = {"audio"} if call.audio is not None else set()
    for message in call.messages:
        for part in message.parts:
            kinds.add("text" if isinstance(part, Text) else _modality(part))
    return _Need(frozenset(kinds), bool(call.tools), call.output is not None, call.language)


_PLAIN: Mapping[tuple[bool, bool], _Need] = {
    (tools, structured): _Need(frozenset({"text"}), tools, structured, "")
    for tools in (False, True) for structured in (False, True)
}  # fmt: skip


def _modality(media: Media) -> Modality:
    family = media.media_type.partition("/")[0]
    return "image" if family == "image" else "audio" if family == "audio" else "document"


def _size(call: Call) -> int:
    """The input from below: text at four bytes a token; nobody is refused for an estimate that errs upwards."""
    size = sum(map(len, call.inputs)) + len(call.query)
    for message in call.messages:
        size += len(message.content) if not message.parts else len(message.text)
    return size // _BYTES_PER_TOKEN


def _typical_cost(deployment: Deployment) -> float:
    if deployment.price is None:
        return float("inf")
    return float(deployment.price.of(_ROUND, _TYPICAL_OUTPUT))


class _Cache(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["exact", "semantic"]
    ttl_s: Annotated[float, Field(gt=0, le=31_622_400)] = Caching().ttl_s
    threshold: Annotated[float, Field(ge=0.5, le=1)] = Caching().threshold
    max_entries: Annotated[int, Field(gt=0)] = Caching().max_entries
    max_temperature: Annotated[float, Field(ge=0)] = Caching().max_temperature
    within: Literal["system", "key", "end_user"] = "system"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    sensitivity: Sensitivity = "internal"
    hosting: frozenset[Hosting] | None = None
    countries: frozenset[Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]] | None = None
    models: frozenset[str] | None = None
    languages: frozenset[Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}$")]] | None = None
    prefer: Prefer = "order"
    cache: _Cache | None = None

    @field_validator("cache", mode="before")
    @classmethod
    def _one_word(cls, value: object) -> object:
        """YAML reads a bare off as false."""
        if value is False or value == "off":
            return None
        return {"mode": value} if isinstance(value, str) else value


class _Sheet(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    systems: dict[Annotated[str, Field(min_length=1)], _Entry]


def _rules(entry: _Entry) -> Rules:
    countries = entry.countries
    if countries is not None and "EU" in countries:
        countries = (countries - {"EU"}) | _EU
    caching = None if entry.cache is None else Caching(**entry.cache.model_dump())
    return Rules(entry.sensitivity, entry.hosting, countries, entry.models, entry.languages, entry.prefer, caching)
