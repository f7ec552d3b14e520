"""The tutorial, typed into an empty folder as it is written: every file, every command; and pages with examples."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import os
import pathlib
import re
import runpy
import sys
from collections.abc import AsyncIterator

import orjson
import pytest
import yaml
from aiohttp import web

from metier.connectors.smtp import Sink
from metier.connectors.tools import KINDS as MAKERS
from metier.connectors.tools import Toolbox
from metier.errors import ConfigError
from metier.store import Store
from metier.triggers.kinds import KINDS as TRIGGERS_OF
from metier.vault import Vault
from metier.workflow.definition import parse
from metier.workflow.kinds import KIND_KEYS
from metier.workflow.lint import Known, lint
from metier.workflow.steps.functions import FUNCTIONS
from tests.upstream import answer

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
TUTORIAL, FRENCH = DOCS / "tutorial" / "email-flow.md", DOCS / "fr" / "tutoriel-courriels.md"
REFERENCE = DOCS / "reference"
KINDS, CONNECTORS, TRIGGERS = (
    sorted(page for page in (REFERENCE / part).glob("*.md") if page.stem != "README")
    for part in ("kinds", "connectors", "triggers")
)
OPENED = [page for page in CONNECTORS if page.stem != "email"]
"""Connectors that metier.yaml declares; e-mail by SMTP is there without it."""
_CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_PART = re.compile(r"^`([^`]+)`(,[^\n]*)?\n\n```\w*\n(.*?)^```$|^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_BIN = str(pathlib.Path(sys.executable).parent)
HEAD = """
flow: example
schema: 1
inputs:
  {text: string, from: string, category: string, amount: number, number: string, day: string, draft: {subject: string},
   tasks: 'string[]'}
steps:
"""
"""What the examples of kinds take for granted."""
FILES = {
    "prompts/ask.md": "{{ text }}",
    "flows/refund.yaml": "flow: refund\nschema: 1\ninputs: {number: string}\nsteps:\n  - {id: a, emit: {event: b}}\n"
    "output: {refunded: true}\n",
}


@contextlib.asynccontextmanager
async def mail_server(folder: pathlib.Path) -> AsyncIterator[tuple[Sink, int]]:
    """A server that keeps every message in a folder, and its port."""
    sink = Sink(folder)
    account = await sink.start()
    try:
        yield sink, account.port
    finally:
        await sink.stop()


@contextlib.asynccontextmanager
async def model() -> AsyncIterator[str]:
    """A provider that answers a question with the first extract it is shown."""

    async def handle(request: web.Request) -> web.Response:
        asked = orjson.loads(await request.read())
        found = re.search(r"^\[([^\]\n]+)\] ", str(asked["messages"][-1]["content"]), re.MULTILINE)
        cited = [found[1]] if found else []
        written = orjson.dumps({"subject": "Re: Returning", "body": "You have 14 days.", "citations": cited})
        return web.Response(body=answer(written.decode()), content_type="text/event-stream")

    served = web.Application()
    served.router.add_post("/{path:.*}", handle)
    runner = web.AppRunner(served, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def configured(home: pathlib.Path, url: str) -> None:
    """What `metier init` would have written, for the provider of the test."""
    deployment = {"id": "w", "provider": "openai", "base_url": url, "model_id": "m", "price": {"input": 1, "output": 4}}
    home.mkdir()
    models = {"writer": {"deployments": [{**deployment, "context_tokens": 32_000, "max_output_tokens": 1_000}]}}
    (home / "metier.yaml").write_text(yaml.safe_dump({"models": models}), encoding="utf-8")


async def typed(line: str, folder: pathlib.Path, environment: dict[str, str]) -> str:
    """Run one line in a shell; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", line, cwd=folder, env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    told, _ = await process.communicate()
    text = told.decode()
    assert process.returncode == 0, f"{line}: {text}"
    return text


def parts(page: pathlib.Path) -> list[tuple[str, bool, str, str]]:
    """What a reader types: a file, whether it goes to the end of one that is there, its text; or commands."""
    found = _PART.findall(page.read_text(encoding="utf-8"))
    return [(path, bool(more), body, re.sub(r" +#.*", "", commands)) for path, more, body, commands in found]


def test_nothing_of_the_tutorial_is_left_out_and_french_readers_type_the_same() -> None:
    assert len(parts(TUTORIAL)) == len(_CODE.findall(TUTORIAL.read_text(encoding="utf-8")))
    assert parts(TUTORIAL) == parts(FRENCH)


async def test_the_tutorial_works_as_it_is_typed(store: Store, tmp_path: pathlib.Path) -> None:
    folder, home, names = tmp_path / "empty", tmp_path / "home", dict[str, str]()
    folder.mkdir()
    async with model() as url, mail_server(tmp_path / "sent") as (sink, port):
        configured(home, url)
        environment = {
            "PATH": f"{_BIN}:{os.defpath}", "METIER_HOME": str(home), "METIER_DATABASE_URL": store.url,
            "METIER_SMTP_URL": f"smtp://127.0.0.1:{port}", "METIER_MAIL_FROM": "service@example.com",
            "OPENAI_API_KEY": "x", "COLUMNS": "200", "LANG": "C.UTF-8",
        }  # fmt: skip
        for path, more, body, commands in parts(TUTORIAL):
            if path:
                file = folder / path
                file.parent.mkdir(exist_ok=True)
                file.write_text((file.read_text(encoding="utf-8") if more else "") + body, encoding="utf-8")
            for line in commands.splitlines():
                for name, value in names.items():
                    line = re.sub(rf"\b{name}\b", value, line)
                told = await typed(line, folder, environment)
                for name, mark in (("RUN", "run_"), ("TASK", "task_")):
                    found = re.search(rf"\b{mark}\w+", told)
                    names.setdefault(name, found[0]) if found else None
        assert len([*sink.folder.glob("*.eml")]) == 1, "one message left, however often it was started"


