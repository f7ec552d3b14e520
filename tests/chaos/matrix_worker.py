"""A worker of its own that makes the calls it is told to, says which have ended, and waits to be killed."""

from __future__ import annotations

import asyncio
import json
import pathlib
import sys

from metier.api.server import application
from metier.app import Parts, build
from metier.catalog import Catalog
from metier.settings import Settings
from tests.chaos.client import talk


async def work(url: str, home: pathlib.Path, secret: str) -> None:
    """Make every call of the plan at once, then stay."""
    plan = json.loads((home / "plan.json").read_text())
    settings = Settings(home=home, config_path=home / "metier.yaml", database_url=url)
    async with build(settings, Parts(catalog=Catalog.from_yaml(plan["models"]))) as app:
        api = application(app)

        async def one(path: str, body: dict[str, object]) -> None:
            heard = await talk(api, path, body, secret)
            sys.stdout.write(f"{body['model']} {heard.end}\n")
            sys.stdout.flush()

        await asyncio.gather(*(one(path, body) for path, body in plan["calls"]))
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]))
