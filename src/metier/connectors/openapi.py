"""`kind: openapi`: operations of a description file become tools, with its schemas checked both ways."""

from __future__ import annotations

import fnmatch
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import yaml

from metier.calls import JSON
from metier.connectors.base import Connector, Given
from metier.connectors.openapi_schemas import NOT_IN_NAMES, NotSpoken, Schemas, table
from metier.connectors.rest import KEY_HEADER, Operation, Place, Rest
from metier.connectors.web import OPTIONS, web_of
from metier.nesting import DEEPEST

__all__ = ["openapi"]

_METHODS = ("get", "head", "post", "put", "patch", "delete")
_LIMIT_BYTES = 20_000_000
_OPENING = (yaml.events.MappingStartEvent, yaml.events.SequenceStartEvent)
_CLOSING = (yaml.events.MappingEndEvent, yaml.events.SequenceEndEvent)


def openapi(given: Given) -> Connector:
    """Make the connector from `file`, `base_url` and, where not all of them are wanted, `operations`."""
    given.known(f"file base_url operations idempotency_key probe {OPTIONS}")
    options = given.options
    document = _read(given, options.get("file"))
    base_url = options.get("base_url")
    if not isinstance(base_url, str):
        raise given.wrong(" needs base_url: the server named in a description is not trusted")
    wanted = options.get("operations") or ["*"]
    if not isinstance(wanted, list) or any(not isinstance(one, str) for one in wanted):
        raise given.wrong(".operations must be a list of names, or of patterns such as find_*")
    key = options.get("idempotency_key")
    if key is not None and not isinstance(key, str):
        raise given.wrong(".idempotency_key must be the name of the header that the server honours")
    found, left_out, schemas = dict[str, Operation](), list[str](), Schemas(document)
    for name, method, path, item, section in _operations(document):
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted):
            continue
        try:
            made = _Reading(schemas, item, section).operation(name, method, path, key)
        except NotSpoken as reason:
            left_out.append(f"{name} ({reason})")
            continue
        if name in found:
            raise given.wrong(f": {options['file']} names the operation {name!r} twice")
        found[name] = made
    if not found:
        raise given.wrong(f": none of the operations of {options['file']} can be used{_note(left_out)}")
    return Rest(given, web_of(given, base_url), base_url, list(found.values()), _note(left_out))


def _note(left_out: list[str]) -> str:
    return f"; left out: {', '.join(left_out)}" if left_out else ""


def _read(given: Given, file: Any) -> Mapping[str, Any]:
    if not isinstance(file, str):
        raise given.wrong(" needs file: an OpenAPI 3 description, JSON or YAML")
    path = pathlib.Path(file)
    try:
        if path.stat().st_size > _LIMIT_BYTES:
            raise given.wrong(f".file: {file} passes {_LIMIT_BYTES:,} bytes")
        document = _parsed(path.read_bytes())
    except OSError as error:
        raise given.wrong(f".file: {file} cannot be read: {error.strerror}") from None
    except NotSpoken as reason:
        raise given.wrong(f".file: {file} {reason}") from None
    except (yaml.YAMLError, ValueError):
        raise given.wrong(f".file: {file} is neither JSON nor YAML") from None
    if not isinstance(document, dict) or not str(document.get("openapi", "")).startswith("3."):
        raise given.wrong(f".file: {file} is no OpenAPI 3 description")
    return document


def _parsed(content: bytes) -> Any:
    if content.lstrip().startswith(b"{"):
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError:
            pass  # YAML may begin so too, and says better what is wrong
    loader, depth = getattr(yaml, "CSafeLoader", yaml.SafeLoader), 0
    # What is made of it is made by recursion, which ends the process where it goes too deep.
    for event in yaml.parse(content, Loader=loader):
        depth += isinstance(event, _OPENING) - isinstance(event, _CLOSING)
        if depth > DEEPEST:
            raise NotSpoken(f"is nested more than {DEEPEST} levels deep")
    return yaml.load(content, Loader=loader)


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Mapping[str, Any], Mapping[str, Any]]]:
    for path, item in table(document.get("paths")).items():
        for method in _METHODS:
            section = item.get(method) if isinstance(item, dict) else None
            if isinstance(section, dict):
                name = NOT_IN_NAMES.sub("_", str(section.get("operationId") or f"{method}_{path}")).strip("_")
                yield name, method, str(path), item, section


