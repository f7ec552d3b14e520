"""Why an exchange failed, told in words that can hold nothing of what was said."""

from __future__ import annotations

import errno
import ssl
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from metier.errors import MetierError, ProviderUnavailable
from metier.providers.base import failure
from metier.providers.cause import broken, cause, caused, place, placed
from metier.providers.openai import OpenAIProvider
from metier.providers.token_cache import word
from tests.router.world import CALL, deployment

KEY: Any = ConnectionKey("canari.example", 443, True, True, None, None, None)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 429, 500, 503, 529])
def test_a_refusal_is_known_by_its_status_alone(status: int) -> None:
    error = failure(status, "CANARI: no such model", deployment("d"))
    assert cause(error) == f"http_{status}"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (aiohttp.ClientConnectorDNSError(KEY, OSError(-2, "CANARI")), "dns"),
        (aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "CANARI")), "tls"),
        (aiohttp.ClientConnectorError(KEY, OSError(errno.ECONNREFUSED, "CANARI")), "ECONNREFUSED"),
        (aiohttp.ClientConnectorError(KEY, OSError("CANARI")), "connection"),
        (aiohttp.ClientOSError(errno.ECONNRESET, "CANARI"), "ECONNRESET"),
        (aiohttp.ServerDisconnectedError("CANARI"), "disconnected"),
        (aiohttp.ClientPayloadError("CANARI"), "cut_off"),
        (aiohttp.ClientError("CANARI"), "malformed"),
    ],
)
def test_what_breaks_is_named_by_its_kind(error: aiohttp.ClientError, said: str) -> None:
    assert broken(error) == said


def test_only_plain_words_are_told() -> None:
    assert cause(ProviderUnavailable("x")) is None
    assert (
        cause(caused(ProviderUnavailable("x"), "token", "http_401", "invalid_client"))
        == "token http_401 invalid_client"
    )
    for unsafe in ("jean@exemple.fr", "sk-abc", "a" * 61, "", "é"):
        assert cause(caused(ProviderUnavailable("x"), unsafe)) is None


def test_the_deployment_asked_last_is_kept() -> None:
    error = ProviderUnavailable("x")
    assert place(error) is None
    placed(error, "d")
    placed(error, "e")
    assert place(error) == "d"


def test_a_token_that_is_refused_is_known_by_oauths_word_and_no_other() -> None:
    assert word(b'{"error": "invalid_client", "error_description": "CANARI"}') == ("invalid_client",)
    assert word(b'{"error": "CANARI"}') == word(b"CANARI") == ()


async def test_a_server_that_is_not_there_is_told_by_its_errno() -> None:
    provider = OpenAIProvider()
    try:
        with pytest.raises(MetierError) as failed:
            async for _ in provider.stream(CALL, deployment("d", provider="openai", base_url="http://127.0.0.1:1/v1")):
                pass
    finally:
        await provider.close()
    assert cause(failed.value) == "ECONNREFUSED"


async def test_a_deployment_without_an_address_is_told_so() -> None:
    with pytest.raises(MetierError) as failed:
        async for _ in OpenAIProvider().stream(CALL, deployment("d", provider="openai")):
            pass
    assert cause(failed.value) == "no_address"
