"""Seals stored contents: AES-256-GCM under one master key, with a derived key per purpose and workspace."""

from __future__ import annotations

import hmac
import os
import pathlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from metier.errors import Broken, ConfigError

__all__ = ["Vault", "master_key_file", "member"]

_NONCE = 12
_VERSION = b"\x01"
_OF_WORKSPACE = b"\x02"
_LONGEST = 255
"""Bytes of the name of a workspace."""


class Vault:
    """Seals and opens bytes, and makes keyed digests; a derived key per purpose and workspace, none of them stored."""

    def __init__(self, master_key: bytes) -> None:
        if len(master_key) != 32:
            raise ConfigError(f"the master key has {len(master_key)} bytes: it must have 32")
        self._master = master_key
        self._ciphers: dict[tuple[str, str], AESGCM] = {}
        self._digests: dict[str, bytes] = {}

    def seal(self, purpose: str, clear: bytes, bound_to: str, workspace: str = "") -> bytes:
        """Encrypt `clear` so that it opens only for the same purpose and the same `bound_to`.

        With a workspace (an organisation) the key is its own, and what is sealed says whose it is.
        """
        nonce, head = os.urandom(_NONCE), _VERSION
        if workspace:
            name = workspace.encode()
            if len(name) > _LONGEST:
                raise Broken(f"the name of the workspace {workspace[:40]!r} has more than {_LONGEST} bytes")
            head = _OF_WORKSPACE + bytes((len(name),)) + name
        return head + nonce + self._cipher(purpose, workspace).encrypt(nonce, clear, bound_to.encode())

    def open(self, purpose: str, sealed: bytes, bound_to: str) -> bytes:
        """Decrypt what `seal` made; anything altered, moved or sealed under another key is refused."""
        sealed = bytes(sealed)
        try:
            workspace, at = _whose(sealed)
            nonce = sealed[at : at + _NONCE]
            return self._cipher(purpose, workspace).decrypt(nonce, sealed[at + _NONCE :], bound_to.encode())
        except _UnknownFormatError:
            raise Broken(f"stored {purpose!r} content of {bound_to!r} has an unknown format") from None
        except (InvalidTag, ValueError) as error:
            raise Broken(
                f"stored {purpose!r} content of {bound_to!r} does not open: altered, or METIER_MASTER_KEY changed"
            ) from error

    def workspace(self, sealed: bytes) -> str:
        """Say whose key something was sealed under; what opens proves it, this alone does not."""
        try:
            return _whose(bytes(sealed))[0]
        except _UnknownFormatError:
            raise Broken("stored content has an unknown format: it was altered") from None

    def digest(self, purpose: str, data: bytes) -> bytes:
        """Return a 32-byte keyed digest: equal values give equal digests, and nothing can be guessed back."""
        key = self._digests.get(purpose)
        if key is None:
            key = self._digests[purpose] = self._derive("digest/" + purpose)
        return hmac.digest(key, data, "sha256")

    def _cipher(self, purpose: str, workspace: str) -> AESGCM:
        cipher = self._ciphers.get((purpose, workspace))
        if cipher is None:
            label = f"seal/{purpose}" + (f"\0{workspace}" if workspace else "")
            cipher = self._ciphers[purpose, workspace] = AESGCM(self._derive(label))
        return cipher

    def _derive(self, label: str) -> bytes:
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"metier/" + label.encode()).derive(self._master)


class _UnknownFormatError(Exception):
    """These bytes were not sealed here."""


def _whose(sealed: bytes) -> tuple[str, int]:
    """Read under whose key something was sealed, and where its nonce begins."""
    if sealed[:1] == _VERSION:
        return "", 1
    end = 2 + (sealed[1] if len(sealed) > 1 else 0)
    if sealed[:1] != _OF_WORKSPACE or len(sealed) < end or end == 2:
        raise _UnknownFormatError
    try:
        return sealed[2:end].decode(), end
    except UnicodeDecodeError:
        raise _UnknownFormatError from None


def member(vault: Vault, organisation: str, end_user: str) -> str:
    """Give the keyed digest an end user is known by: the same in one organisation, unlike in two."""
    return vault.digest("end user", f"{organisation}\0{end_user}".encode("utf-8", "replace")).hex()[:32]


def master_key_file(path: pathlib.Path) -> bytes:
    """Read the master key kept beside the data, making it on first use, readable by its owner only."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return master_key_file(path)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(os.urandom(32).hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        text = path.read_text(encoding="ascii").strip()
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise ConfigError(f"{path} does not hold a master key: restore it from your backup") from error
