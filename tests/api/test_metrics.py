"""Who may read /metrics: programs of this machine, and keys that were issued for it."""

from __future__ import annotations

from typing import Any

import pytest

from metier.api.metrics import MetricsPage
from metier.calls import KeyId, Principal, ProjectId, SystemId
from metier.errors import NotAuthenticated


class Keys:
    """Knows two keys: one for metrics, one for models."""

    async def authenticate(self, secret: str) -> Principal:
        """Find whose it is."""
        if secret == "models":
            return Principal(KeyId("k"), ProjectId("p"), SystemId("s"))
        if secret == "watch":
            return Principal(KeyId("w"), ProjectId("p"), SystemId("s"), surfaces=frozenset({"metrics"}))
        raise NotAuthenticated("no")


async def figures() -> bytes:
    """What would be told."""
    return b"a 1\n"


async def ask(client: str | None, *headers: tuple[bytes, bytes], everybody: bool = False, behind: bool = False) -> int:
    """Ask from an address; gives the status."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "path": "/metrics", "headers": list(headers), "client": (client, 1) if client else None,
    }  # fmt: skip
    await MetricsPage(Keys(), figures, everybody=everybody, behind_proxy=behind)(scope, receive, send)
    assert (sent[0]["status"] == 200) == (sent[1]["body"] == b"a 1\n")
    return int(sent[0]["status"])


WATCH = (b"authorization", b"Bearer watch")
MODELS = (b"authorization", b"Bearer models")


@pytest.mark.parametrize(
    ("status", "client", "headers"),
    [
        (200, "127.0.0.1", []),
        (200, "::1", []),
        (401, "192.0.2.7", []),
        (401, None, []),
        (401, "nonsense", []),
        (401, "127.0.0.1", [(b"x-forwarded-for", b"127.0.0.1")]),
        (401, "127.0.0.1", [(b"forwarded", b"for=127.0.0.1")]),
        (200, "192.0.2.7", [WATCH]),
        (403, "192.0.2.7", [MODELS]),
        (401, "192.0.2.7", [(b"authorization", b"Bearer other")]),
    ],
)
async def test_denied_unless_from_here_or_with_a_key_for_it(
    status: int, client: str | None, headers: list[tuple[bytes, bytes]]
) -> None:
    assert await ask(client, *headers) == status


async def test_behind_a_proxy_nothing_comes_from_here() -> None:
    assert await ask("127.0.0.1", behind=True) == 401
    assert await ask("127.0.0.1", WATCH, behind=True) == 200


async def test_open_means_everybody() -> None:
    assert await ask("192.0.2.7", everybody=True) == 200
