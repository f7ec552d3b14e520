"""Secrets of connectors: sealed, read by those they are for, and found nowhere else."""

from __future__ import annotations

import pytest

from metier.connectors.secrets import Secrets
from metier.errors import Broken, Invalid, NotAllowed, NotFound
from metier.store import Store
from metier.vault import Vault

VALUE = "canary-9f2b-secret"


async def test_a_secret_goes_in_once_and_comes_out_to_its_connector_only(store: Store, vault: Vault) -> None:
    secrets = Secrets.built(store, vault)
    await secrets.set("crm-token", VALUE, scope=["crm"], by="ada")
    assert await secrets.get("crm-token", "crm", project="project_1") == VALUE
    with pytest.raises(NotAllowed, match="not for 'mailbox'") as refused:
        await secrets.get("crm-token", "mailbox")
    assert VALUE not in str(refused.value)
    (named,) = await secrets.list()
    assert (named.name, named.scope, named.project, named.set_by) == ("crm-token", ("crm",), None, "ada")
    assert VALUE not in repr(named)


async def test_a_project_has_its_own_before_that_of_its_organisation(store: Store, vault: Vault) -> None:
    secrets = Secrets.built(store, vault)
    await secrets.set("token", "of the house", scope=["*"], by="ada")
    await secrets.set("token", "of the shop", scope=["crm"], by="ada", project="shop")
    assert await secrets.get("token", "crm", project="shop") == "of the shop"
    assert await secrets.get("token", "crm", project="bank") == "of the house"
    assert await secrets.get("token", "crm") == "of the house"
    with pytest.raises(NotFound, match="metier secret set token --for crm"):
        await secrets.get("token", "crm", organisation="other")
    await secrets.remove("token", project="shop")
    assert await secrets.get("token", "crm", project="shop") == "of the house"
    with pytest.raises(NotFound, match="to remove"):
        await secrets.remove("token", project="shop")


async def test_what_is_stored_is_sealed_and_opens_only_in_its_place(store: Store, vault: Vault) -> None:
    secrets = Secrets.built(store, vault)
    await secrets.set("one", VALUE, scope=["*"], by="ada")
    await secrets.set("two", "other", scope=["*"], by="ada")
    async with store.connection() as connection:
        rows = await (await connection.execute("SELECT sealed::text || name AS told FROM secrets")).fetchall()
        assert all(VALUE not in row["told"] and VALUE.encode().hex() not in row["told"] for row in rows)
        await connection.execute("UPDATE secrets SET sealed = (SELECT sealed FROM secrets WHERE name = 'one')")
    with pytest.raises(Broken) as moved:
        await secrets.get("two", "crm")
    assert VALUE not in str(moved.value)


@pytest.mark.parametrize("name", ["", "A", "a b", "../a", "é", "a" * 101, "a\x00"])
async def test_a_name_that_is_none_is_refused(store: Store, vault: Vault, name: str) -> None:
    with pytest.raises(Invalid, match="cannot name a secret"):
        await Secrets.built(store, vault).set(name, VALUE, scope=["*"], by="ada")


@pytest.mark.parametrize(("value", "scope"), [("", ["*"]), ("x" * 64_001, ["*"]), ("a\x00b", ["*"]), (VALUE, [])])
async def test_a_value_or_a_scope_that_is_none_is_refused(
    store: Store, vault: Vault, value: str, scope: list[str]
) -> None:
    with pytest.raises(Invalid) as refused:
        await Secrets.built(store, vault).set("name", value, scope=scope, by="ada")
    assert VALUE not in str(refused.value)
