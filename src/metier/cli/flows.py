"""Workflows by name: a template carried by the package, or a file of one's own."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from metier.catalog import Catalog
from metier.cli.preparation import TEMPLATES
from metier.connectors.tools import names
from metier.errors import Invalid, MetierError, NotFound
from metier.reload import roles_of
from metier.triggers.kinds import KINDS
from metier.workflow.definition import Workflow, load
from metier.workflow.lint import Known
from metier.workflow.shape import Trigger
from metier.workflow.steps.functions import FUNCTIONS

__all__ = ["find", "folder", "known"]


def find(name: str) -> Workflow:
    """Load a workflow by the name of its template or by its path."""
    if "/" in name or name.endswith((".yaml", ".yml")):
        path = pathlib.Path(name)
        return load(path / "flow.yaml" if path.is_dir() else path)
    return load(folder(name) / "flow.yaml")


def folder(name: str) -> pathlib.Path:
    """Give the folder of a template."""
    place = TEMPLATES / name
    if not (place / "flow.yaml").is_file():
        known = ", ".join(sorted(p.parent.name for p in TEMPLATES.glob("*/flow.yaml")))
        raise NotFound(f"there is no template {name!r}: the templates are {known}; a path must end with .yaml")
    return place


def known(config: Mapping[str, Any]) -> Known:
    """What a linter may take for granted without a database: tools, those of connectors included, and functions."""
    tools = names(config.get("connectors"))
    return Known(
        house=_models(config), tools=tools, code=tuple(FUNCTIONS), agent_tools=(*tools, *FUNCTIONS), trigger=_wrong
    )


def _models(config: Mapping[str, Any]) -> frozenset[str] | None:
    """Models and roles of metier.yaml; None where it declares none, or what it declares cannot be read."""
    if not config.get("models"):
        return None
    try:
        catalog = Catalog.from_yaml(config["models"], config.get("eur_per_usd"))
        roles = roles_of(config, catalog.names())
    except MetierError:
        return None
    deployed = (f"{one.provider}/{one.model_id}" for one in catalog.deployments())
    return frozenset((*catalog.names(), *roles, *deployed))


def _wrong(trigger: Trigger) -> str | None:
    try:
        KINDS[trigger.kind].check(trigger.config)
    except Invalid as wrong:
        return wrong.message
    return None
