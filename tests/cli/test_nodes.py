"""Two nodes on one database: one key, one budget, and what is decided at one holds at the other."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import pathlib
import time
from collections.abc import Awaitable, Callable

import pytest
import yaml

from tests.cli.house import House
from tests.cli.served import Served, ask, declared, get, key, serving
from tests.upstream import Reply, answer, upstream

WITHIN_S = 1.0
SLACK_S = 59.0
"""What a machine that does much else at the same time may take beyond the promised second."""


@pytest.fixture
def secret(house: House, request: pytest.FixtureRequest) -> str:
    """A key of its own for each test."""
    return key(house, f"nodes {request.node.name}")


@pytest.fixture
def elsewhere(house: House, secret: str, tmp_path: pathlib.Path) -> House:
    """Another machine: a folder of its own, the same database and the same master key."""
    home = tmp_path / "elsewhere"
    (home / "secrets").mkdir(parents=True)
    own = home / "secrets" / "master.key"
    own.write_bytes((house.home / "secrets" / "master.key").read_bytes())
    own.chmod(0o600)
    return dataclasses.replace(house, home=home)


async def becomes(what: Callable[[], Awaitable[int]], status: int) -> float:
    """Ask until the answer has this status; gives the seconds it took."""
    began = time.monotonic()
    while time.monotonic() - began < WITHIN_S + SLACK_S:
        if await what() == status:
            return time.monotonic() - began
        await asyncio.sleep(0.05)
    raise AssertionError(f"no answer {status} within {WITHIN_S + SLACK_S} s")


async def test_two_nodes_share_keys_systems_and_budgets(
    house: House, elsewhere: House, secret: str, tmp_path: pathlib.Path
) -> None:
    async with upstream(Reply([answer("Bonsoir")])) as model:
        config = tmp_path / "metier.yaml"
        config.write_text(yaml.safe_dump(declared(model.url)))
        with serving(house, METIER_CONFIG=str(config)) as one, serving(elsewhere, METIER_CONFIG=str(config)) as two:
            both = (one, two)

            def status(node: Served) -> Callable[[], Awaitable[int]]:
                async def now() -> int:
                    return (await ask(node.url, secret))[0]

                return now

            for node in both:
                assert (await status(node)()) == 200
            name = next(s["name"] for s in await there(house, "system", "list") if "two_nodes" in s["name"])
            await there(house, "system", "move", name, "suspended")
            for node in both:
                await becomes(status(node), 403)
            await there(house, "system", "move", name, "pilot")
            for node in both:
                await becomes(status(node), 200)
            await there(house, "key", "revoke", secret.removeprefix("sk-mt-").partition("-")[0])
            for node in both:
                await becomes(status(node), 401)


async def there(house: House, *arguments: str) -> list[dict[str, str]]:
    """Run a command while nodes serve."""
    found = await asyncio.to_thread(house.data, *arguments)
    return list(found) if isinstance(found, list) else list(found.get("systems", [found]))


async def test_a_changed_file_is_in_force_without_a_restart_and_a_wrong_one_is_not(
    house: House, secret: str, tmp_path: pathlib.Path
) -> None:
    async with upstream(Reply([answer("Bonsoir")])) as model:
        config = tmp_path / "metier.yaml"
        config.write_text(yaml.safe_dump(declared(model.url)))
        with serving(house, "--workers", "2", METIER_CONFIG=str(config)) as served:

            async def asked_for(name: str) -> int:
                # Each over a connection of its own: every worker is met.
                statuses = {(await ask(served.url, secret, model=name))[0] for _ in range(8)}
                return statuses.pop() if len(statuses) == 1 else 0

            assert (await asked_for("writer"), await asked_for("other")) == (200, 404)
            config.write_text(yaml.safe_dump(declared(model.url, "other")))
            await becomes(lambda: asked_for("other"), 200)
            assert await asked_for("writer") == 404

            config.write_text("models: {other: {deployments: [{provider: openai, api_key: [sk-canary]}]}}")

            async def told() -> int:
                bodies = [await get(f"{served.url}/readyz") for _ in range(8)]
                assert {status for status, _ in bodies} == {200}, "a mistake in a file takes no node away"
                return (
                    1
                    if all(json.loads(body).get("configuration", {}).get("valid") is False for _, body in bodies)
                    else 0
                )

            await becomes(told, 1)
            assert await asked_for("other") == 200
            _, text = await get(f"{served.url}/metrics")
            assert text.count('metier_config_valid{worker="') == 2
            assert 'metier_config_valid{worker="1"} 0' in text
            config.write_text(yaml.safe_dump(declared(model.url, "third", customers="/nowhere.jsonl")))
            await becomes(lambda: asked_for("third"), 200)
            ready = json.loads((await get(f"{served.url}/readyz"))[1])
            assert ready["configuration"] == {"valid": True, "restart_needed": ["customers"]}
        assert "stays in force" in served.error
        assert "sk-canary" not in served.error + text


async def test_two_nodes_spend_one_budget(house: House, elsewhere: House, tmp_path: pathlib.Path) -> None:
    limit = 0.0005
    await there(house, "key", "project", "two nodes", "--limit", str(limit), "--period", "total")
    name = next(s["name"] for s in await there(house, "system", "list") if "one_budget" in s["name"])
    issued = ["key", "issue", "spender", "--system", name, "--project", "two nodes"]
    spender = str((await asyncio.to_thread(house.data, *issued))["secret"])
    async with upstream(Reply([answer("Bonsoir")])) as model:
        config = tmp_path / "metier.yaml"
        config.write_text(yaml.safe_dump(declared(model.url)))
        with serving(house, METIER_CONFIG=str(config)) as one, serving(elsewhere, METIER_CONFIG=str(config)) as two:
            answered = 0
            for _ in range(300):
                seen = await asyncio.gather(*(ask(node.url, spender, max_tokens=8) for node in (one, two)))
                assert {status for status, _ in seen} <= {200, 429}
                answered += sum(status == 200 for status, _ in seen)
                if all(body.get("error", {}).get("code") == "budget_exceeded" for _, body in seen):
                    break
            else:
                raise AssertionError("the budget never ended")
            assert answered
            await there(house, "key", "project", "two nodes", "--limit", "1", "--period", "total")
            for node in (one, two):

                async def status(url: str = node.url) -> int:
                    return (await ask(url, spender, max_tokens=8))[0]

                await becomes(status, 200)
    # Both have ended: every call is recorded and paid out of the one budget.
    told = await asyncio.to_thread(house.data, "usage", "--by", "project")
    spent = [float(row["cost_eur"]) for row in told["usage"] if row["calls"] - row["errors"] == answered + 2]
    assert spent and max(spent) <= limit + 0.0002  # the two calls after the limit was raised
