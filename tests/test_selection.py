from __future__ import annotations

from typing import Any

from metier.catalog import Catalog
from metier.selection import Candidate, Question, rank

CATALOG: dict[str, Any] = {
    "petit": {
        "strengths": ["classification"], "quality": {"tri": 0.82},
        "deployments": [{"provider": "local", "model_id": "p", "context_tokens": 4096, "languages": ["fr", "en"]}],
    },
    "grand": {
        "strengths": ["general knowledge"], "quality": {"tri": 0.95}, "modalities": ["text", "image"],
        "deployments": [
            {"provider": "openai", "model_id": "g", "country": "US", "price": {"input": 3, "output": 15},
             "context_tokens": 128000},
        ],
    },
    "inconnu": {"deployments": [{"provider": "openai", "model_id": "i", "base_url": "http://10.0.0.1/v1"}]},
    "auto": {"rules": [{"use": "petit"}]},
    "vecteurs": {"operation": "embed", "deployments": [{"provider": "local", "model_id": "v"}]},
}  # fmt: skip


def ranked(carbon: Any = lambda _: None, **asked: Any) -> dict[str, Candidate]:
    return {one.model: one for one in rank(Catalog.from_yaml(CATALOG), Question(**asked), carbon)}


def test_only_models_that_answer_themselves_are_ranked_and_unmeasured_ones_say_so() -> None:
    found = ranked(task="tri")
    assert set(found) == {"petit", "grand", "inconnu"}
    assert "quality on 'tri' measured: 0.95" in found["grand"].reasons
    assert "quality on 'tri' not measured" in found["inconnu"].reasons and found["inconnu"].quality is None
    assert found["inconnu"].month_eur is None and any("price is unknown" in r for r in found["inconnu"].reasons)


def test_what_counts_most_decides_among_those_that_fit() -> None:
    assert next(iter(ranked(task="tri", weigh="quality"))) == "grand"
    assert next(iter(ranked(task="tri", weigh="cost"))) == "petit"
    grams = {"petit": 2.0, "grand": 0.5}
    by_carbon = ranked(lambda d: grams.get(d.id), weigh="carbon", task="tri")
    assert next(iter(by_carbon)) == "grand" and by_carbon["petit"].carbon_g == 2.0


def test_sensitive_data_and_needs_exclude_with_their_reason() -> None:
    secret = ranked(sensitivity="secret")
    assert [one.fits for one in secret.values()] == [True, False, False]
    assert any("'internal' data at most" in reason for reason in secret["grand"].reasons)
    images = ranked(takes=frozenset({"image"}))
    assert images["grand"].fits and images["petit"].fits, "what is not declared is not excluded"
    assert not ranked(input_tokens=50_000)["petit"].fits
    assert not ranked(languages=frozenset({"de"}))["petit"].fits


def test_the_questions_of_the_field_are_answered() -> None:
    found = ranked(own_documents=True, general_knowledge=True)
    assert any("your documents" in reason for reason in found["petit"].reasons)
    assert "declared strong in general knowledge" in found["grand"].reasons
    assert "general knowledge not declared: try it" in found["petit"].reasons
    assert found["grand"].month_eur == 9, "1,000 calls of 1,500 + 300 tokens"
