"""Schemas of an OpenAPI description as JSON Schema that stands alone: each converted once, its size bounded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from metier.calls import JSON
from metier.deferred import deferred

if TYPE_CHECKING:
    import jsonschema
else:
    jsonschema = deferred("jsonschema")

__all__ = ["NOT_IN_NAMES", "NotSpoken", "Schemas", "table"]

NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_]+")
"""What names of operations and of schemas have none of."""

_DEEPEST = 100
_MOST = 100_000
"""Values in one schema of a description, without those it refers to: anchors of YAML can make any number of few."""
_WHOLE = 4_000_000
"""Values in all schemas of a description."""


class NotSpoken(Exception):
    """A part of the description that is not spoken here."""


def table(part: object) -> Mapping[Any, Any]:
    """Give a part that should be a mapping, or an empty one: descriptions are written by hand too."""
    return part if isinstance(part, dict) else {}


class Schemas:
    """Converts schemas of one description and gathers what they refer to."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._old = str(document.get("openapi")).startswith("3.0")
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()
        self._known: dict[str, tuple[JSON, frozenset[str]] | NotSpoken] = {}
        self._left = _WHOLE

    def target(self, reference: str) -> Any:
        """Give what a reference inside the description leads to."""
        if not reference.startswith("#/"):
            raise NotSpoken("it refers to another file")
        part: Any = self._document
        for step in reference[2:].split("/"):
            step = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(part, dict) or step not in part:
                raise NotSpoken(f"{reference} leads nowhere")
            part = part[step]
        return part

    def schema(self, part: Any, defs: dict[str, JSON]) -> dict[str, JSON]:
        """Give a schema that stands alone: what it refers to, and what that does, is put into `defs`."""
        made, due = self._converted(part)
        waiting = [*due]
        while waiting:
            reference = waiting.pop()
            name = self._names[reference]
            if name not in defs:
                defs[name], more = self._referred(reference)
                waiting += more
        return made if isinstance(made, dict) else {}

    def _referred(self, reference: str) -> tuple[JSON, frozenset[str]]:
        known = self._known.get(reference)
        if known is None:
            try:
                known = self._converted(self.target(reference))
            except NotSpoken as reason:
                known = reason
            self._known[reference] = known
        if isinstance(known, NotSpoken):
            raise known
        return known

    def _converted(self, part: Any) -> tuple[JSON, frozenset[str]]:
        work = _Conversion(self._name, self._old, min(_MOST, self._left))
        made = work.value(part, 0)
        self._left -= work.used
        try:
            jsonschema.Draft202012Validator.check_schema(made if isinstance(made, dict) else {})
        except jsonschema.SchemaError:
            raise NotSpoken("its schema is none") from None
        return made, frozenset(work.references)

    def _name(self, reference: str) -> str:
        """Two references never share a name, however alike they are written."""
        if reference not in self._names:
            usual = NOT_IN_NAMES.sub("_", reference.removeprefix("#/components/schemas/")).strip("_")
            name = usual if usual not in self._taken else f"{usual}.{len(self._taken)}"
            self._names[reference] = name
            self._taken.add(name)
        return self._names[reference]


class _Conversion:
    """One schema on its way, without what it refers to."""

    def __init__(self, name: Any, old: bool, most: int) -> None:
        self._name = name
        self._old = old
        self._most = most
        self.used = 0
        self.references: set[str] = set()

    def value(self, part: Any, depth: int) -> JSON:
        """Convert one value."""
        self.used += 1
        if depth > _DEEPEST or self.used > self._most:
            raise NotSpoken("its schema is too deep or too large")
        if isinstance(part, list):
            return [self.value(one, depth + 1) for one in part]
        if not isinstance(part, dict):
            return part if part is None or isinstance(part, str | int | float | bool) else str(part)
        reference = part.get("$ref")
        if isinstance(reference, str):
            self.references.add(reference)
            return {"$ref": f"#/$defs/{self._name(reference)}"}
        made = {str(key): self.value(value, depth + 1) for key, value in part.items() if key not in ("example", "xml")}
        if not self._old:
            return made
        if made.pop("nullable", False) is True:
            return {"anyOf": [made, {"type": "null"}]}
        for bound in ("Minimum", "Maximum"):
            if made.get(f"exclusive{bound}") is True and bound.lower() in made:
                made[f"exclusive{bound}"] = made.pop(bound.lower())
            elif isinstance(made.get(f"exclusive{bound}"), bool):
                made.pop(f"exclusive{bound}")
        return made