@pytest.mark.parametrize("page", KINDS, ids=lambda page: page.stem)
def test_the_example_of_a_kind_stands_the_linter(page: pathlib.Path) -> None:
    found = re.search(r"```yaml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    workflow = parse(HEAD + re.sub(r"^", "  ", found[1], flags=re.MULTILINE), FILES)
    assert page.stem in {step.kind for step in workflow.walk()}
    known = Known(
        tools={"crm.find_contact", "email.send"},
        code=tuple(FUNCTIONS),
        models={"writer", "judge"},
        rules={"refund-policy@1"},
    )
    assert [finding.message for finding in lint(workflow, known) if finding.severity == "error"] == []


def example(page: pathlib.Path) -> str:
    found = re.search(r"```yaml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("page", OPENED, ids=lambda page: page.stem)
async def test_the_page_of_a_connector_has_an_example_that_is_taken_and_every_option(
    page: pathlib.Path, store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    described = tmp_path / "erp.yaml"
    described.write_text(
        "openapi: 3.0.3\ninfo: {title: e, version: '1'}\npaths:\n  /orders:\n    post: {operationId: createOrder, "
        "responses: {'201': {description: made}}}\n",
        encoding="utf-8",
    )
    section = yaml.safe_load(example(page).replace("/srv/metier/erp.yaml", str(described)))["connectors"]
    assert {entry["kind"] for entry in section.values()} == {page.stem}
    read = Toolbox.built(store, vault, None, {}).read
    assert read(section).keys() == section.keys()
    name, entry = next(iter(section.items()))
    with pytest.raises(ConfigError, match="choose among") as wrong:
        read({name: {**entry, "no-such-option": 1}})
    options = str(wrong.value).partition("choose among ")[2].split()
    rows = "".join(re.findall(r"^\| (`.*?) \|", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert [option for option in options if f"`{option}`" not in rows] == []


def test_the_page_of_email_has_an_example_that_stands_the_linter() -> None:
    written = re.sub(r"^", "  ", example(REFERENCE / "connectors" / "email.md"), flags=re.MULTILINE)
    assert lint(parse(HEAD + written, {}), Known(tools={"email.send"})) == ()


def test_there_is_a_page_for_each_kind_connector_and_trigger() -> None:
    assert {page.stem for page in KINDS} == set(KIND_KEYS)
    assert {page.stem for page in OPENED} == set(MAKERS)
    assert {page.stem for page in TRIGGERS} == set(TRIGGERS_OF)


@pytest.mark.parametrize("page", TRIGGERS, ids=lambda page: page.stem)
def test_the_page_of_a_trigger_has_an_example_that_is_taken_and_every_key(page: pathlib.Path) -> None:
    ends = "steps:\n  - {id: a, emit: {event: b}}\n"
    workflow = parse(f"flow: example\nschema: 1\n{example(page)}{ends}", {})
    (trigger,) = workflow.triggers
    TRIGGERS_OF[trigger.kind].check(trigger.config)
    assert (trigger.kind, lint(workflow)) == (page.stem, ())
    source = inspect.getsource(sys.modules[TRIGGERS_OF[trigger.kind].check.__module__])
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    (only,) = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "only"]
    keys = [key for argument in only.args[2:] for key in ast.literal_eval(argument)]
    text = page.read_text(encoding="utf-8")
    assert [key for key in keys if not re.search(rf"^\| .*`{key}`.* \|", text, re.MULTILINE)] == []


def test_each_promise_names_what_shows_it() -> None:
    text = (DOCS / "explanation" / "guarantees.md").read_text(encoding="utf-8")
    promises = re.findall(r"^- (.*)$", text, re.MULTILINE)
    assert len(promises) > 20
    for promise in promises:
        shown = re.findall(r"`([\w/]+\.py)::(\w+)`", promise)
        benches = re.findall(r"`(bench/\w+\.py)`", promise)
        assert shown or benches, f"nothing shows: {promise}"
        for bench in benches:
            assert (ROOT / bench).exists(), bench
        for path, name in shown:
            tests = (ROOT / "tests" / path).read_text(encoding="utf-8")
            assert re.search(rf"^(async )?def {name}\(", tests, re.MULTILINE), f"{path} has no {name}"


def test_the_example_in_python_is_a_workflow_that_stands_the_linter(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (REFERENCE / "workflow-language.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "made.py").write_text(code, encoding="utf-8")
    made = runpy.run_path(str(tmp_path / "made.py"))["made"]
    assert parse(capsys.readouterr().out, {}).hash == made.workflow({}).hash
