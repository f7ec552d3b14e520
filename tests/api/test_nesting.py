"""Bodies nested deeper than can be written again: told as the fault of who sends them, on every surface."""

from __future__ import annotations

import pathlib

import pytest

from metier.api.server import application
from metier.console.fields import Problem, fields_of, read
from metier.nesting import DEEPEST, is_deeper, read_deeper
from metier.providers.scripted import ScriptedProvider, says
from metier.store import Store
from metier.testing import build_for_tests, caller
from tests.api.client import ask

USER = b'{"role": "user", "content": "a"}'
BODIES = {
    "/v1/chat/completions": b'{"model": "writer", "messages": [' + USER + b'], "metadata": %s}',
    "/v1/embeddings": b'{"model": "writer", "input": %s}',
    "/v1/rerank": b'{"model": "writer", "query": "a", "documents": %s}',
    "/v1/responses": b'{"model": "writer", "input": %s}',
    "/v1/messages": b'{"model": "writer", "max_tokens": 5, "messages": ['
    + USER
    + b', {"role": "assistant", "content": '
    b'[{"type": "tool_use", "id": "x", "name": "a", "input": %s}]}, ' + USER + b"]}",
    "/v1/images/generations": b'{"model": "writer", "prompt": %s}',
    "/v1/batches": b'{"input_file_id": "x", "metadata": %s}',
}


async def test_no_surface_breaks_on_a_body_nested_deep(store: Store, tmp_path: pathlib.Path) -> None:
    async with build_for_tests(tmp_path, store.url, ScriptedProvider(says("x"))) as app:
        who = await caller(app, "desk")
        key = (await app.keys.issue("program", who.project, who.system, "tests")).secret
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        for path, body in BODIES.items():
            for deep in (b"[" * 1_000 + b"]" * 1_000, b'{"a":' * 260 + b"1" + b"}" * 260):
                told = await ask(application(app), path, body % deep, headers=headers, method="POST")
                assert (told.status, b"levels deep" in told.body) == (400, True), (path, told.body)


@pytest.mark.parametrize("levels", [1, DEEPEST - 1, DEEPEST, DEEPEST + 1])
def test_levels_are_counted_whatever_they_are_made_of(levels: int) -> None:
    value: object = 1
    for number in range(levels):
        value = [value, 2] if number % 2 else {"a": value, "b": 2}
    assert is_deeper(value, DEEPEST) is (levels >= DEEPEST)  # type: ignore[arg-type]  # JSON made step by step
    assert read_deeper(b"{" * (DEEPEST + 1), value) is (levels >= DEEPEST)  # type: ignore[arg-type]  # the same
    assert not read_deeper(b'{"a": "[[["}' * 10, value)  # type: ignore[arg-type]  # bytes of which nothing is deep


def test_a_person_who_writes_json_into_a_page_is_told_too() -> None:
    (field,) = fields_of("given", "given", {}, None, required=False)
    assert read(field, {}, "[" * 300 + "]" * 300) == Problem("json")
    assert read(field, {}, '{"a": [[1]]}') == {"a": [[1]]}
