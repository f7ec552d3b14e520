"""Write docs/reference/openapi.json, which describes every path of the API for programs, from the code that reads it.

python scripts/openapi.py            rewrite the description
python scripts/openapi.py --check    change nothing; exit with 1 where it is out of date or a path has no description
"""

from __future__ import annotations

import inspect
import json
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from starlette.routing import Route

from metier.api import (
    batches,
    chat_body,
    deliveries,
    image,
    messages_body,
    openai,
    rerank,
    responses_body,
    run_bodies,
    task_links,
    tasks,
    transcription,
)
from metier.api.server import routes

TARGET = pathlib.Path(__file__).resolve().parent.parent / "docs" / "reference" / "openapi.json"
_REFUSED = {
    400: "The request is no JSON or form that can be read, or a guardrail refused it.",
    401: "No key of ours was sent, or it is no longer good.",
    403: "The key may not do this, or its system is not approved.",
    404: "There is no such model, response, file or batch for this key.",
    409: "It cannot be done in the state things are in.",
    413: "The body is too large.",
    422: "A parameter does not fit; `param` names it.",
    429: "A limit is reached; `retry-after` or `x-should-retry` says what to do.",
}
_FAILED = {500: "Métier broke.", 503: "Nobody can answer now.", 504: "A provider was too slow."}

Schema = dict[str, Any]


class _Absent:
    """Stands for every part of a platform that is not built: paths can be listed without one."""

    def __getattr__(self, name: str) -> Any:
        return self


class Description:
    """Gathers the schemas that paths refer to."""

    def __init__(self) -> None:
        self.schemas: dict[str, Schema] = {}

    def body(
        self, name: str, shape: type[BaseModel], ignored: Iterable[str] = (), neutral: Mapping[str, Any] | None = None
    ) -> Schema:
        """Describe a JSON body: what has an effect, what is taken without one, and nothing else."""
        schema = shape.model_json_schema(by_alias=True, ref_template=f"#/components/schemas/{name}{{model}}")
        for inner, found in schema.pop("$defs", {}).items():
            self.schemas[f"{name}{inner}"] = _untitled(found)
        properties = schema["properties"]
        properties |= {known: {"description": "Taken without effect."} for known in ignored}
        properties |= {known: {"enum": [*values, None]} for known, values in (neutral or {}).items()}
        self.schemas[name] = {**_untitled(schema), "additionalProperties": False}
        return {"$ref": f"#/components/schemas/{name}"}


def _untitled(value: Any) -> Any:
    """Leave out the names pydantic gives to classes and fields: they are ours."""
    if isinstance(value, dict):
        return {
            key: _untitled(inner) for key, inner in value.items() if not (key == "title" and isinstance(inner, str))
        }
    return [_untitled(inner) for inner in value] if isinstance(value, list) else value


def _object(kind: str | None = None, **properties: Any) -> Schema:
    """Describe an object that has these properties, and may have more."""
    known = {name: {"type": given} if isinstance(given, str) else given for name, given in properties.items()}
    if kind is not None:
        known["object"] = {"const": kind}
    return {"type": "object", "required": sorted(known), "properties": known}


def _list(item: Schema) -> Schema:
    return _object("list", data={"type": "array", "items": item})


def _form(required: Iterable[str], **properties: Schema) -> Schema:
    binary = {"type": "string", "contentMediaType": "application/octet-stream", "format": "binary", "minLength": 1}
    return {
        "type": "object",
        "required": sorted({"file", *required}),
        "properties": {"file": binary, **properties},
        "additionalProperties": False,
    }


