"""Reads the `models:` section of metier.yaml into models, and says by its key path which entry is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from metier.catalog_sheet import (
    FREE,
    AbilitiesEntry,
    ConditionEntry,
    DeploymentEntry,
    ModelEntry,
    PriceEntry,
    Sheet,
)
from metier.deployment import (
    Abilities,
    Condition,
    DatedPrice,
    Deployment,
    EnergyCard,
    Model,
    Price,
    Rule,
    Share,
)
from metier.errors import ConfigError
from metier.known_models import Found, Known, KnownModels

__all__ = ["read"]

_DEEPEST = 5
_WORDS: Mapping[str, str] = {
    "missing": "is missing: add it",
    "extra_forbidden": "is no entry that is known there: check how it is spelt and how far it is indented",
    "dict_type": "must be entries of the form `name: value`, one a line",
    "mapping_type": "must be entries of the form `name: value`, one a line",
    "model_type": "must be entries of the form `name: value`, one a line",
    "list_type": "must be a list: lines that begin with `-`",
    "tuple_type": "must be a list: lines that begin with `-`",
    "string_type": "must be a text: put it in quotes",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "decimal_type": "must be a number",
    "decimal_parsing": "must be a number",
    "finite_number": "must be a number that has an end",
}
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def read(data: Mapping[str, Any], eur_per_usd: object = None) -> tuple[Model, ...]:
    """Build the models of the `models:` section, every name they refer to checked."""
    try:
        sheet = Sheet.model_validate({"models": data, "eur_per_usd": eur_per_usd})
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error
    known = KnownModels(sheet.eur_per_usd)
    models = {name: _model(name, entry, known) for name, entry in sheet.models.items()}
    _check_ids(models)
    for model in models.values():
        _check_names(model, models)
    return tuple(_with_choices(model, models) for model in models.values())


def _check_ids(models: Mapping[str, Model]) -> None:
    seen: dict[str, str] = {}
    for model in models.values():
        for deployment in model.deployments:
            if deployment.id in seen:
                raise ConfigError(
                    f"models.{model.name}.deployments: the id {deployment.id!r} is already used under "
                    f"models.{seen[deployment.id]}: give each deployment its own `id`"
                )
            seen[deployment.id] = model.name


def _check_names(model: Model, models: Mapping[str, Model]) -> None:
    """What a model hands calls on to must exist and do the same work."""
    for place, names in (
        ("fallbacks", model.fallbacks),
        ("rules", tuple(rule.use for rule in model.rules)),
        ("split", tuple(share.use for share in model.split)),
        ("shadow", tuple(share.use for share in model.shadow)),
    ):
        for name in names:
            other = models.get(name)
            if other is None or name == model.name:
                raise ConfigError(f"models.{model.name}.{place}: there is no other model {name!r}")
            if not model.rules and other.rules:
                raise ConfigError(
                    f"models.{model.name}.{place}: {name!r} itself chooses by rules: name a model it uses"
                )
            if not other.rules and not model.rules and other.operation != model.operation:
                raise ConfigError(
                    f"models.{model.name}.{place}: {name!r} is for {other.operation!r}, not {model.operation!r}"
                )


def _with_choices(model: Model, models: Mapping[str, Model]) -> Model:
    """Give a model of rules what those it may choose have in common."""
    if not model.rules:
        return model
    targets = _targets(model, models, ())
    operations = {target.operation for target in targets}
    if len(operations) > 1:
        raise ConfigError(f"models.{model.name}.rules: the models named do different work ({sorted(operations)})")
    deployments = tuple(dict.fromkeys(target.name for target in targets))
    every = tuple(deployment for name in deployments for deployment in models[name].deployments)
    return replace(model, deployments=every, operation=operations.pop())


def _targets(model: Model, models: Mapping[str, Model], above: tuple[str, ...]) -> list[Model]:
    if not model.rules:
        return [model]
    if model.name in above or len(above) >= _DEEPEST:
        raise ConfigError(f"models.{model.name}.rules: these rules lead back to themselves or too far: name a model")
    return [found for rule in model.rules for found in _targets(models[rule.use], models, (*above, model.name))]


def _model(name: str, entry: ModelEntry, known: KnownModels) -> Model:
    ordered = all(d.priority is None and d.weight is None for d in entry.deployments) and entry.affinity is None
    deployments = tuple(
        _deployment(name, index, deployment, entry, known, ordered)
        for index, deployment in enumerate(entry.deployments)
    )
    own_machines = not ordered and all(d.hosting != "public" for d in deployments)
    return Model(
        name=name,
        deployments=deployments,
        operation=entry.operation,
        description=entry.description,
        licence=entry.licence,
        version=entry.version or "",
        strengths=entry.strengths,
        quality=entry.quality,
        fallbacks=entry.fallbacks,
        rules=_rules(entry),
        split=tuple(Share(share.use, share.percent) for share in entry.split),
        shadow=tuple(Share(share.use, share.percent) for share in entry.shadow),
        # A server of ours keeps the prompts it has read: sending it the same beginning again saves most of the wait.
        affinity=entry.affinity or ("prefix" if own_machines else "none"),
        retry_percent=entry.retry_percent,
    )


def _rules(entry: ModelEntry) -> tuple[Rule, ...]:
    """The rules as written; `choose` is short for a rule a label, and one for every call that is left."""
    choose = entry.choose
    if choose is None:
        return tuple(Rule(rule.use, _condition(rule.when)) for rule in entry.rules or ())
    by = (
        Rule(use, Condition(labels=frozenset({label}), classifier=choose.classifier,
                            least_confidence=choose.least_confidence))
        for label, use in choose.by.items()
    )  # fmt: skip
    return (*by, Rule(choose.otherwise))


def _condition(entry: ConditionEntry) -> Condition:
    days = None if entry.weekdays is None else frozenset(_DAYS.index(day) for day in entry.weekdays)
    return Condition(**{**dict(entry), "weekdays": days})


def _deployment(
    name: str,
    index: int,
    entry: DeploymentEntry,
    model: AbilitiesEntry,
    known: KnownModels,
    ordered: bool,
) -> Deployment:
    found, rate = known.find(entry.provider, entry.model_id, entry.base_url, entry.base_model), known.eur_per_usd
    facts = found.known if found else None
    prices = tuple(DatedPrice(p.since, _money(p, rate)) for p in sorted(entry.prices or (), key=lambda p: p.since))
    if facts and found and found.sold_here and not entry.price and not entry.prices:
        prices = facts.prices
    return Deployment(
        id=entry.id or (name if index == 0 else f"{name}#{index + 1}"),
        provider=entry.provider,
        model_id=entry.model_id,
        base_url=entry.base_url or (found.base_url if found and entry.provider == "openai" else None),
        api_key=entry.api_key,
        price=None if prices else _price(entry, found, rate),
        energy=_energy(entry, facts),
        context_tokens=entry.context_tokens or (facts and facts.context_tokens) or 8192,
        max_output_tokens=entry.max_output_tokens or (facts and facts.max_output_tokens) or 2048,
        timeout_s=entry.timeout_s,
        country=entry.country,
        hosting=entry.runs_on,
        allow_unpriced=entry.allow_unpriced,
        options=entry.options,
        first_token_s=entry.first_token_s,
        between_s=entry.between_s,
        window_known=bool(entry.context_tokens or (facts and facts.context_tokens)),
        abilities=_abilities(entry, model, facts),
        priority=index if ordered else entry.priority or 0,
        weight=entry.weight or 1.0,
        rpm=entry.rpm,
        tpm=entry.tpm,
        sensitivity=entry.sensitivity,
        version=entry.version or model.version or "",
        ends_on=entry.ends_on or model.ends_on,
        replaced_by=entry.replaced_by or model.replaced_by,
        prices=prices,
        base_model=entry.base_model,
    )


def _abilities(entry: AbilitiesEntry, model: AbilitiesEntry, facts: Known | None) -> Abilities:
    """What is said of the deployment wins over what is said of its model, and that over what is known of it."""
    said: tuple[object, ...] = (entry, model, *([facts.abilities] if facts else []))
    fields = ("modalities", "tools", "structured", "languages")
    return Abilities(**{f: next((v for one in said if (v := getattr(one, f)) is not None), None) for f in fields})


def _price(entry: DeploymentEntry, found: Found | None, rate: Decimal) -> Price | None:
    if entry.price:
        return _money(entry.price, rate)
    if entry.provider in FREE:
        return Price(Decimal(0), Decimal(0), Decimal(0), source="this machine")
    return found.known.price if found and found.sold_here else None


def _money(entry: PriceEntry, rate: Decimal) -> Price:
    factor = rate if entry.currency == "USD" else Decimal(1)
    return Price(
        input_eur=entry.input * factor,
        output_eur=entry.output * factor,
        cached_eur=(entry.input if entry.cached is None else entry.cached) * factor,
        cache_write_eur=None if entry.cache_write is None else entry.cache_write * factor,
        image_eur=entry.image * factor,
        minute_eur=entry.minute * factor,
        search_eur=entry.search * factor,
    )


def _energy(entry: DeploymentEntry, facts: Known | None) -> EnergyCard | None:
    if entry.energy:
        return EnergyCard(**entry.energy.model_dump())
    return facts.energy if facts else None


def _explain(error: ValidationError) -> str:
    lines = []
    for fault in error.errors(include_url=False, include_context=False):
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
        # The rejected value is left out: it may be a credential in the wrong place.
        lines.append(f"metier.yaml: {path} {_plainly(fault['type'], fault['msg'])}")
    return "; ".join(lines)


def _plainly(kind: str, said: str) -> str:
    """Say a fault in the words of who writes the file, not in those of a program."""
    known = _WORDS.get(kind)
    if known is not None:
        return known
    if said.startswith("Value error, "):
        return f"cannot be used: {said.removeprefix('Value error, ')}"
    return said.replace("Input should be", "must be").replace("String should", "must").replace("List should", "must")
