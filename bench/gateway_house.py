"""The house that bench/gateway.py measures: one model, a project with a budget, keys; made before it is served.

python bench/gateway_house.py HOME UPSTREAM [--limits] [--keys N] [--deployments N]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pathlib
from decimal import Decimal

from metier.app import App, build
from metier.policy.limits import Limit, LimitPeriod, Measure, Scope
from metier.settings import load

_LIMITS: tuple[tuple[Measure, LimitPeriod], ...] = (("requests", "minute"), ("tokens", "minute"), ("tokens", "month"))
_MORE_KEYS = """
INSERT INTO keys SELECT (jsonb_populate_record(k, jsonb_build_object('id', lpad(to_hex(n), 12, '0')))).*
FROM keys AS k, generate_series(1, %(number)s) AS n WHERE k.id = %(like)s
"""


def config(upstream: str, deployments: int) -> dict[str, object]:
    """One model that answers from `upstream`, by so many deployments."""
    one = {
        "provider": "openai",
        "model_id": "m",
        "base_url": upstream,
        "price": {"input": 1, "output": 4},
        "energy": {"active_b": 8, "total_b": 8, "zone": "FRA"},
    }
    every = [{**one, "id": f"bench-{n}"} for n in range(deployments)] if deployments > 1 else [one]
    return {"models": {"bench": {"deployments": every}}}


async def prepare(app: App, home: pathlib.Path, limits: bool, keys: int = 1) -> None:
    """One approved system, a project with a budget, keys; where asked, three limits at each level."""
    system = await app.register.register("Mesure", "Mesurer la passerelle", "Métier")
    await app.register.approve(system.id, by="Métier")
    project = await app.keys.create_project("Mesure")
    await app.admission.set_budget(project.id, Decimal(100_000))
    issued = await app.keys.issue("mesure", project.id, system.id, by="Métier")
    levels: list[tuple[Scope, str]] = [
        ("key", issued.key.id), ("system", system.id), ("project", project.id), ("organisation", "main"),
        ("end_user", project.id),
    ]  # fmt: skip
    for scope, subject in levels if limits else ():
        for measure, period in _LIMITS:
            limit = Limit("", scope, subject, measure, period, Decimal(1_000_000_000))
            await app.admission.limits.set(limit, "Métier")
    if keys > 1:
        # The same secret behind other public parts.
        async with app.store.connection() as connection:
            await connection.execute(_MORE_KEYS.encode(), {"number": keys, "like": issued.key.id})
    home.joinpath("key").write_text(issued.secret)


async def _main(options: argparse.Namespace) -> None:
    home: pathlib.Path = options.home
    home.joinpath("metier.yaml").write_text(json.dumps(config(options.upstream, options.deployments)))
    async with build(load({"METIER_HOME": str(home)})) as app:
        await prepare(app, home, options.limits, options.keys)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=pathlib.Path)
    parser.add_argument("upstream")
    parser.add_argument("--limits", action="store_true")
    parser.add_argument("--keys", type=int, default=1)
    parser.add_argument("--deployments", type=int, default=1)
    asyncio.run(_main(parser.parse_args()))