def _asked(made: Description) -> dict[tuple[str, str], tuple[str, Schema]]:
    """What is sent to each path: the type and the schema of its body."""
    json_type, form_type = "application/json", "multipart/form-data"
    chat = made.body("Chat", chat_body._Body, chat_body.IGNORED, chat_body.NEUTRAL)
    message = made.body("Message", messages_body._Body, messages_body.IGNORED, messages_body.NEUTRAL)
    response = made.body("Response", responses_body._Body, responses_body.IGNORED, responses_body.NEUTRAL)
    text: Schema = {"type": "string"}
    sound = transcription._Body.model_json_schema()["properties"]
    return {
        ("POST", "/v1/chat/completions"): (json_type, chat),
        ("POST", "/v1/responses"): (json_type, response),
        ("POST", "/v1/embeddings"): (json_type, made.body("Embedding", openai._EmbeddingBody)),
        ("POST", "/v1/messages"): (json_type, message),
        ("POST", "/v1/messages/count_tokens"): (json_type, message),
        ("POST", "/v1/rerank"): (json_type, made.body("Rerank", rerank._Body)),
        ("POST", "/v1/images/generations"): (json_type, made.body("Image", image._Body, (), image._NEUTRAL)),
        ("POST", "/v1/audio/transcriptions"): (form_type, _form(["model"], **_untitled(sound))),
        ("POST", "/v1/files"): (form_type, _form(["purpose"], purpose={**text, "enum": ["batch", "user_data"]})),
        ("POST", "/v1/batches"): (json_type, made.body("Batch", batches._Body)),
        ("POST", "/v1/tasks/{id}/comments"): (json_type, made.body("Comment", tasks._Comment)),
        ("POST", "/v1/tasks/{id}/decide"): (json_type, made.body("Decision", tasks._Decision)),
        ("POST", "/v1/tasks/{id}/hand-off"): (json_type, made.body("HandOff", tasks._HandOff)),
        ("POST", "/v1/tasks/{id}/links"): (json_type, made.body("Link", task_links.LinkBody)),
        ("POST", "/v1/absences"): (json_type, made.body("Absence", tasks._Absent)),
        ("POST", "/v1/deliveries/{id}/settle"): (json_type, made.body("Settle", deliveries.SettleBody)),
        **{
            ("POST", f"/v1/runs/{{id}}/{what}"): (json_type, made.body("Move", run_bodies.MoveBody))
            for what in ("pause", "unpause", "resume", "cancel")
        },
        ("POST", "/v1/runs/{id}/retry"): (json_type, made.body("Retry", run_bodies.RetryBody)),
        ("POST", "/v1/runs/{id}/fork"): (json_type, made.body("Fork", run_bodies.ForkBody)),
        ("POST", "/v1/reruns"): (json_type, made.body("Rerun", run_bodies.ManyBody)),
        ("POST", "/v1/plans"): (json_type, made.body("Plan", run_bodies.PlanBody)),
    }