class _Reading:
    """Reads one operation, gathering the schemas it refers to."""

    def __init__(self, schemas: Schemas, item: Mapping[str, Any], section: Mapping[str, Any]) -> None:
        self._schemas = schemas
        self._item = item
        self._section = section

    def operation(self, name: str, method: str, path: str, key: str | None) -> Operation:
        """Make the operation of one path and method."""
        fields, needed = dict[str, JSON](), list[JSON]()
        places, joined = dict[str, tuple[Place, str]](), set[str]()
        defs, header = dict[str, JSON](), None
        for parameter in self._parameters():
            called, place = str(parameter["name"]), parameter["in"]
            if place == "header" and called.lower() == (key or KEY_HEADER).lower():
                # The server says itself that it honours a key: we give it, nobody else does.
                header = called
                continue
            self._spoken(parameter)
            known = f"{place}_{called}" if called in fields else called
            fields[known] = self._schemas.schema(parameter.get("schema") or {}, defs) | _described(parameter)
            places[known] = (place, called)
            if parameter.get("required") or place == "path":
                needed.append(known)
            if place == "query" and parameter.get("explode") is False:
                joined.add(known)
        self._body(fields, needed, places, defs)
        schema: dict[str, JSON] = {
            "type": "object", "properties": fields, "required": needed, "additionalProperties": False,
        }  # fmt: skip
        return Operation(
            name=name,
            description=str(self._section.get("summary") or self._section.get("description") or f"{method} {path}"),
            method=method.upper(),
            path=path,
            schema=schema | ({"$defs": defs} if defs else {}),
            output=self._output(),
            places=places,
            key_header=header or key or KEY_HEADER,
            repeats=header is not None or key is not None or method in ("put", "delete"),
            foreign=True,
            joined=frozenset(joined),
        )

    def _parameters(self) -> list[Mapping[str, Any]]:
        found: dict[tuple[str, str], Mapping[str, Any]] = {}
        for holder in (self._item, self._section):
            listed = holder.get("parameters")
            for one in listed if isinstance(listed, list) else ():
                parameter = self._followed(one)
                if parameter.get("in") in ("path", "query", "header", "cookie") and "name" in parameter:
                    found[str(parameter["in"]), str(parameter["name"])] = parameter
        return list(found.values())

    def _spoken(self, parameter: Mapping[str, Any]) -> None:
        usual = {"path": "simple", "header": "simple", "query": "form"}.get(parameter["in"])
        if usual is None or parameter.get("style", usual) != usual or "content" in parameter:
            raise NotSpoken(f"how {parameter['name']!r} is written")

    def _body(
        self, fields: dict[str, JSON], needed: list[JSON], places: dict[str, tuple[Place, str]], defs: dict[str, JSON]
    ) -> None:
        body = self._followed(self._section.get("requestBody") or {})
        if not body:
            return
        schema = self._json(body)
        if schema is None:
            raise NotSpoken("its body is no JSON")
        known = "request_body" if "body" in fields else "body"
        fields[known] = self._schemas.schema(schema, defs)
        places[known] = ("body", "")
        if body.get("required"):
            needed.append(known)

    def _output(self) -> Mapping[str, JSON] | None:
        answers = table(self._section.get("responses"))
        for status in (*sorted(str(one) for one in answers if str(one).startswith("2")), "default"):
            schema = self._json(self._followed(answers.get(status) or answers.get(_number(status)) or {}))
            if schema is not None:
                defs: dict[str, JSON] = {}
                made = self._schemas.schema(schema, defs)
                return made | ({"$defs": defs} if defs else {})
            if status != "default":
                return None
        return None

    def _json(self, holder: Mapping[str, Any]) -> Any:
        for media, inner in table(holder.get("content")).items():
            if str(media).partition(";")[0].strip().endswith("json"):
                return table(inner).get("schema") or {}
        return None

    def _followed(self, part: Any) -> Mapping[str, Any]:
        for _ in range(20):
            if not isinstance(part, dict):
                return {}
            if "$ref" not in part:
                return part
            part = self._schemas.target(str(part["$ref"]))
        raise NotSpoken("references that go in circles")


def _described(parameter: Mapping[str, Any]) -> dict[str, JSON]:
    said = parameter.get("description")
    return {"description": said} if isinstance(said, str) else {}


def _number(status: str) -> int | str:
    return int(status) if status.isdigit() else status
