"""What a provider says of a refusal reaches a client without what only the house may know."""

from __future__ import annotations

import pytest

from metier.errors import ProviderUnavailable
from metier.providers.base import failure, retry_after_s
from metier.providers.openai import OpenAIProvider
from tests.providers.deployments import ask, deployment


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("key sk-provider-secret is over its limit", "key [credential] is over its limit"),
        ("Authorization: Bearer ya29.a0Af-lent_for/an+hour== was refused", "Bearer [credential] was refused"),
        ("bad content: 'écris à [[EMAIL_1]] et à [[PERSONNE_12b]]'", "'écris à [masked] et à [masked]'"),
        ("cut in the middle: [[PERSON", "cut in the middle: [masked]"),
        ("[[1, 2], [3]] is no vector", "[[1, 2], [3]] is no vector"),
    ],
)
def test_what_a_provider_quotes_is_shown_without_credentials_and_placeholders(said: str, shown: str) -> None:
    assert shown in failure(500, said, deployment(None)).message


def test_a_wait_beyond_reason_is_a_day() -> None:
    error = failure(429, "later", deployment(None), float("inf"))
    assert retry_after_s(error) == 86_400.0 and "in 86400 s" in error.message


async def test_an_address_is_shown_without_what_it_carries() -> None:
    provider = OpenAIProvider()
    with pytest.raises(ProviderUnavailable, match=r"at '127\.0\.0\.1' broke off") as caught:
        await ask(provider, deployment("http://metier:sk-hidden@127.0.0.1:9/v1?key=sk-hidden", api_key=None))
    await provider.close()
    assert "sk-hidden" not in caught.value.message