def _answered() -> dict[tuple[str, str], tuple[str, Schema]]:
    """What each path gives when all is well."""
    json_type = "application/json"
    response = _object("response", id="string", status="string", output="array")
    file, batch = _object("file", id="string", bytes="integer"), _object("batch", id="string", status="string")
    deleted = _object(None, id="string", deleted="boolean")
    status = _object(None, status="string")
    task = _object("task", id="string", run="string", state="string", assignee="string")
    whole = _object("task", id="string", title="string", schema={}, events="array")
    link = _object("task.link", id="string", task="string", person="string", path="string", expires_at="string")
    absence = _object("absence", id="string", person="string", substitute="string", since="string", until="string")
    delivery = _object("delivery", id="string", run="string", path="string", state="string", in_doubt="boolean")
    correction = _object("correction", id="string", run="string", flow="string", path="string", by="string")
    draft = _object("correction", id="string", flow="string", shown={}, original={}, edited={})
    twice = _object("agreement", flow="string", path="string", read_twice="integer", agreed="integer")
    run = _object("run", id="string", flow="string", status="string", cost_eur="number")
    moved = _object("run", id="string", status="string", dry_run="boolean")
    cut = _object("run", id="string", status="string", cut={"type": "object"})
    many = _object("rerun", label="string", able="integer", most_eur="number", has_more="boolean", data="array")
    plan = _object("plan", flow="string", least="object", expected="object", most="object", held_eur="number")
    return {
        ("POST", "/v1/chat/completions"): (json_type, _object("chat.completion", id="string", choices="array")),
        ("POST", "/v1/responses"): (json_type, response),
        ("GET", "/v1/responses/{id}"): (json_type, response),
        ("DELETE", "/v1/responses/{id}"): (json_type, deleted),
        ("GET", "/v1/responses/{id}/input_items"): (json_type, _list({"type": "object"})),
        ("POST", "/v1/responses/{id}/cancel"): (json_type, response),
        ("POST", "/v1/embeddings"): (json_type, _list(_object("embedding", index="integer"))),
        ("POST", "/v1/messages"): (json_type, _object(None, id="string", type={"const": "message"}, content="array")),
        ("POST", "/v1/messages/count_tokens"): (json_type, _object(None, input_tokens="integer")),
        ("POST", "/v1/rerank"): (json_type, _object(None, results="array")),
        ("POST", "/v1/audio/transcriptions"): (json_type, _object(None, text="string")),
        ("POST", "/v1/images/generations"): (json_type, _object(None, data="array")),
        ("GET", "/v1/models"): (json_type, _list(_object("model", id="string"))),
        ("GET", "/v1/models/{name}"): (json_type, _object("model", id="string")),
        ("POST", "/v1/files"): (json_type, file),
        ("GET", "/v1/files"): (json_type, _list(file)),
        ("GET", "/v1/files/{id}"): (json_type, file),
        ("DELETE", "/v1/files/{id}"): (json_type, deleted),
        ("GET", "/v1/files/{id}/content"): ("application/octet-stream", {}),
        ("POST", "/v1/batches"): (json_type, batch),
        ("GET", "/v1/batches"): (json_type, _list(batch)),
        ("GET", "/v1/batches/{id}"): (json_type, batch),
        ("POST", "/v1/batches/{id}/cancel"): (json_type, batch),
        ("GET", "/v1/tasks"): (json_type, _list(task)),
        ("GET", "/v1/tasks/{id}"): (json_type, whole),
        ("POST", "/v1/tasks/{id}/claim"): (json_type, whole),
        ("POST", "/v1/tasks/{id}/release"): (json_type, whole),
        ("POST", "/v1/tasks/{id}/comments"): (json_type, whole),
        ("POST", "/v1/tasks/{id}/decide"): (json_type, task),
        ("POST", "/v1/tasks/{id}/hand-off"): (json_type, task),
        ("POST", "/v1/tasks/{id}/links"): (json_type, link),
        ("GET", "/v1/deliveries"): (json_type, _list(delivery)),
        ("GET", "/v1/deliveries/{id}"): (json_type, delivery),
        ("POST", "/v1/deliveries/{id}/settle"): (json_type, delivery),
        ("GET", "/v1/corrections"): (json_type, _list(correction)),
        ("GET", "/v1/corrections/{id}"): (json_type, draft),
        ("GET", "/v1/agreement"): (json_type, _list(twice)),
        ("GET", "/v1/runs"): (json_type, _list(run)),
        ("DELETE", "/v1/runs"): (json_type, _object("run.erasure", runs="integer", dry_run="boolean")),
        ("GET", "/v1/runs/{id}"): (json_type, _object("run", id="string", steps="array", below="array")),
        ("GET", "/v1/runs/{id}/moment"): (json_type, _object("run.moment", line="integer", values="object")),
        ("GET", "/v1/runs/{id}/differences"): (json_type, _object("run.differences", data="array")),
        **{
            ("POST", f"/v1/runs/{{id}}/{what}"): (json_type, moved) for what in ("pause", "unpause", "resume", "cancel")
        },
        ("POST", "/v1/runs/{id}/retry"): (json_type, cut),
        ("POST", "/v1/runs/{id}/fork"): (json_type, cut),
        ("POST", "/v1/reruns"): (json_type, many),
        ("POST", "/v1/plans"): (json_type, plan),
        ("GET", "/v1/absences"): (json_type, _list(absence)),
        ("POST", "/v1/absences"): (json_type, absence),
        ("DELETE", "/v1/absences/{id}"): (json_type, deleted),
        ("GET", "/"): (json_type, _object(None, **dict.fromkeys(("name", "api", "ready", "documentation"), "string"))),
        ("GET", "/healthz"): (json_type, status),
        ("GET", "/readyz"): (json_type, status),
        ("GET", "/metrics"): ("text/plain; version=0.0.4; charset=utf-8", {"type": "string"}),
    }


