"""The platform as one piece: built in order, told ready, closed in order, failing as itself."""

from __future__ import annotations

import pathlib
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from metier.app import App, Parts, build
from metier.calls import JSON, Call, Message
from metier.catalog import Catalog
from metier.cli.preparation import approved_system
from metier.connectors.smtp import Account, Smtp
from metier.errors import ConfigError, Conflict, Invalid, NotFound, SystemNotApproved
from metier.providers.scripted import ScriptedProvider, says
from metier.settings import Settings
from metier.store import Store
from metier.testing import MODELS, StillClock, build_for_tests, caller
from metier.workflow.engine import StepContext, StepFunction
from tests.workflow.flows import flow, step

EMBEDDER = {
    "embedder": {"operation": "embed", "deployments": [{"provider": "scripted", "model_id": "vectors-1"}]},
}


class Watched(ScriptedProvider):
    """A provider that knows what still worked when it was closed."""

    app: App | None = None
    seen: tuple[str, ...] = ()

    async def close(self) -> None:
        """Look around, once."""
        assert self.app is not None
        async with self.app.store.connection() as connection:
            rows = await (await connection.execute("SELECT outcome FROM calls")).fetchall()
        self.seen = tuple(row["outcome"] for row in rows)


async def test_what_was_opened_is_closed_in_order(store: Store, tmp_path: pathlib.Path) -> None:
    provider = Watched(says("Bonjour"))
    async with build_for_tests(tmp_path, store.url, provider) as app:
        provider.app = app
        who = await caller(app)
        await app.gateway.collect(Call(who, "writer", messages=(Message("user", "Salut"),)))
    assert provider.seen == ("answered",), "the ledger is written down first, then providers close, then the store"
    assert (await app.ready())["database"] is False
    with pytest.raises(psycopg.Error):
        async with app.store.connection():
            pass


async def test_ready_tells_part_by_part(store: Store, tmp_path: pathlib.Path) -> None:
    async with build_for_tests(tmp_path, store.url, ScriptedProvider()) as app:
        assert await app.ready() == {"database": True, "models": True, "records": True}
    nothing = Parts(catalog=Catalog.from_yaml({}))
    async with build_for_tests(tmp_path, store.url, ScriptedProvider(), nothing) as app:
        assert await app.ready() == {"database": True, "models": False, "records": True}


async def test_a_failure_inside_comes_out_as_it_is(store: Store, tmp_path: pathlib.Path) -> None:
    with pytest.raises(Invalid, match="as it is"):
        async with build_for_tests(tmp_path, store.url, ScriptedProvider()):
            raise Invalid("as it is")


async def test_the_house_finds_its_own_keys_by_name(store: Store, tmp_path: pathlib.Path) -> None:
    async with build_for_tests(tmp_path, store.url, ScriptedProvider()) as app:
        with pytest.raises(NotFound, match="'tests'"):
            await app.principal("tests")
        who = await caller(app, groups=("public", "sav"))
        assert (who.name, who.groups, who.models) == ("tests", frozenset({"public", "sav"}), None)
        assert await app.principal("tests") == who == await caller(app)
        await app.keys.revoke(str(who.key_id), "tests")
        with pytest.raises(NotFound):
            await app.principal("tests")


async def test_a_platform_that_cannot_be_built_leaves_nothing_open(store: Store, tmp_path: pathlib.Path) -> None:
    closed: list[str] = []

    class Closing(ScriptedProvider):
        async def close(self) -> None:
            closed.append("closed")

    parts = Parts(transport=Smtp(Account("127.0.0.1", 9)), providers={"scripted": Closing()})
    with pytest.raises(ConfigError, match="METIER_MAIL_FROM"):
        async with build(Settings(tmp_path, tmp_path / "metier.yaml", database_url=store.url), parts):
            pass
    assert closed == ["closed"]
    wrong: dict[str, Any] = {"models": {"writer": {"deployments": []}}}
    with pytest.raises(ConfigError, match=r"models\.writer"):
        async with build(Settings(tmp_path, tmp_path / "metier.yaml", config=wrong, database_url=store.url)):
            pass


