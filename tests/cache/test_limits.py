from __future__ import annotations

import pathlib
from decimal import Decimal

import pytest

from metier.calls import Usage
from metier.errors import BudgetExceeded, RateLimited
from metier.policy.limits import Limit
from metier.providers.scripted import ScriptedProvider, says
from metier.store import Store
from metier.vault import Vault
from tests.cache.desk import desk, kept


async def test_hits_cost_no_budget_and_no_tokens(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(says("un", usage=Usage(1000, 1000)))
    models = {
        "petit": {
            "deployments": [
                {
                    "provider": "scripted", "model_id": "a", "price": {"input": 100, "output": 400},
                    "max_output_tokens": 1000,
                }
            ]
        }
    }  # fmt: skip
    async with desk(store, vault, tmp_path, provider, models=models) as here:
        admission, project = here.world.admission, here.world.principal.project
        await admission.set_budget(project, Decimal("1.2"))
        assert kept(await here.ask()) == "miss"
        for _ in range(5):
            assert kept(await here.ask()) == "exact"
        await here.world.ledger.flush()
        budget = await admission.budget(project)
        assert budget is not None and budget.spent_eur == Decimal("0.5")
        assert kept(await here.ask("Autre question")) == "miss"
        with pytest.raises(BudgetExceeded):
            await here.ask("Encore une autre")
        with pytest.raises(BudgetExceeded):
            await here.ask()  # kept, and refused all the same: rights and limits come before what is kept


async def test_what_is_held_for_a_hit_is_free_again_when_it_ends(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    models = {"petit": {"deployments": [{
        "provider": "scripted", "model_id": "a", "price": {"input": 1, "output": 1}, "max_output_tokens": 1000,
    }]}}  # fmt: skip
    async with desk(store, vault, tmp_path, ScriptedProvider(says("un", usage=Usage(10, 10))), models=models) as here:
        await here.world.admission.set_budget(here.world.principal.project, Decimal(1))
        assert kept(await here.ask()) == "miss"
        [(_, before)] = here.world.admission.lent().values()
        for _ in range(3):
            assert kept(await here.ask()) == "exact"
        [(_, after)] = here.world.admission.lent().values()
        assert after == before


async def test_hits_count_among_requests(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    async with desk(store, vault, tmp_path, ScriptedProvider(says("un"))) as here:
        key = here.world.principal.key_id
        await here.world.admission.limits.set(Limit("", "key", key, "requests", "day", Decimal(3)), "Nadia")
        assert [kept(await here.ask()) for _ in range(3)] == ["miss", "exact", "exact"]
        with pytest.raises((RateLimited, BudgetExceeded)):
            await here.ask()