_ALSO = {
    ("POST", "/v1/chat/completions"): ("text/event-stream",),
    ("POST", "/v1/responses"): ("text/event-stream",),
    ("POST", "/v1/messages"): ("text/event-stream",),
    ("POST", "/v1/audio/transcriptions"): ("text/plain; charset=utf-8",),
}
_QUERIES: dict[tuple[str, str], dict[str, Schema]] = {
    ("GET", "/v1/responses/{id}"): {"stream": {"enum": ["false", ""]}},
    ("GET", "/v1/responses/{id}/input_items"): {
        "limit": {"type": "integer", "minimum": 1, "maximum": 100},
        "order": {"enum": ["asc", "desc"]},
        "after": {"type": "string"},
    },
    ("GET", "/v1/files"): {
        "limit": {"type": "integer", "minimum": 1, "maximum": 10_000},
        "order": {"enum": ["asc", "desc"]},
        "purpose": {"type": "string"},
        "after": {"type": "string"},
    },
    ("GET", "/v1/batches"): {"limit": {"type": "integer", "minimum": 1, "maximum": 99}, "after": {"type": "string"}},
    ("GET", "/v1/tasks"): {"limit": {"type": "integer", "minimum": 1, "maximum": 100}, "after": {"type": "string"}},
    ("GET", "/v1/deliveries"): {"limit": {"type": "integer", "minimum": 1, "maximum": 200}},
    ("GET", "/v1/corrections"): {
        "limit": {"type": "integer", "minimum": 1, "maximum": 100},
        **{name: {"type": "string"} for name in ("flow", "after")},
    },
    ("GET", "/v1/agreement"): {"flow": {"type": "string"}},
    ("GET", "/v1/runs"): {
        "limit": {"type": "integer", "minimum": 1, "maximum": 100},
        **{name: {"type": "string"} for name in ("flow", "status", "code", "since", "until", "after")},
    },
    ("DELETE", "/v1/runs"): {
        "person": {"type": "string"},
        "older_than_days": {"type": "integer", "minimum": 1},
        "dry_run": {"enum": ["true", "false"]},
        "reason": {"type": "string"},
    },
    ("GET", "/v1/runs/{id}/moment"): {"line": {"type": "integer", "minimum": 1}},
    ("GET", "/v1/runs/{id}/differences"): {"with": {"type": "string"}},
}
_OPEN = frozenset({"/", "/healthz", "/readyz"})


def _operation(method: str, path: str, summary: str, asked: Any, answered: tuple[str, Schema]) -> Schema:
    error = "Refusal" if path.startswith("/v1/messages") else "Error"
    kind, schema = answered
    content: Schema = {kind: {"schema": schema}}
    content |= {also: {"schema": {"type": "string"}} for also in _ALSO.get((method, path), ())}
    refusal = {"application/json": {"schema": {"$ref": f"#/components/schemas/{error}"}}}
    codes = _REFUSED | _FAILED
    if path in _OPEN:
        codes, refusal = {503: "A part is missing."}, {kind: {"schema": schema}}
    responses: Schema = {"200": {"description": "As asked.", "content": content}}
    responses |= {str(code): {"description": text, "content": refusal} for code, text in codes.items()}
    found: Schema = {"summary": summary, "responses": responses}
    name = path.partition("{")[2].partition("}")[0]
    given = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}}] if name else []
    queries = _QUERIES.get((method, path), {})
    given += [{"name": each, "in": "query", "required": False, "schema": rule} for each, rule in queries.items()]
    if given:
        found["parameters"] = given
    if asked is not None:
        found["requestBody"] = {"required": True, "content": {asked[0]: {"schema": asked[1]}}}
    if path in _OPEN:
        found["security"] = []
    return found


def description() -> Schema:
    """Describe every route of the API; a route that is not described here raises KeyError."""
    made, answered = Description(), _answered()
    asked, paths = _asked(made), dict[str, Schema]()
    absent: Any = _Absent()
    for route in routes(absent):
        assert isinstance(route, Route)
        path = route.path.replace(":path}", "}")
        for method in sorted((route.methods or set()) - {"HEAD"}):
            words = (inspect.getdoc(getattr(route.endpoint, "answer", type(route.endpoint))) or "").splitlines()[0]
            place = (method, path)
            paths.setdefault(path, {})[method.lower()] = _operation(
                method, path, words, asked.get(place), answered.pop(place)
            )
    assert not answered, f"these are described and do not exist: {sorted(answered)}"
    text = {"type": "string"}
    maybe = {"type": ["string", "null"]}
    error = _object(None, message=text, type=text, param=maybe, code=text)
    made.schemas["Error"] = _object(None, error={**error, "additionalProperties": False})
    made.schemas["Refusal"] = _object(
        None, type={"const": "error"}, error=_object(None, type=text, message=text), request_id=text
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Métier",
            "version": "1",
            "description": "One governed road for every model call: OpenAI's API, Anthropic's Messages, batches.",
        },
        "security": [{"bearer": []}, {"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A virtual key, sk-mt-…"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
            "schemas": dict(sorted(made.schemas.items())),
        },
    }


def main() -> int:
    """Write the description, or say that it is out of date."""
    text = json.dumps(description(), ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    if "--check" in sys.argv:
        if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text:
            return 0
        print(f"{TARGET.name} is out of date: run python scripts/openapi.py")
        return 1
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