async def test_texts_are_embedded_by_the_one_road(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider()
    parts = Parts(catalog=Catalog.from_yaml({**MODELS, **EMBEDDER}))
    async with build_for_tests(tmp_path, store.url, provider, parts) as app:
        who = await caller(app)
        vectors = await app.embed(who)(["Bonjour", "Bonsoir"], "query")
        assert vectors.shape == (2, 16)
        (call,) = provider.calls
        assert (call.operation, call.inputs, call.purpose) == ("embed", ("Bonjour", "Bonsoir"), "query")
        embedder = app.embedder(who)
        assert embedder is not None
        ingest = app.ingest(who)
        await ingest.create("notes")
        await ingest.add("notes", "a.md", b"# Retours\n\nVous avez 14 jours.", frozenset({"public"}))
        hits = await app.retrieve(who).search("notes", "jours", who.groups, 3)
        assert [hit.document for hit in hits] == ["a.md"]
        await app.ledger.flush()
        (row,) = await app.ledger.usage(("model",))
        assert (row.model, row.calls) == ("embedder", len(provider.calls))


async def test_without_an_embedder_search_goes_by_words(store: Store, tmp_path: pathlib.Path) -> None:
    async with build_for_tests(tmp_path, store.url, ScriptedProvider()) as app:
        assert app.embedder(await caller(app)) is None


async def test_roles_of_the_settings_hold_where_parts_name_none(store: Store, tmp_path: pathlib.Path) -> None:
    models = {"petit": {"deployments": [{"provider": "local", "model_id": "petit.gguf"}]}}
    config = {"roles": {"judge": "petit"}, "models": models}
    settings = Settings(tmp_path, tmp_path / "m.yaml", config=config, database_url=store.url)
    async with build(settings) as app:
        assert app.roles == {"writer": "writer", "judge": "petit", "embedder": "embedder"}
    async with build(settings, Parts(roles={"writer": "grand"})) as app:
        assert app.roles == {"writer": "grand", "judge": "judge", "embedder": "embedder"}


async def test_every_step_passes_through_what_is_put_around(store: Store, tmp_path: pathlib.Path) -> None:
    seen: list[str] = []

    def around(function: StepFunction) -> StepFunction:
        async def noted(context: StepContext, with_: dict[str, JSON]) -> JSON:
            seen.append(context.path)
            return await function(context, with_)

        return noted

    async with build_for_tests(tmp_path, store.url, ScriptedProvider(), Parts(around=around)) as app:
        a = step("a", "code", "text.language", with_={"text": "Bonjour à vous"})
        run = await app.engine.start(
            flow(a, replace(a, id="b"), output="{{ steps.b.language }}"), {}, await caller(app)
        )
        await app.engine.drain()
        assert (await app.engine.result(run), seen) == ("fr", ["a", "b"])


async def test_a_second_start_finds_the_same_house(store: Store, tmp_path: pathlib.Path) -> None:
    async with build_for_tests(tmp_path, store.url, ScriptedProvider()) as app:
        run = await app.engine.start(flow(output="{{ inputs.x }}"), {"x": "secret"}, await caller(app))
    async with build_for_tests(tmp_path, store.url, ScriptedProvider()) as app:
        await app.engine.drain()
        assert await app.engine.result(run) == "secret", "the same key opens what was sealed"


@pytest.mark.parametrize("status", ["suspended", "retired"])
async def test_preparing_never_undoes_what_an_owner_decided(store: Store, tmp_path: pathlib.Path, status: Any) -> None:
    async with build_for_tests(tmp_path, store.url, ScriptedProvider(says("ok"))) as app:
        id = await approved_system(app, "essai", "Essayer", "Camille", "Camille")
        project = await app.keys.create_project("essai")
        await app.keys.issue("essai", project.id, id, "Camille")
        await app.register.move(id, status, "Camille", "incident")
        assert await approved_system(app, "essai", "Essayer", "Camille", "metier") == id
        assert (await app.register.get(id)).status == status
        with pytest.raises((SystemNotApproved, Conflict)):
            await app.keys.issue("encore", project.id, id, "metier")


def test_a_still_clock_moves_when_it_is_told_to() -> None:
    clock = StillClock()
    then = clock()
    clock.forward(90)
    assert (clock() - then).total_seconds() == 90
