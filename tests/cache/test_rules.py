from __future__ import annotations

import pytest
import yaml

from metier.calls import KeyId, Principal, ProjectId, SystemId
from metier.errors import ConfigError
from metier.policy.constraints import Caching, Constraints

WHO = Principal(KeyId("k"), ProjectId("p"), SystemId("aide"))


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("{}", None),
        ("{cache: off}", None),
        ("{cache: 'off'}", None),
        ("{cache: exact}", Caching()),
        ("{cache: semantic}", Caching("semantic")),
        (
            "{cache: {mode: semantic, ttl_s: 60, threshold: 0.9, within: key}}",
            Caching("semantic", 60, 0.9, within="key"),
        ),
        ("{cache: {mode: exact, max_entries: 5, max_temperature: 0}}", Caching(max_entries=5, max_temperature=0)),
    ],
)
async def test_a_system_says_how_its_answers_are_kept(said: str, meant: Caching | None) -> None:
    rules = await Constraints.from_yaml({"aide": yaml.safe_load(said)}).of(WHO)
    assert rules is not None and rules.caching == meant


@pytest.mark.parametrize(
    "said",
    ["{cache: always}", "{cache: {ttl_s: 60}}", "{cache: {mode: exact, ttl_s: 0}}", "{cache: {mode: exact, ttl: 1}}"]
    + ["{cache: true}", "{cache: {mode: semantic, threshold: 2}}", "{cache: {mode: exact, within: house}}"],
)
def test_a_rule_that_cannot_be_is_refused_by_its_path(said: str) -> None:
    with pytest.raises(ConfigError, match=r"systems\.aide\.cache"):
        Constraints.from_yaml({"aide": yaml.safe_load(said)})
