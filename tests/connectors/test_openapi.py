"""Operations of a description file as tools: parameters, bodies, references, and schemas checked both ways."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
import yaml

from metier.connectors.rest import Rest
from metier.connectors.secrets import Secrets
from metier.connectors.tools import Toolbox
from metier.errors import ConfigError, Invalid, StepFailed, Unavailable
from metier.store import Store
from metier.vault import Vault
from tests.connectors.place import Place, box
from tests.connectors.webserver import serving

ORDER = {
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": {"type": "integer", "minimum": 0, "exclusiveMinimum": True},
        "note": {"type": "string", "nullable": True},
        "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Order"}},
    },
}
JSON_ORDER = {"content": {"application/json; charset=utf-8": {"schema": {"$ref": "#/components/schemas/Order"}}}}
DOCUMENT: dict[str, Any] = {
    "openapi": "3.0.3",
    "info": {"title": "shop", "version": "1"},
    "servers": [{"url": "https://evil.example"}],
    "paths": {
        "/orders/{order}/parts/{part}": {
            "parameters": [{"$ref": "#/components/parameters/Order"}],
            "get": {
                "operationId": "get-part",
                "summary": "One part of an order.",
                "parameters": [
                    {"name": "part", "in": "path", "required": True, "schema": {"type": "string"}},
                    {"name": "fields", "in": "query", "explode": False, "schema": {"type": "array", "items": {}}},
                    {"name": "tag", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}},
                    {"name": "X-Trace", "in": "header", "schema": {"type": "string"}},
                ],
                "responses": {"200": JSON_ORDER},
            },
        },
        "/orders": {
            "post": {
                "operationId": "createOrder",
                "parameters": [{"name": "Idempotency-Key", "in": "header", "schema": {"type": "string"}}],
                "requestBody": {"required": True, **JSON_ORDER},
                "responses": {"201": JSON_ORDER},
            },
            "patch": {
                "operationId": "changeOrders",
                "requestBody": {"$ref": "#/components/requestBodies/Order"},
                "responses": {"204": {"description": "done"}},
            },
        },
        "/upload": {"post": {"operationId": "upload", "requestBody": {"content": {"multipart/form-data": {}}}}},
        "/me": {"get": {"operationId": "me", "parameters": [{"name": "s", "in": "cookie", "schema": {}}]}},
        "/far": {"get": {"operationId": "far", "parameters": [{"$ref": "other.yaml#/a"}]}},
    },
    "components": {
        "schemas": {"Order": ORDER},
        "parameters": {"Order": {"name": "order", "in": "path", "required": True, "schema": {"type": "integer"}}},
        "requestBodies": {"Order": JSON_ORDER},
    },
}


def shop(store: Store, vault: Vault, folder: pathlib.Path, url: str, **more: Any) -> Toolbox:
    (folder / "shop.yaml").write_text(yaml.safe_dump(DOCUMENT))
    options = {"kind": "openapi", "file": str(folder / "shop.yaml"), "base_url": url + "/v2", "private": ["127.0.0.1"]}
    return box(store, vault, shop={**options, "retries": 0, **more})


async def test_operations_are_tools_and_those_that_are_not_spoken_are_named(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    async with serving() as server:
        made = shop(store, vault, tmp_path, server.url)
        specs = {spec.name: spec for spec in await made.matching(["shop.*"])}
        assert {name: spec.effect for name, spec in specs.items()} == {
            "shop.get_part": False, "shop.createOrder": True, "shop.changeOrders": True,
        }  # fmt: skip
        assert specs["shop.get_part"].description == "One part of an order."
        assert specs["shop.get_part"].schema["required"] == ["order", "part"]
        said = await made.connector("shop").probe()
        assert all(name in said for name in ("upload", "me", "far"))


async def test_parameters_go_where_the_description_says(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    async with serving((200, {"id": 1, "note": None, "parts": [{"id": 2}]})) as server:
        made = shop(store, vault, tmp_path, server.url)
        with_: dict[str, Any] = {"order": 7, "part": "a/b", "fields": ["x", "y"], "tag": ["é", "z"], "X-Trace": "t1"}
        assert await made["shop.get_part"](Place(), with_) == {"id": 1, "note": None, "parts": [{"id": 2}]}
        (one,) = server.asked
        assert one.path == "/v2/orders/7/parts/a%2Fb?fields=x%2Cy&tag=%C3%A9&tag=z"
        assert one.headers["X-Trace"] == "t1"


@pytest.mark.parametrize("with_", [{"order": "7", "part": "a"}, {"part": "a"}, {"order": 7, "part": "a", "more": 1}])
async def test_what_does_not_fit_never_leaves(
    store: Store, vault: Vault, tmp_path: pathlib.Path, with_: dict[str, Any]
) -> None:
    async with serving() as server:
        with pytest.raises(Invalid, match="does not fit its schema"):
            await shop(store, vault, tmp_path, server.url)["shop.get_part"](Place(), with_)
        assert server.asked == []


@pytest.mark.parametrize("answer", [{"id": 0}, {"id": 1, "parts": [{"id": "x"}]}, {}])
async def test_an_answer_is_checked_down_to_what_it_refers_to(
    store: Store, vault: Vault, tmp_path: pathlib.Path, answer: Any
) -> None:
    async with serving((200, answer)) as server:
        with pytest.raises(Invalid, match="gave"):
            await shop(store, vault, tmp_path, server.url)["shop.get_part"](Place(), {"order": 7, "part": "a"})


async def test_a_header_for_keys_in_the_description_is_taken_at_its_word(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    async with serving("taken then cut", (201, {"id": 5}), "taken then cut") as server:
        made = shop(store, vault, tmp_path, server.url)
        with pytest.raises(Unavailable):
            await made["shop.createOrder"](Place(), {"body": {"id": 5}})
        assert await made["shop.createOrder"](Place(), {"body": {"id": 5}}) == {"id": 5}
        assert len(server.done) == 1 and json.loads(server.asked[0].body) == {"id": 5}
        with pytest.raises(Unavailable):
            await made["shop.changeOrders"](Place("run_2/x"), {"body": {"id": 5}})
        with pytest.raises(StepFailed, match="settle"):
            await made["shop.changeOrders"](Place("run_2/x"), {"body": {"id": 5}})
        assert len(server.asked) == 3


async def test_only_operations_that_are_wanted_are_there_and_prove_who_we_are(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    await Secrets.built(store, vault).set("token", "canary-token", scope=["shop"], by="ada")
    async with serving((200, {"id": 1})) as server:
        made = shop(store, vault, tmp_path, server.url, operations=["get_*"], auth={"bearer": "token"})
        assert [spec.name for spec in await made.matching(["shop.*"])] == ["shop.get_part"]
        await made["shop.get_part"](Place(), {"order": 7, "part": "a"})
        assert server.asked[0].headers["Authorization"] == "Bearer canary-token"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("swagger: '2.0'", "no OpenAPI 3"), ("{", "neither JSON nor YAML"), ("[]", "no OpenAPI 3"),
        ("openapi: 3.1.0", "none of the operations"),
        ("openapi: 3.1.0\npaths: {/a: {get: {operationId: x}, post: {operationId: x}}}", "twice"),
        ("openapi: 3.1.0\ncomponents: {parameters: {a: {$ref: '#/components/parameters/a'}}}\n"
         "paths: {/a: {get: {parameters: [{$ref: '#/components/parameters/a'}]}}}", "circles"),
    ],
)  # fmt: skip
def test_a_description_that_is_none_is_refused(
    store: Store, vault: Vault, tmp_path: pathlib.Path, text: str, said: str
) -> None:
    (tmp_path / "api.yaml").write_text(text)
    entry = {"kind": "openapi", "file": str(tmp_path / "api.yaml"), "base_url": "https://x.example"}
    with pytest.raises(ConfigError, match=said):
        box(store, vault, api=entry)


def described(schema: Any, **parts: Any) -> dict[str, Any]:
    body = {"content": {"application/json": {"schema": schema}}}
    paths = {"/a": {"post": {"operationId": "a", "requestBody": body}}, "/b": {"get": {"operationId": "b"}}}
    return {"openapi": "3.1.0", "paths": paths, **parts}


def written(store: Store, vault: Vault, folder: pathlib.Path, text: str) -> Toolbox:
    (folder / "api.yaml").write_text(text)
    entry = {"kind": "openapi", "file": str(folder / "api.yaml"), "base_url": "https://a.example"}
    return box(store, vault, shop=entry)


LOOP = """
openapi: 3.1.0
paths:
  /b: {get: {operationId: b}}
  /a: {post: {operationId: a, requestBody: {content: {application/json: {schema: &loop {properties: {again: *loop}}}}}}}
