"""metier.yaml while calls are answered: what changes at once, what does not, and what a mistake costs: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import yaml

from metier.catalog import Catalog
from metier.errors import ConfigError, NotFound
from metier.policy.constraints import Constraints
from metier.providers.scripted import ScriptedProvider
from metier.reload import Configured, Reload, Roles, roles_of
from metier.settings import read_config
from metier.store import Store
from metier.testing import build_for_tests
from metier.ways import Ways


def models(*names: str, **more: Any) -> dict[str, Any]:
    """A configuration with these models."""
    own = {
        "provider": "openai",
        "base_url": "http://127.0.0.1:1/v1",
        "model_id": "m",
        "price": {"input": 1, "output": 1},
    }
    return {"models": {name: {"deployments": [{**own, "id": name}]} for name in names}, **more}


def make(config: Any) -> Configured:
    """What a configuration comes to, as the platform makes it."""
    return Configured(
        Catalog.from_yaml(config.get("models") or {}),
        Constraints.from_yaml(config.get("systems") or {}, None),
        {"writer": "writer", **roles_of(config)},
    )


class House:
    """A file, what is in force, and what watches."""

    def __init__(self, path: pathlib.Path, config: dict[str, Any]) -> None:
        self.path = path
        self.write(config)
        made = make(config)
        self.ways, self.roles = Ways(made.catalog, made.constraints), Roles(made.roles)
        self.reload = Reload(path, config, read_config, make, self.ways, self.roles)

    def write(self, config: dict[str, Any] | str) -> None:
        """Put a new file in place."""
        text = config if isinstance(config, str) else yaml.safe_dump(config)
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.replace(self.path)

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Watch the file as the platform does, only faster."""
        task = asyncio.create_task(self.reload.run(0.02))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that comes."""
    for _ in range(3_000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come")


@pytest.fixture
def house(tmp_path: pathlib.Path) -> House:
    """One model to begin with."""
    return House(tmp_path / "metier.yaml", models("writer"))


async def test_a_new_file_is_in_force_whole(house: House) -> None:
    before = house.ways.catalog
    async with house.watched():
        house.write(models("writer", "large", roles={"writer": "large"}))
        await until(lambda: house.roles["writer"] == "large")
        assert set(house.ways.catalog.names()) == {"writer", "large"}
    # A call that has found its way keeps the deployments of that catalogue.
    assert before.names() == ("writer",) and "large" not in before
    assert house.reload.remarks() == {} and house.reload.valid


@pytest.mark.parametrize(
    "wrong",
    [
        "models: [",
        "models: 12",
        "surprise: 1",
        "- a list",
        "models: {writer: {deployments: [{provider: nobody}]}}",
        "roles: {writer: 7}",
        "models: {writer: {deployments: [{provider: openai, api_key: env/NO_SUCH_VARIABLE}]}}",
        "systems: {desk: {sensitivity: enormous}}",
        "systems: {desk: {models: [none]}}",
        "\x00",
    ],
)
async def test_a_wrong_file_changes_nothing_and_says_so(
    house: House, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = house.ways.catalog
    house.write(wrong)
    assert not await house.reload.take_over()
    assert house.ways.catalog is before and dict(house.roles) == {"writer": "writer"}
    assert house.reload.remarks() == {"configuration": {"valid": False, "restart_needed": []}}
    assert "stays in force" in caplog.text
    house.write(models("other"))
    assert await house.reload.take_over() and house.reload.valid and "other" in house.ways.catalog


async def test_a_file_left_without_a_model_ends_no_call(house: House) -> None:
    house.write("")
    assert not await house.reload.take_over()
    assert house.ways.catalog.names() and not house.reload.valid


async def test_the_same_file_put_back_is_valid_again(house: House) -> None:
    house.write("models: [")
    assert not await house.reload.take_over()
    house.write(models("writer"))
    assert await house.reload.take_over()
    assert house.reload.valid


async def test_a_file_that_is_gone_is_a_mistake_and_one_that_never_was_is_none(
    house: House, tmp_path: pathlib.Path
) -> None:
    house.path.unlink()
    assert not await house.reload.take_over()
    assert "writer" in house.ways.catalog
    bare = Reload(tmp_path / "none.yaml", {"models": {}}, read_config, make, house.ways, house.roles)
    assert await bare.take_over() and bare.valid and "writer" in house.ways.catalog


async def test_sections_that_need_a_restart_are_named_until_they_are_as_they_were(house: House) -> None:
    house.write(models("writer", customers="/a.jsonl"))
    assert await house.reload.take_over()
    assert house.reload.restart == ("customers",)
    house.write(models("writer", "large", customers="/a.jsonl"))
    assert await house.reload.take_over()
    assert house.reload.restart == ("customers",)
    house.write(models("writer"))
    assert await house.reload.take_over()
    assert house.reload.remarks() == {}


async def test_rules_of_batches_and_addresses_of_alerts_take_effect_at_once_or_refuse_the_whole_file(
    store: Store, tmp_path: pathlib.Path
) -> None:
    hooks = {"webhooks": [{"url": "https://exemple.fr/hook", "secret": "s" * 16}]}
    async with build_for_tests(tmp_path, store.url, ScriptedProvider()) as app:

        async def taken(**config: Any) -> bool:
            app.settings.config_path.write_text(yaml.safe_dump(config))
            return await app.reload.take_over()

        assert await taken(batches={"lines": 7}, alerts=hooks)
        assert app.batches.rules.lines == 7 and app.reload.restart == ()
        await app.admission.alerts.deliver()
        wrong: list[dict[str, Any]] = [{"batches": {"lines": 0}}, {"alerts": {"emails": ["a@exemple.fr"]}}]
        for section in wrong:
            assert not await taken(**{"batches": {"lines": 9}, "alerts": hooks, **section})
            assert app.batches.rules.lines == 7 and not app.reload.valid
        assert await taken(alerts=hooks) and app.batches.rules.lines == 50_000


async def test_rules_for_a_system_that_is_not_registered_are_told_until_it_is(
    store: Store, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with build_for_tests(tmp_path, store.url, ScriptedProvider()) as app:
        await app.register.register("desk", "tests", "tests")
        rules = {"desk": {"cache": "exact"}, "dseks": {"cache": {"mode": "semantic"}}, "*": {}}
        app.settings.config_path.write_text(yaml.safe_dump({"systems": rules}))
        assert await app.reload.take_over()
        for _ in range(2):
            await app.reload.compare()
        assert app.reload.unknown == ("dseks",) and app.remarks() == {"systems": {"unregistered": 1}}
        assert caplog.text.count("cache: semantic needs a model with the role embedder") == 1
        assert caplog.text.count("systems.dseks in metier.yaml") == 1 and "systems.desk in" not in caplog.text
        await app.register.register("dseks", "tests", "tests")
        await app.reload.compare()
        assert app.remarks() == {}


async def test_a_file_still_being_written_is_not_read(house: House) -> None:
    async with house.watched():
        for length in range(1, 40):
            # Half a file may well be valid: here it would lose models.
            text = yaml.safe_dump(models(*(f"m{number}" for number in range(length))))
            house.path.write_text(text)
            await asyncio.sleep(0)
        await until(lambda: len(house.ways.catalog.names()) == 39)


async def test_what_is_asked_for_is_read_at_once(house: House) -> None:
    task = asyncio.create_task(house.reload.run(3600))
    await asyncio.sleep(0)
    house.write(models("asked"))
    house.reload.ask()
    await until(lambda: "asked" in house.ways.catalog)
    task.cancel()
    await asyncio.wait([task])
    with pytest.raises(NotFound):
        house.ways.catalog.model("writer")


def test_a_fault_never_quotes_the_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "metier.yaml"
    for text in ('api_key: "sk-canary\n', "a: sk-canary: b: [", "sk-canary: [\x01]", "? [sk-canary\n", "&a *sk-canary"):
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            read_config(path)
        assert "canary" not in caught.value.message, caught.value.message
        assert str(path) in caught.value.message
