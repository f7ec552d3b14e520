"""The tutorial, typed into an empty folder as it is written: every file, every command; and pages with examples."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import re
import sys
from collections.abc import AsyncIterator

import orjson
import pytest
import yaml
from aiohttp import web

from metier.connectors.smtp import Sink
from metier.store import Store
from metier.workflow.definition import parse
from metier.workflow.lint import Known, lint
from metier.workflow.steps.functions import FUNCTIONS
from tests.upstream import answer

DOCS = pathlib.Path(__file__).parent.parent / "docs"
TUTORIAL, FRENCH = DOCS / "tutorial" / "email-flow.md", DOCS / "fr" / "tutoriel-courriels.md"
KINDS = sorted(path for path in (DOCS / "reference" / "kinds").glob("*.md") if path.name != "README.md")
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
