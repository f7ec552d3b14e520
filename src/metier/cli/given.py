"""Inputs of a workflow as a command is given them: a JSON file, key=value pairs, or both."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.definition import Workflow

__all__ = ["content", "given"]

_LIMIT_BYTES = 40_000_000


def given(workflow: Workflow, values: Sequence[str], file: pathlib.Path | None = None) -> dict[str, JSON]:
    """Read inputs from a file and from pairs, which stand before it, without asking yet whether they fit."""
    inputs = {} if file is None else _object(file)
    known = workflow.inputs.get("properties")
    schemas = known if isinstance(known, dict) else {}
    for pair in values:
        key, separator, text = pair.partition("=")
        if not separator:
            raise Invalid(f"{pair!r} is not key=value: the inputs are {', '.join(schemas) or 'none'}")
        inputs[key] = _typed(text, schemas.get(key))
    return inputs


def content(path: pathlib.Path) -> bytes:
    """Read a file that is given as an input, if it is there and not too large."""
    try:
        if path.stat().st_size > _LIMIT_BYTES:
            raise Invalid(f"{str(path)!r} passes {_LIMIT_BYTES:,} bytes: give a smaller file")
        return path.read_bytes()
    except OSError as error:
        raise Invalid(f"cannot read {str(path)!r}: {error.strerror}") from error


def _object(path: pathlib.Path) -> dict[str, JSON]:
    try:
        found: JSON = json.loads(content(path))
    except UnicodeDecodeError as error:
        raise Invalid(f"{str(path)!r} is not UTF-8 at byte {error.start}: save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise Invalid(f"{str(path)!r} must hold an object of inputs, not {type(found).__name__}")
    return found


def _typed(text: str, schema: JSON) -> JSON:
    """A value from the command line is text unless the schema asks for something else."""
    wanted = schema.get("type") if isinstance(schema, dict) else None
    if wanted in (None, "string"):
        return text
    try:
        value: JSON = json.loads(text)
    except ValueError:
        return text
    return value
