"""An agent with real tools: a server of MCP, operations of OpenAPI, a database it may only read, a function."""

from __future__ import annotations

import pathlib
import sqlite3

from metier.calls import JSON
from metier.providers.scripted import ScriptedProvider, asks, says
from metier.store import Store
from metier.testing import build_for_tests, caller
from metier.workflow.engine import Engine
from metier.workflow.steps.agent import AgentSteps
from tests.connectors.place import box
from tests.connectors.test_mcp import stdio, told
from tests.connectors.test_openapi import shop as orders
from tests.connectors.webserver import serving
from tests.workflow.steps.agents import desk
from tests.workflow.steps.agents import told as heard

QUERIES = {
    "stock": {"sql": "SELECT left FROM stock WHERE article = :article", "input": {"article": "string"}},
    "sneaky": {"sql": "DELETE FROM stock"},
}


async def test_an_agent_uses_tools_of_every_kind(store: Store, tmp_path: pathlib.Path) -> None:
    made = sqlite3.connect(tmp_path / "stock.db")
    made.execute("CREATE TABLE stock (article text, left integer)")
    made.execute("INSERT INTO stock VALUES ('saw', 3)")
    made.commit()
    made.close()
    provider = ScriptedProvider(
        asks("files_add", {"a": 2, "b": 3}),
        asks("shop_get_part", {"order": 7, "part": "a"}),
        asks("stock_stock", {"article": "saw"}),
        asks("stock_sneaky", {}),
        asks("text_language", {"text": "Bonjour à vous"}),
        says("Done."),
    )
    async with build_for_tests(tmp_path, store.url, provider) as app, serving((200, {"id": 1})) as server:
        await told(app.store, app.vault)
        orders(app.store, app.vault, tmp_path, server.url)
        tools = box(
            app.store,
            app.vault,
            files=stdio(tmp_path),
            stock={"kind": "sql", "file": str(tmp_path / "stock.db"), "queries": QUERIES},
            shop={
                "kind": "openapi", "file": str(tmp_path / "shop.yaml"), "base_url": f"{server.url}/v2",
                "private": ["127.0.0.1"], "retries": 0,
            },
        )  # fmt: skip
        engine = Engine(app.store, app.vault, {"agent": AgentSteps.built(app.gateway.collect, {}, tools)})
        named: dict[str, JSON] = {"tools": ["files.add", "shop.get_part", "stock.*", "text.language"], "max_turns": 6}
        run = await engine.start(desk(named), {}, await caller(app, groups=("public",)))
        await engine.drain()
        assert (await engine.get(run)).failure is None
        assert await engine.result(run) == {"text": "Done.", "agent": "it"}
        await tools.close()
    given = [text for role, text in heard(provider) if role == "tool"]
    assert given[:3] == ['{"result":5}', '{"id":1}', '{"rows":[{"left":3}],"truncated":false}']
    assert given[3].startswith("error: ") and given[4] == '{"language":"fr","empty":false}'
    assert [one.path for one in server.asked] == ["/v2/orders/7/parts/a"]
    assert sqlite3.connect(tmp_path / "stock.db").execute("SELECT count(*) FROM stock").fetchone() == (1,)
