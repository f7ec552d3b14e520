"""Finds what is publicly known of a model behind a deployment: price, window, abilities, energy card."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from metier.deployment import Abilities, DatedPrice, EnergyCard, Price
from metier.errors import ConfigError

__all__ = ["Found", "Known", "KnownModels"]

_V1 = frozenset({"openai", "mistral"})
"""Kinds of provider whose publisher also speaks OpenAI's format under /v1."""
_NAMED_ALIKE = frozenset({"bedrock", "vertex"})
"""Sellers of others' models who name each so that it cannot be mistaken."""
_BEDROCK = re.compile(r"^(?:[a-z-]+\.)?anthropic\.(.+?)(?:-v\d+(?::\d+)?)?$")


@dataclass(frozen=True, slots=True)
class Known:
    """One entry of the list shipped with Métier."""

    model_id: str
    provider: str
    """Kind of provider its publisher is reached by."""
    host: str
    price: Price | None
    prices: tuple[DatedPrice, ...]
    """Given where a change of price is announced."""
    energy: EnergyCard | None
    context_tokens: int | None
    max_output_tokens: int | None
    abilities: Abilities


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of one deployment."""

    known: Known
    sold_here: bool
    """Whether it is the publisher's own address, where the publisher's prices hold."""

    @property
    def base_url(self) -> str | None:
        """Address of the publisher, for a deployment that names none."""
        return f"https://{self.known.host}/v1" if self.sold_here and self.known.provider in _V1 else None


class KnownModels:
    """The list of public prices and cards shipped with Métier, each with its source and day."""

    def __init__(self, eur_per_usd: Decimal | None) -> None:
        raw = tomllib.loads(resources.files("metier").joinpath("data/known_models.toml").read_text("utf-8"))
        self.eur_per_usd = Decimal(raw["eur_per_usd"]) if eur_per_usd is None else eur_per_usd
        self._models: dict[str, Known] = {}
        for row in raw["models"]:
            known = _known(row, self.eur_per_usd)
            for name in (row["model_id"], *row.get("also", ())):
                self._models[name] = known

    def find(self, provider: str, model_id: str, base_url: str | None, base_model: str | None) -> Found | None:
        """Find what is known of a deployment; a name met at an address that is not the publisher's says nothing."""
        known = self._named(base_model) if base_model else self._guess(provider, model_id)
        if known is None:
            return None
        own_address = base_url is None or urlsplit(base_url).hostname == known.host
        sold_here = own_address and provider in (known.provider, "openai")
        if sold_here or base_model or provider in _NAMED_ALIKE:
            return Found(known, sold_here)
        return None

    def _named(self, base_model: str) -> Known:
        if base_model not in self._models:
            near = difflib.get_close_matches(base_model, self._models, n=3)
            raise ConfigError(
                f"metier.yaml: `base_model: {base_model}` is none of the models Métier knows"
                f"{' (did you mean ' + ' or '.join(near) + '?)' if near else ''}: leave it out and declare "
                "`context_tokens`, `energy` and what the deployment can do"
            )
        return self._models[base_model]

    def _guess(self, provider: str, model_id: str) -> Known | None:
        if provider == "bedrock":
            found = _BEDROCK.match(model_id)
            return self._models.get(found[1]) if found else None
        return self._models.get(model_id)


def _known(row: Mapping[str, Any], rate: Decimal) -> Known:
    price = _price(row, row["usd"], rate) if "usd" in row else None
    later, card, takes = row.get("later"), row.get("energy"), row.get("modalities")
    prices: tuple[DatedPrice, ...] = ()
    if later and price:
        prices = (DatedPrice(date.min, price), DatedPrice(later["from"], _price(row, later["usd"], rate)))
    return Known(
        model_id=row["model_id"],
        provider=row["provider"],
        host=row["host"],
        price=price,
        prices=prices,
        energy=EnergyCard(provider=card["provider"], model=card["model"]) if card else None,
        context_tokens=row.get("context_tokens"),
        max_output_tokens=row.get("max_output_tokens"),
        abilities=Abilities(frozenset(takes) if takes else None, row.get("tools"), row.get("structured")),
    )


def _price(row: Mapping[str, Any], usd: Mapping[str, str], rate: Decimal) -> Price:
    eur = {name: Decimal(text) * rate for name, text in usd.items()}
    return Price(
        input_eur=eur["input"],
        output_eur=eur["output"],
        cached_eur=eur.get("cached", eur["input"]),
        cache_write_eur=eur.get("cache_write"),
        image_eur=eur.get("image", Decimal(0)),
        minute_eur=eur.get("minute", Decimal(0)),
        search_eur=eur.get("search", Decimal(0)),
        source=f"{row['source']}; 1 USD counted as {rate:f} EUR",
        recorded_on=row["recorded_on"],
        publisher=row.get("publisher", False),
    )
