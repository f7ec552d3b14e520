"""The really running small models: fetched once a machine, verified, kept in the user's cache between sessions."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncIterator

import platformdirs
import pytest

from metier import weights
from metier.calls import KeyId, Principal, ProjectId, SystemId
from metier.catalog import Deployment
from metier.providers.local import Local
from metier.providers.openai import OpenAIProvider


@pytest.fixture(scope="session")
def model_home() -> pathlib.Path:
    """A home that keeps the small models; fetching them is preparation, no test reaches the network."""
    home = pathlib.Path(platformdirs.user_cache_path("metier-tests"))
    for name in ("smollm2-135m-instruct", "multilingual-e5-small"):
        asyncio.run(weights.pull(home, name))
    return home


@pytest.fixture
async def local(model_home: pathlib.Path) -> AsyncIterator[Local]:
    """The local provider over the shared small models; its server stays a while for the next test."""
    provider = Local(model_home, OpenAIProvider(first_token_s=300), threads=1, linger_s=20)
    yield provider
    await provider.close()


@pytest.fixture
def small() -> Deployment:
    """The small chat model."""
    return deployment("smollm2-135m-instruct")


@pytest.fixture
def principal() -> Principal:
    """Some caller."""
    return Principal(KeyId("key"), ProjectId("project"), SystemId("system"))


def deployment(model_id: str) -> Deployment:
    """A deployment of a model of this machine, free and without an address."""
    return Deployment(
        id=f"local/{model_id}",
        provider="local",
        model_id=model_id,
        base_url=None,
        api_key=None,
        price=None,
        energy=None,
        context_tokens=4096,
        max_output_tokens=2048,
        timeout_s=300,
        country=None,
        hosting="local",
    )
