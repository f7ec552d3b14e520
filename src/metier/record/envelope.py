"""Seals contents by envelope: master key, workspace key, subject key, record key; dropping one drops what is below."""

from __future__ import annotations

import os
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from metier.errors import Broken
from metier.vault import Vault

__all__ = ["Envelope", "Place"]

_KEY = 32
_NONCE = 12
_WORKSPACE = "contents/workspace"
_SPOOL = "contents/spool"


@dataclass(frozen=True, slots=True)
class Place:
    """Where sealed contents belong; they open nowhere else."""

    organisation: str
    call: str
    mode: str
    """What was captured: masked or full."""

    def bound(self, purpose: str, subject: str = "") -> bytes:
        """Give the additional data that binds a sealed value to its row."""
        return "\0".join((purpose, self.organisation, subject, self.call, self.mode)).encode()


class Envelope:
    """Makes, wraps and opens the keys of contents; every key below the master key is random, so that it can be dropped.

    A wrapped key is AES-256-GCM under a key derived (HKDF-SHA256, one label per purpose) from the key above it.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def seal(self, place: Place, clear: bytes) -> tuple[bytes, bytes]:
        """Seal contents under a new record key; gives the key, wrapped for the spool, and what was sealed."""
        key = os.urandom(_KEY)
        return self._vault.seal(_SPOOL, key, place.call), _encrypt(key, clear, place.bound("contents"))

    def rewrap(self, place: Place, spooled: bytes, subject: str, subject_key: bytes) -> bytes:
        """Take a record key out of the wrapping of the spool and wrap it under the key of its subject."""
        key = self._vault.open(_SPOOL, spooled, place.call)
        return _encrypt(_derived(subject_key, "record"), key, place.bound("record", subject))

    def open(self, place: Place, subject: str, subject_key: bytes, wrapped: bytes, sealed: bytes) -> bytes:
        """Open contents, all keys above being there."""
        key = _decrypt(_derived(subject_key, "record"), wrapped, place.bound("record", subject))
        return _decrypt(key, sealed, place.bound("contents"))

    def new_workspace(self, organisation: str) -> bytes:
        """Make the key of an organisation, wrapped under the master key."""
        return self._vault.seal(_WORKSPACE, os.urandom(_KEY), organisation)

    def workspace(self, organisation: str, wrapped: bytes) -> bytes:
        """Open the key of an organisation."""
        return self._vault.open(_WORKSPACE, wrapped, organisation)

    @staticmethod
    def new_subject(organisation: str, subject: str, workspace_key: bytes) -> bytes:
        """Make the key of a subject, wrapped under that of its organisation."""
        return _encrypt(_derived(workspace_key, "subject"), os.urandom(_KEY), f"{organisation}\0{subject}".encode())

    @staticmethod
    def subject(organisation: str, subject: str, workspace_key: bytes, wrapped: bytes) -> bytes:
        """Open the key of a subject."""
        return _decrypt(_derived(workspace_key, "subject"), wrapped, f"{organisation}\0{subject}".encode())


def _derived(key: bytes, label: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=_KEY, salt=None, info=f"metier/contents/{label}".encode()).derive(key)


def _encrypt(key: bytes, clear: bytes, bound: bytes) -> bytes:
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, clear, bound)


def _decrypt(key: bytes, sealed: bytes, bound: bytes) -> bytes:
    sealed = bytes(sealed)
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], bound)
    except (InvalidTag, ValueError) as error:
        where = bound.replace(b"\0", b" ").decode()
        raise Broken(
            f"what is stored as {where!r} does not open: it was altered, moved, or its key is another"
        ) from error
