"""Puts the cache together with what it needs of the rest: placeholders, languages, and embeddings by the one road."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Container, Mapping, Sequence
from typing import Any

from metier.cache.entries import Entries
from metier.cache.place import Places
from metier.cache.reuse import Cache, Embedded
from metier.calls import Call
from metier.gateway import Gateway
from metier.guardrails.base import Chain, Guardrail
from metier.guardrails.pii.placeholders import codes
from metier.router import language_of
from metier.store import Store
from metier.vault import Vault

__all__ = ["cache", "only_exact"]


def cache(
    store: Store, vault: Vault, gateway: Gateway, roles: Mapping[str, str], guardrails: Sequence[Guardrail]
) -> Cache:
    """Make the cache of a gateway, whose questions are embedded by the model that has the role "embedder"."""

    async def embed(call: Call, question: str) -> Embedded | None:
        name = roles.get("embedder", "")
        if name not in gateway.ways.catalog:
            return None
        model = gateway.ways.catalog.model(name)
        asked = Call(call.principal, name, "embed", inputs=(question,), purpose="query", origin=call.origin)
        answer = await gateway.collect(asked)
        behind = ",".join(f"{one.provider}/{one.model_id}/{one.version}" for one in model.deployments)
        return f"{name}: {behind}", answer.vectors[0]

    return Cache(Entries(store, vault), Places(vault, _revision(guardrails)), codes, language_of, embed)


def only_exact(systems: Mapping[str, Any], roles: Mapping[str, str], models: Container[str]) -> list[str]:
    """Name the systems that want answers found by meaning where no model has the role that embeds questions."""
    if roles.get("embedder", "") in models:
        return []
    wanted = {name: (rules or {}).get("cache") for name, rules in systems.items()}
    return [
        name
        for name, asked in wanted.items()
        if (asked.get("mode") if isinstance(asked, dict) else asked) == "semantic"
    ]


def _revision(guardrails: Sequence[Guardrail]) -> str:
    """Name the guardrails as they are: another release, another row of them or other rules make another revision."""
    return f"{importlib.metadata.version('metier')}; {Chain(guardrails).revision}"
