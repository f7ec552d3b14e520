"""Secrets of connectors, looked for in every table, every log line, every error and every answer of a run."""

from __future__ import annotations

import logging
import pathlib
import sys
from typing import Any

import psycopg
import pytest

from metier.calls import JSON
from metier.connectors.secrets import Secrets
from metier.errors import MetierError
from metier.store import Store
from metier.vault import Vault
from metier.workflow.engine import Engine
from metier.workflow.review import TaskDesk
from metier.workflow.steps.tool import ToolSteps
from tests.connectors import mcpserver
from tests.connectors.dovecot import USER, dovecot, program
from tests.connectors.place import box
from tests.connectors.webserver import serving
from tests.security.canaries import Canaries, dumped, logged
from tests.workflow.flows import WHO, flow, step


def entries(store: Store, url: str, imap: int) -> dict[str, dict[str, Any]]:
    reached = {"private": ["127.0.0.0/8"], "retries": 0}
    web = {"kind": "http", "base_url": url, **reached}
    operations = {"ask": {"get": "/ask"}, "tell": {"post": "/tell", "input": {"a": "string"}}}
    basic = {"basic": {"user": "me", "password": "basic"}}
    oauth = {"oauth2": {"token_url": f"{url}/token", "client_id": "me", "client_secret": "oauth"}}
    queries = {"q": {"sql": "SELECT 1 AS one"}}
    server = [sys.executable, str(mcpserver.__file__), "/dev/null"]
    mailbox = {"host": "127.0.0.1", "port": imap, "tls": "none", "user": USER, "password": "imap"}
    return {
        "web": {**web, "auth": {"bearer": "bearer"}, "operations": operations},
        "basic": {**web, "auth": basic, "operations": operations},
        "oauth": {**web, "auth": oauth, "operations": operations},
        "hook": {"kind": "webhook", "url": f"{url}/h", "secret": "hook", **reached},
        "base": {"kind": "sql", "url": "base", "queries": queries},
        "files": {"kind": "mcp", "command": server, "secret_env": {"TOKEN": "mcp"}, "timeout_s": 20},
        "drafts": {"kind": "imap_append", **mailbox, "sender": "a@exemple.fr"},
    }


async def planted(store: Store, vault: Vault) -> Canaries:
    canaries, secrets = Canaries(), Secrets.built(store, vault)
    for name in ("bearer", "basic", "oauth", "hook", "mcp", "imap"):
        await secrets.set(name, canaries.new(name), scope=["*"], by="ada")
    wrong = psycopg.conninfo.make_conninfo(store.url, password=canaries.new("base"))
    await secrets.set("base", wrong, scope=["base"], by="ada")
    return canaries


@pytest.mark.skipif(program() is None, reason="dovecot is not installed: apt-get install dovecot-imapd")
async def test_no_secret_of_a_connector_is_found_anywhere(
    store: Store, vault: Vault, caplog: pytest.LogCaptureFixture, tmp_path: pathlib.Path
) -> None:
    caplog.set_level(logging.DEBUG)
    canaries = await planted(store, vault)
    letter: dict[str, JSON] = {"to": "b@exemple.fr", "subject": "s", "body": "b"}
    calls: list[tuple[str, dict[str, JSON]]] = [
        ("web.ask", {}), ("web.tell", {"a": "b"}), ("web.tell", {"a": "c"}), ("basic.ask", {}),
        ("basic.tell", {"a": "b"}), ("oauth.ask", {}), ("hook.send", {"type": "t", "data": {}}),
        ("base.q", {}), ("files.whoami", {}), ("files.fail", {}), ("drafts.draft", letter),
    ]  # fmt: skip
    echo = {"you": canaries.found, "all": " ".join(canaries.found.values())}
    # A careless server that repeats what it was given, in answers that are good and in refusals.
    answers = [(200, echo), (422, echo), "taken then cut", (200, echo), (401, echo), (401, echo), (500, echo)]
    with dovecot() as mailbox:
        async with serving(*answers) as server:
            made = box(store, vault, **entries(store, server.url, mailbox.port))
            engine = Engine(store, vault, {"tool": ToolSteps(made)}, desk=TaskDesk(store, vault))
            for name, with_ in calls:
                # Each connector proves itself with its own: the others are not known to it, and not its to hide.
                own = {"web": "bearer", "basic": "basic", "oauth": "oauth", "hook": "hook"}.get(name.split(".")[0])
                echo["you"] = echo["all"] = {own: canaries.found[own]} if own else {}
                run = await engine.start(flow(step("call", "tool", name, with_=with_)), {}, WHO)
                await engine.drain()
                failure = (await engine.get(run)).failure
                canaries.look(f"the failure of {name}", (failure.message if failure else "").encode())
                canaries.look(f"the steps of {name}", repr(await engine.steps(run)).encode())
                try:
                    shown = await made.connector(name.split(".")[0]).preview(name.split(".")[1], with_)
                    canaries.look(f"the preview of {name}", repr(shown).encode())
                except MetierError as error:
                    canaries.look(f"the preview of {name}", str(error).encode())
            assert len(server.asked) >= 7
    for table, data in (await dumped(store)).items():
        canaries.look(f"table {table}", data)
    canaries.look("the log", logged(caplog.records))
    canaries.none()
