"""Workflows by name: a template carried by the package, or a file of one's own."""

from __future__ import annotations

import pathlib

from metier.cli.preparation import TEMPLATES
from metier.connectors.tools import NAMES
from metier.errors import NotFound
from metier.workflow.definition import Workflow, load
from metier.workflow.lint import Known
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


def known() -> Known:
    """What a linter may take for granted without a database: tools and functions."""
    return Known(tools=NAMES, code=tuple(FUNCTIONS))
