"""Where tools are called from in tests of connectors, and a toolbox made of one section of metier.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metier.calls import KeyId, Principal, ProjectId, SystemId
from metier.connectors.tools import Toolbox, tools
from metier.store import Store
from metier.vault import Vault

__all__ = ["WHO", "Place", "box"]

WHO = Principal(KeyId("key_1"), ProjectId("sales"), SystemId("support"))


@dataclass(frozen=True)
class Place:
    """A step that calls a tool."""

    key: str = "run_1/send"
    principal: Principal = WHO


def box(store: Store, vault: Vault, **connectors: Mapping[str, Any]) -> Toolbox:
    """Make a toolbox of connectors, by name."""
    return Toolbox.built(store, vault, connectors, tools(None, None, None))
