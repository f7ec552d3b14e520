"""One Dovecot for the tests of a module; where it is not installed they are skipped, and say so."""

from __future__ import annotations

import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from tests.triggers.dovecot import Dovecot, dovecot, found


@pytest.fixture(scope="module")
def mailserver() -> Iterator[Dovecot]:
    """A real IMAP server on loopback."""
    if found() is None:
        pytest.skip("dovecot is not installed: apt-get install dovecot-imapd")
    home = pathlib.Path(tempfile.mkdtemp(prefix="mt-imap-"))
    try:
        with dovecot(home) as server:
            yield server
    finally:
        shutil.rmtree(home, ignore_errors=True)
