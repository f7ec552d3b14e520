from __future__ import annotations

import dataclasses
import secrets

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.errors import Broken
from metier.record.envelope import Envelope, Place
from metier.vault import Vault

VAULT = Vault(secrets.token_bytes(32))
ENVELOPE = Envelope(VAULT)
PLACE = Place("main", "call_1", "full")


def keys(envelope: Envelope, organisation: str = "main", subject: str = "s") -> bytes:
    """A subject key, by way of the workspace's, both wrapped and opened again."""
    workspace = envelope.workspace(organisation, envelope.new_workspace(organisation))
    wrapped = envelope.new_subject(organisation, subject, workspace)
    return envelope.subject(organisation, subject, workspace, wrapped)


@settings(max_examples=40, deadline=None)
@given(clear=st.binary(max_size=4000))
def test_what_is_sealed_opens_with_every_key_and_shows_nothing(clear: bytes) -> None:
    spooled, sealed = ENVELOPE.seal(PLACE, clear)
    key = keys(ENVELOPE)
    wrapped = ENVELOPE.rewrap(PLACE, spooled, "s", key)
    assert ENVELOPE.open(PLACE, "s", key, wrapped, sealed) == clear
    assert len(clear) < 8 or clear not in sealed
    assert ENVELOPE.seal(PLACE, clear)[1] != sealed, "a record key of its own each time"


@pytest.mark.parametrize(
    "moved",
    [
        dataclasses.replace(PLACE, organisation="other"),
        dataclasses.replace(PLACE, call="call_2"),
        dataclasses.replace(PLACE, mode="masked"),
    ],
)
def test_a_record_opens_in_its_own_row_alone(moved: Place) -> None:
    spooled, sealed = ENVELOPE.seal(PLACE, b"said")
    key = keys(ENVELOPE)
    wrapped = ENVELOPE.rewrap(PLACE, spooled, "s", key)
    with pytest.raises(Broken, match="altered, moved"):
        ENVELOPE.open(moved, "s", key, wrapped, sealed)
    with pytest.raises(Broken):
        ENVELOPE.open(PLACE, "t", key, wrapped, sealed)
    with pytest.raises(Broken):
        ENVELOPE.open(PLACE, "s", keys(ENVELOPE), wrapped, sealed)


@settings(max_examples=30, deadline=None)
@given(at=st.integers(min_value=0), bit=st.integers(0, 7))
def test_one_bit_changed_anywhere_is_noticed(at: int, bit: int) -> None:
    spooled, sealed = ENVELOPE.seal(PLACE, b"what was said")
    key = keys(ENVELOPE)
    wrapped = ENVELOPE.rewrap(PLACE, spooled, "s", key)
    for which in (0, 1):
        parts = [bytearray(wrapped), bytearray(sealed)]
        parts[which][at % len(parts[which])] ^= 1 << bit
        with pytest.raises(Broken):
            ENVELOPE.open(PLACE, "s", key, bytes(parts[0]), bytes(parts[1]))


def test_keys_of_one_organisation_subject_or_master_key_open_nothing_of_another() -> None:
    workspace = ENVELOPE.new_workspace("main")
    with pytest.raises(Broken):
        ENVELOPE.workspace("other", workspace)
    with pytest.raises(Broken):
        Envelope(Vault(secrets.token_bytes(32))).workspace("main", workspace)
    opened = ENVELOPE.workspace("main", workspace)
    subject = ENVELOPE.new_subject("main", "a", opened)
    for organisation, name in (("main", "b"), ("other", "a")):
        with pytest.raises(Broken):
            ENVELOPE.subject(organisation, name, opened, subject)
    with pytest.raises(Broken):
        ENVELOPE.subject("main", "a", opened, b"short")
