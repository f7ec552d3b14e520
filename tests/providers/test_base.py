"""What a provider says of a refusal reaches a client without what only the house may know."""

from __future__ import annotations

from dataclasses import replace

import aiohttp
import pytest

from metier.calls import Call
from metier.errors import ProviderTimeout, ProviderUnavailable
from metier.providers.base import failure, retry_after_s, texts_of, unasked
from metier.providers.exchange import Exchange
from metier.providers.openai import OpenAIProvider
from tests.providers.deployments import WHO, ask, deployment


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


@pytest.mark.parametrize(
    ("late", "owes_nothing"), [(aiohttp.ConnectionTimeoutError, True), (aiohttp.SocketTimeoutError, False)]
)
def test_a_deployment_that_was_never_reached_was_not_asked(late: type[TimeoutError], owes_nothing: bool) -> None:
    with pytest.raises(ProviderTimeout) as caught, Exchange().guard(deployment(None)):
        raise late
    assert unasked(caught.value) is owes_nothing


async def test_an_address_is_shown_without_what_it_carries() -> None:
    provider = OpenAIProvider()
    with pytest.raises(ProviderUnavailable, match=r"at '127\.0\.0\.1' broke off") as caught:
        await ask(provider, deployment("http://metier:sk-hidden@127.0.0.1:9/v1?key=sk-hidden", api_key=None))
    await provider.close()
    assert "sk-hidden" not in caught.value.message


@pytest.mark.parametrize(
    ("model", "given"),
    [("intfloat/multilingual-e5-large", "query: où ?"), ("multilingual-e5-small", "query: où ?"), ("bge-m3", "où ?"),
     ("e50-vectors", "où ?")],
)  # fmt: skip
def test_models_of_one_family_are_told_in_words_what_a_text_is_for(model: str, given: str) -> None:
    asked = Call(WHO, "vectors", "embed", inputs=("où ?",), purpose="query")
    assert texts_of(asked, model) == (given,)
    assert texts_of(replace(asked, purpose=None), model) == ("où ?",)
