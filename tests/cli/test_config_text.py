"""One entry of metier.yaml changes, and everything people wrote around it stays."""

from __future__ import annotations

import pathlib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from metier.cli.config_text import change, changed

TEXT = """\
# The house of Camille.
models:            # what callers name
  writer: {provider: local}

connectors:
  # the shop's own
  shop:
    kind: http     # their API
    url: https://shop.example

  # kept for the auditors
  archive: {kind: sql, secret: archive}

# rights
roles:
    writer: writer
"""


def test_an_entry_is_added_and_not_a_word_around_it_changes() -> None:
    made = changed(TEXT, ["connectors", "erp"], {"kind": "webhook", "private": ["10.0.0.1"]})
    new = "  erp:\n    kind: webhook\n    private:\n    - 10.0.0.1\n"
    assert made == TEXT.replace("secret: archive}\n", "secret: archive}\n" + new)


def test_an_entry_is_replaced_or_taken_out_alone() -> None:
    made = changed(TEXT, ["connectors", "shop"], {"kind": "http", "url": "https://other.example"})
    old = "    kind: http     # their API\n    url: https://shop.example\n"
    assert made == TEXT.replace(old, "    kind: http\n    url: https://other.example\n")
    gone = changed(TEXT, ["connectors", "shop"], None)
    assert gone == TEXT.replace("  shop:\n" + old, "")
    last = "# ours\nconnectors:\n  erp: {kind: http}  # theirs\n# end\n"
    assert changed(last, ["connectors", "erp"], None) == "# ours\nconnectors: {}\n# end\n"
    assert changed(TEXT, ["roles", "writer"], "judge") == TEXT.replace("    writer: writer", "    writer: judge")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", ""),
        ("# only a comment", "# only a comment"),
        ("a: 1  # one", "# one"),
        ("# top\nconnectors: {}\n# end\nb: 2\n", "# end"),
        ("# top\nconnectors:\nb: 2   # two\n", "# two"),
        ("# top\nconnectors: {x: {kind: sql}}   # here\nb: 2   # two\n", "# two"),
        ("{a: 1}", ""),
        ("---\na: 1\n...\n", ""),
        ("text: |\n  # no comment\n\n  more\n", "# no comment"),
    ],
)
def test_whatever_the_file_looks_like_its_meaning_is_kept(text: str, kept: str) -> None:
    before = yaml.safe_load(text) or {}
    made = changed(text, ["connectors", "erp"], {"kind": "webhook"})
    expected = {**before, "connectors": {**(before.get("connectors") or {}), "erp": {"kind": "webhook"}}}
    assert yaml.safe_load(made) == expected and kept in made
    assert yaml.safe_load(changed(made, ["connectors", "erp"], None)).get("connectors", {}).get("erp") is None


_NAMES = st.sampled_from(["a", "b", "on", "1", "é"])
_VALUES = st.recursive(
    st.sampled_from(["x", "# y", "a: b", "two\nlines\n\n# three\n", "", " "]) | st.integers(0, 9) | st.booleans(),
    lambda inner: st.lists(inner, min_size=1, max_size=2) | st.dictionaries(_NAMES, inner, min_size=1, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(_NAMES, st.dictionaries(_NAMES, _VALUES, max_size=3), max_size=3), _NAMES, _NAMES, _VALUES)
def test_any_change_of_any_file_means_what_it_says(
    whole: dict[str, dict[str, object]], one: str, two: str, new: object
) -> None:
    text = yaml.safe_dump(whole, allow_unicode=True)
    made = yaml.safe_load(changed(text, [one, two], new))
    assert made == {**whole, one: {**whole.get(one, {}), two: new}}


def test_the_file_keeps_who_may_read_it(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "house" / "metier.yaml"
    change(file, ["roles", "writer"], "w")
    file.chmod(0o600)
    change(file, ["roles", "judge"], "j")
    assert yaml.safe_load(file.read_text()) == {"roles": {"writer": "w", "judge": "j"}}
    assert file.stat().st_mode & 0o777 == 0o600 and [one.name for one in file.parent.iterdir()] == ["metier.yaml"]
