"""A real Dovecot on loopback with one mailbox, and a line to it that can be cut around an APPEND."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import imaplib
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Literal

__all__ = ["PASSWORD", "USER", "Mailbox", "cutting", "dovecot", "program"]

USER, PASSWORD = "sav", "canary-of-the-mailbox"
_CONFIG = """
base_dir = {home}/run
state_dir = {home}/state
log_path = {home}/log
protocols = imap
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
default_internal_user = {system}
default_login_user = {login}
default_internal_group = {group}
first_valid_uid = 0
first_valid_gid = 0
mail_location = maildir:{home}/mail/%u
service anvil {{
  chroot =
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service stats {{
  unix_listener stats-writer {{
    mode = 0666
  }}
}}
namespace inbox {{
  inbox = yes
  mailbox Drafts {{
    auto = create
  }}
}}
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={home}/mail/%u
}}
"""


@dataclass(frozen=True, slots=True)
class Mailbox:
    """Where it listens, and what another client sees in it."""

    port: int

    @contextlib.contextmanager
    def client(self) -> Iterator[imaplib.IMAP4]:
        """Sign in."""
        with imaplib.IMAP4("127.0.0.1", self.port, timeout=60) as client:
            client.login(USER, PASSWORD)
            yield client

    def drafts(self) -> list[bytes]:
        """The messages in the folder Drafts, with their flags before them."""
        with self.client() as client:
            client.select("Drafts", readonly=True)
            numbers = client.search(None, "ALL")[1][0].split()
            found = [client.fetch(number.decode(), "(FLAGS BODY.PEEK[])")[1] for number in numbers]
        return [b"".join(part for one in each if isinstance(one, tuple) for part in one) for each in found]


def program() -> str | None:
    """Where Dovecot is, or None."""
    return shutil.which("dovecot") or shutil.which("dovecot", path="/usr/sbin")


@contextlib.contextmanager
def dovecot() -> Iterator[Mailbox]:
    """Run a server in a folder of its own until the block ends."""
    started = program()
    assert started is not None
    home = pathlib.Path(tempfile.mkdtemp(prefix="metier-drafts-"))
    for name in ("run", "state", "mail"):
        (home / name).mkdir()
    login = system = owner = pwd.getpwuid(os.getuid())
    if os.getuid() == 0:
        # Dovecot runs nothing of a stranger as root; its package makes these accounts.
        login, system, owner = (pwd.getpwnam(name) for name in ("dovenull", "dovecot", "nobody"))
        home.chmod(0o755)
        os.chown(home / "mail", owner.pw_uid, owner.pw_gid)
    given = {
        "home": home, "password": PASSWORD, "uid": owner.pw_uid, "gid": owner.pw_gid, "system": system.pw_name,
        "login": login.pw_name, "group": grp.getgrgid(system.pw_gid).gr_name,
    }  # fmt: skip
    # A port that is free now may be somebody else's by the time it is opened.
    for _ in range(5):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            made = Mailbox(int(taken.getsockname()[1]))
        (home / "dovecot.conf").write_text(_CONFIG.format(port=made.port, **given))
        running = subprocess.Popen([started, "-F", "-c", str(home / "dovecot.conf")], stderr=subprocess.DEVNULL)
        if _answering(made, running):
            break
        running.kill()
        running.wait()
    else:
        raise AssertionError(f"dovecot does not answer: {(home / 'log').read_text()[-2000:]}")
    try:
        yield made
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(timeout=60)
        shutil.rmtree(home, ignore_errors=True)


def _answering(made: Mailbox, running: subprocess.Popen[bytes]) -> bool:
    for _ in range(3000):
        if running.poll() is not None:
            return False
        with contextlib.suppress(OSError, imaplib.IMAP4.error), made.client():
            return True
        time.sleep(0.02)
    return False


@contextlib.asynccontextmanager
async def cutting(mailbox: Mailbox, when: Literal["before", "after"], times: int = 1) -> AsyncIterator[Mailbox]:
    """A line to a server that breaks when a message is put there: before it arrives, or after it was kept."""
    left = [times]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", mailbox.port)
        putting = [False]

        async def up() -> None:
            while data := await reader.read(65_536):
                if b" APPEND " in data and left[0] > 0:
                    left[0] -= 1
                    putting[0] = True
                    if when == "before":
                        break
                outer.write(data)
            writer.transport.abort()
            outer.close()

        async def down() -> None:
            while data := await inner.read(65_536):
                if putting[0] and b" OK " in data:
                    break
                writer.write(data)
            writer.transport.abort()
            outer.close()

        with contextlib.suppress(OSError):
            await asyncio.gather(up(), down(), return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Mailbox(server.sockets[0].getsockname()[1])
    finally:
        server.close()
