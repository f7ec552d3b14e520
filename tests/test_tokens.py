from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metier.calls import Call, KeyId, Media, Message, OutputSchema, Principal, ProjectId, SystemId, Text, Tool
from metier.tokens import FEATURES, Shape, bound, families, family_of, features, likely, shape_of

WHO = Principal(KeyId("k"), ProjectId("p"), SystemId("s"))
FRENCH = "Bonjour, je n'ai toujours pas reçu ma commande passée il y a dix jours, pouvez-vous me dire où elle est ?"


def asking(text: str) -> Call:
    return Call(WHO, "m", messages=(Message("user", text),))


def counted(text: str) -> dict[str, int]:
    return dict(zip(FEATURES, features((text,))[0], strict=True))


def test_each_character_is_counted_once_as_what_it_is() -> None:
    found = counted("Été 2026, 日本\tπ 😀…\n")
    told = {
        "letters": 1, "capitals": 0, "digits": 4, "spaces": 3, "lines": 2, "marks": 1, "accents": 2, "alphabets": 1,
        "signs": 1, "ideographs": 2, "pictures": 1, "unbroken": 0,
    }  # fmt: skip
    assert found == told


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_nothing_in_a_text_is_lost_or_counted_twice(text: str) -> None:
    found = counted(text)
    unbroken = found.pop("unbroken")
    assert sum(found.values()) == len(text) and 0 <= unbroken <= len(text)


def test_a_half_of_a_surrogate_pair_is_counted_like_any_mark() -> None:
    assert counted("a\ud800b")["letters"] == 2


@given(st.text(max_size=400), st.sampled_from(sorted(families())))
def test_a_bound_is_never_below_the_likely_count_nor_far_above_the_bytes(text: str, family: str) -> None:
    shape = shape_of(asking(text))
    assert 0 < likely(shape, {family}) <= bound(shape, {family}) <= len(text.encode("utf-8", "replace")) + 24


# Counted once with the tokenizer named; the bench does it for some 1,500 pieces of text.
@pytest.mark.parametrize(
    ("family", "text", "real"),
    [
        ("o200k", FRENCH, 25),
        ("cl100k", FRENCH, 28),
        ("tekken", FRENCH, 26),
        ("tekken", "0123456789 " * 20, 220),
        ("gemini", FRENCH, 28),
    ],
)
def test_the_estimate_is_near_what_tokenizers_count(family: str, text: str, real: int) -> None:
    shape = Shape(*features((text,)))
    assert abs(likely(shape, {family}) / real - 1) < 0.3
    assert bound(shape, {family}) >= real


def test_the_estimate_grows_with_every_part_of_a_call() -> None:
    call = asking(FRENCH)
    least = bound(shape_of(call), {"other"})
    told = Message("user", parts=(Text(FRENCH), Media("image/png", "aGVsbG8=")))
    pdf = Media("application/pdf", "A" * 40_000)
    assert bound(shape_of(dataclasses.replace(call, messages=(told,))), {"other"}) >= least + 3_200
    assert shape_of(dataclasses.replace(call, messages=(Message("user", parts=(pdf,)),))).more_at_most >= 20_000
    for changed in (
        dataclasses.replace(call, tools=(Tool("find", "Finds an order.", {"type": "object"}),)),
        dataclasses.replace(call, output=OutputSchema("answer", {"type": "object", "properties": {"a": {}}})),
        dataclasses.replace(call, query=FRENCH),
        dataclasses.replace(call, inputs=(FRENCH,)),
        asking(FRENCH * 2),
    ):
        assert bound(shape_of(changed), {"other"}) > least


@pytest.mark.parametrize("text", [FRENCH + " ", "x = {'a': [1, 2, 3]}\n", "0123456789 ", "日本語のテキスト。"])
def test_a_long_input_is_counted_from_slices_about_as_well(text: str) -> None:
    many = 400_000 // len(text)
    whole = Shape(*features((text * many,)))
    shape = shape_of(asking(text * many))
    assert shape.sliced
    assert likely(shape, {"o200k"}) == pytest.approx(likely(whole, {"o200k"}), rel=0.05)
    assert bound(shape, {"o200k"}) >= bound(whole, {"o200k"})


def test_of_several_deployments_the_one_that_makes_most_of_a_text_counts() -> None:
    shape = shape_of(asking(FRENCH))
    assert bound(shape, {"o200k", "claude-new"}) == bound(shape, {"claude-new"}) > bound(shape, {"o200k"})
    assert all(bound(shape, {"other"}) >= bound(shape, {name}) for name in families() if name != "smollm")
    assert bound(shape, ()) == 0


@pytest.mark.parametrize(
    ("provider", "model", "family"),
    [
        ("openai", "gpt-4o-mini", "o200k"),
        ("openai", "gpt-4.1-2025-04-14", "o200k"),
        ("openai", "o3-mini", "o200k"),
        ("openai", "gpt-4", "cl100k"),
        ("openai", "gpt-4-turbo", "cl100k"),
        ("openai", "text-embedding-3-small", "cl100k"),
        ("openai", "my-model", "other"),
        ("azure", "prod", "o200k"),
        ("anthropic", "claude-sonnet-4-5-20250929", "claude"),
        ("anthropic", "claude-opus-4-20250514", "claude"),
        ("bedrock", "eu.anthropic.claude-sonnet-4-20250514-v1:0", "claude"),
        ("bedrock", "anthropic.claude-3-5-haiku-20241022-v1:0", "claude"),
        ("anthropic", "claude-opus-4-7", "claude-new"),
        ("vertex", "claude-opus-5-5", "claude-new"),
        ("vertex", "gemini-2.5-pro", "gemini"),
        ("mistral", "mistral-small-latest", "tekken"),
        ("bedrock", "amazon.nova-pro-v1:0", "other"),
        ("openai", "meta-llama/Llama-3.3-70B-Instruct", "llama"),
        ("local", "qwen2.5-coder-1.5b", "qwen"),
        ("openai", "grok-4", "other"),
    ],
)
def test_a_family_is_known_by_the_name_of_the_model(provider: str, model: str, family: str) -> None:
    assert family_of(provider, model) == family
    assert family in families()
