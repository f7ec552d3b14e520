from __future__ import annotations

import pathlib
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metier.errors import Broken, ConfigError
from metier.vault import Vault, master_key_file


@given(st.binary(max_size=2000), st.text(max_size=30))
def test_what_is_sealed_opens_again(clear: bytes, bound_to: str) -> None:
    vault = Vault(bytes(32))
    assert vault.open("journal", vault.seal("journal", clear, bound_to), bound_to) == clear


def test_sealed_bytes_moved_altered_or_of_another_purpose_do_not_open() -> None:
    vault = Vault(bytes(32))
    sealed = vault.seal("journal", b"secret", "run_1/a")
    assert b"secret" not in sealed
    for purpose, where, content in (
        ("journal", "run_2/a", sealed),
        ("tasks", "run_1/a", sealed),
        ("journal", "run_1/a", sealed[:-1] + bytes([sealed[-1] ^ 1])),
        ("journal", "run_1/a", b"\x09" + sealed[1:]),
    ):
        with pytest.raises(Broken, match="run_"):
            vault.open(purpose, content, where)


@given(st.binary(max_size=300), st.text(max_size=60))
def test_what_is_sealed_for_a_workspace_says_whose_it_is_and_opens(clear: bytes, name: str) -> None:
    vault, workspace = Vault(bytes(32)), name.encode("utf-8", "replace").decode()
    sealed = vault.seal("journal", clear, "run_1/a", workspace)
    assert vault.workspace(sealed) == workspace
    assert vault.open("journal", sealed, "run_1/a") == clear


def test_what_is_sealed_for_one_workspace_opens_as_that_of_no_other() -> None:
    vault = Vault(bytes(32))
    ours, theirs = [vault.seal("journal", b"secret", "run_1/a", name) for name in ("org_a", "org_b")]
    house = vault.seal("journal", b"secret", "run_1/a")
    for content in (theirs[:7] + ours[7:], ours[:7] + theirs[7:], b"\x01" + ours[7:], ours[:7] + house[1:]):
        with pytest.raises(Broken, match="run_1/a"):
            vault.open("journal", content, "run_1/a")
    with pytest.raises(Broken, match="255"):
        vault.seal("journal", b"secret", "run_1/a", "é" * 200)


_HEADS = (b"", b"\x01", b"\x02", b"\x02\x00", b"\x02\x05org_a", b"\x02\x02\xff\xff")


@given(st.binary(max_size=60), st.sampled_from(_HEADS))
def test_bytes_that_were_never_sealed_are_refused_in_our_words(rest: bytes, head: bytes) -> None:
    with pytest.raises(Broken):
        Vault(bytes(32)).open("journal", head + rest, "run_1/a")


def test_the_same_value_has_the_same_digest_only_under_the_same_key_and_purpose() -> None:
    one, other = Vault(bytes(32)), Vault(bytes(31) + b"\x01")
    assert one.digest("pii", b"x") == one.digest("pii", b"x")
    assert len({one.digest("pii", b"x"), one.digest("keys", b"x"), other.digest("pii", b"x")}) == 3


def test_the_key_file_is_made_once_and_readable_by_its_owner_only(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "secrets" / "master.key"
    key = master_key_file(path)
    assert len(key) == 32 and master_key_file(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("not hexadecimal")
    with pytest.raises(ConfigError, match="backup"):
        master_key_file(path)
