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


async def test_hits_count_among_requests(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    async with desk(store, vault, tmp_path, ScriptedProvider(says("un"))) as here:
        key = here.world.principal.key_id
        await here.world.admission.limits.set(Limit("", "key", key, "requests", "day", Decimal(3)), "Nadia")
        assert [kept(await here.ask()) for _ in range(3)] == ["miss", "exact", "exact"]
        with pytest.raises((RateLimited, BudgetExceeded)):
            await here.ask()
