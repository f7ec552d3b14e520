"""`kind: http`: operations of a server that are written down in metier.yaml, one tool each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from metier.connectors.base import Connector, Given, schema_of
from metier.connectors.rest import KEY_HEADER, Operation, Place, Rest
from metier.connectors.web import OPTIONS, web_of

__all__ = ["http"]

_METHODS = ("get", "head", "post", "put", "patch", "delete")
_NAMED = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)
_INNER = frozenset({"description", "input", "output", "query", "idempotency_key", *_METHODS})


def http(given: Given) -> Connector:
    """Make the connector from `base_url`, `auth` and `operations`."""
    given.known(f"base_url operations probe {OPTIONS}")
    base_url, operations = given.options.get("base_url"), given.options.get("operations")
    if not isinstance(base_url, str):
        raise given.wrong(" needs base_url, such as https://crm.exemple.fr/api")
    if not isinstance(operations, dict) or not operations:
        raise given.wrong(" needs operations: a name for each, with its method and path, such as get: /contacts/{id}")
    web = web_of(given, base_url)
    return Rest(given, web, base_url, [_operation(given, str(name), one) for name, one in operations.items()])


def _operation(given: Given, name: str, section: Any) -> Operation:
    where = f".operations.{name}"
    if not _NAMED.fullmatch(name) or not isinstance(section, dict):
        raise given.wrong(f"{where}: give a name of a-z, 0-9 and _, and what it does")
    unknown = sorted(section.keys() - _INNER)
    methods = [m for m in _METHODS if m in section]
    if unknown or len(methods) != 1:
        raise given.wrong(f"{where} takes one of {', '.join(_METHODS)} and no {unknown[0] if unknown else 'other'!r}")
    method, path = methods[0], section[methods[0]]
    if not isinstance(path, str) or not path.startswith("/"):
        raise given.wrong(f"{where}.{method} must be a path that begins with '/'")
    query = section.get("query") or []
    if not isinstance(query, list):
        raise given.wrong(f"{where}.query must be a list of inputs")
    places: dict[str, tuple[Place, str]] = {str(one): ("query", str(one)) for one in query}
    places |= {one: ("path", one) for one in re.findall(r"\{([^{}]+)\}", path)}
    key: Mapping[str, Any] | str | None = section.get("idempotency_key")
    if key is not None and not isinstance(key, str):
        raise given.wrong(f"{where}.idempotency_key must be the name of the header that the server honours")
    return Operation(
        name=name,
        description=str(section.get("description") or f"{method.upper()} {path}"),
        method=method.upper(),
        path=path,
        schema=schema_of(section.get("input"), f"connectors.{given.name}{where}.input"),
        output=schema_of(section["output"], f"connectors.{given.name}{where}.output") if "output" in section else None,
        places=places,
        key_header=key or KEY_HEADER,
        # PUT and DELETE leave the same behind however often they are asked: HTTP says so.
        repeats=key is not None or method in ("put", "delete"),
    )