"""
BOMB = "".join(
    ["openapi: 3.1.0\nx:\n  a0: &a0 {type: string}\n"]
    + [f"  a{n}: &a{n} {{properties: {{x: *a{n - 1}, y: *a{n - 1}}}}}\n" for n in range(1, 26)]
    + ["paths:\n  /b: {get: {operationId: b}}\n"]
    + ["  /a: {post: {operationId: a, requestBody: {content: {application/json: {schema: *a25}}}}}\n"]
)


@pytest.mark.parametrize("text", [LOOP, BOMB], ids=["a circle of anchors", "anchors that double"])
async def test_a_description_that_grows_without_end_costs_only_its_operation(
    store: Store, vault: Vault, tmp_path: pathlib.Path, text: str
) -> None:
    made = written(store, vault, tmp_path, text)
    assert [spec.name for spec in await made.matching(["shop.*"])] == ["shop.b"]
    connector = made.connector("shop")
    assert isinstance(connector, Rest) and "too deep or too large" in connector._note


async def test_a_pattern_of_a_description_does_not_go_back(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    text = json.dumps(described({"type": "object", "properties": {"word": {"pattern": "^(a+)+$"}}}))
    with pytest.raises(Invalid, match="does not fit its schema at body/word"):
        await written(store, vault, tmp_path, text)["shop.a"](Place(), {"body": {"word": "a" * 40 + "!"}})


@pytest.mark.parametrize("text", ["[" * 100_000, "openapi: 3.1.0\nx:\n  " + "- " * 300 + "x"], ids=["flow", "block"])
def test_a_description_nested_beyond_reason_is_refused(
    store: Store, vault: Vault, tmp_path: pathlib.Path, text: str
) -> None:
    with pytest.raises(ConfigError, match="levels deep"):
        written(store, vault, tmp_path, text)


async def test_a_long_line_of_references_and_a_large_description_are_read(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    link = "#/components/schemas/{}"
    line = {f"S{n}": {"properties": {"next": {"$ref": link.format(f"S{(n + 1) % 500}")}}} for n in range(500)}
    alike = {"a-b": {"type": "string"}, "a_b": {"type": "integer"}}
    schema = {"properties": {name: {"$ref": link.format(name)} for name in ("S0", "a-b", "a_b")}}
    document = described(schema, components={"schemas": line | alike})
    for number in range(200):
        document["paths"][f"/{number}"] = {"post": {"operationId": f"p{number}", **document["paths"]["/a"]["post"]}}
        document["paths"][f"/{number}"]["post"]["operationId"] = f"p{number}"
    made = written(store, vault, tmp_path, json.dumps(document))
    assert len(await made.matching(["shop.*"])) == 202
    spec = await made.find("shop.a")
    with pytest.raises(Invalid):
        await spec(Place(), {"body": {"a-b": "x", "a_b": "x"}})
    assert len(spec.schema["$defs"]) == 502  # type: ignore[arg-type]  # an object


@pytest.mark.parametrize(
    "part",
    [
        {"paths": ["x"]},
        {"paths": {"/a": {"get": {"operationId": "b", "parameters": "x", "responses": ["y"]}}}},
        {"paths": {"/a": {"get": {"operationId": "b", "parameters": [{"in": ["query"], "name": {"x": 1}}, 3]}}}},
        {"paths": {"/a": {"post": {"operationId": "a", "requestBody": {"content": ["x"]}}}}},
        {"paths": {"/a": {"post": {"operationId": "a", "requestBody": {"content": {"application/json": "x"}}}}}},
    ],
)
def test_a_description_of_another_shape_is_read_or_refused(
    store: Store, vault: Vault, tmp_path: pathlib.Path, part: dict[str, Any]
) -> None:
    try:
        written(store, vault, tmp_path, json.dumps({"openapi": "3.1.0", **part}))
    except ConfigError as error:
        assert "none of the operations" in error.message
