"""A real Dovecot on loopback: its own folder, its own certificate, one user, TLS and plain ports."""

from __future__ import annotations

import contextlib
import datetime
import grp
import imaplib
import ipaddress
import os
import pathlib
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["Dovecot", "dovecot", "found"]

_CONFIG = """
base_dir = {home}/run
state_dir = {home}/state
log_path = {home}/log
info_log_path = {home}/log
protocols = imap
listen = 127.0.0.1
ssl = yes
ssl_cert = <{home}/cert.pem
ssl_key = <{home}/key.pem
disable_plaintext_auth = no
default_internal_user = {system}
default_login_user = {login}
default_internal_group = {group}
first_valid_uid = 0
first_valid_gid = 0
mail_location = maildir:{home}/mail/%u
mail_max_userip_connections = 50
imap_idle_notify_interval = 2 mins
mailbox_idle_check_interval = 1 secs
service anvil {{
  chroot =
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {plain}
  }}
  inet_listener imaps {{
    port = {tls}
  }}
}}
service imap {{
  process_limit = 60
}}
service stats {{
  unix_listener stats-writer {{
    mode = 0666
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
PASSWORD = "pass-canari-5f1e"


@dataclass(frozen=True, slots=True)
class Dovecot:
    """A running server."""

    home: pathlib.Path
    plain: int
    tls: int

    def url(self, user: str = "support") -> str:
        """The address of a mailbox, as its secret holds it."""
        return f"imaps://{user}:{PASSWORD}@localhost:{self.tls}"

    @property
    def ca_file(self) -> str:
        return str(self.home / "cert.pem")

    @contextlib.contextmanager
    def client(self, user: str = "support") -> Iterator[imaplib.IMAP4]:
        """Another client of the same mailbox."""
        with imaplib.IMAP4("127.0.0.1", self.plain, timeout=60) as client:
            client.login(user, PASSWORD)
            yield client

    def put(self, *messages: bytes, user: str = "support", folder: str = "INBOX") -> None:
        """Let messages arrive."""
        with self.client(user) as client:
            for message in messages:
                told, said = client.append(folder, "", "", message)
                assert told == "OK", said

    def count(self, folder: str = "INBOX", user: str = "support", criterion: str = "ALL") -> int:
        """How many messages are in a folder."""
        with self.client(user) as client:
            told, _ = client.select(f'"{folder}"', readonly=True)
            if told != "OK":
                return 0
            return len(client.search(None, criterion)[1][0].split())

    def renumber(self, user: str = "support") -> None:
        """Give the mailbox another UIDVALIDITY, as a restored or moved server does."""
        place = self.home / "mail" / user
        for name in (*place.glob("dovecot*"),):
            name.unlink()
        # Names of files carry no UID, so that all are numbered anew.
        made, owner = place / "dovecot-uidlist", place.stat()
        made.write_text("3 V1999999999 N5001 G" + "ab" * 16 + "\n")
        os.chown(made, owner.st_uid, owner.st_gid)


def found() -> str | None:
    """Where Dovecot is, or None."""
    return shutil.which("dovecot") or shutil.which("dovecot", path="/usr/sbin")


@contextlib.contextmanager
def dovecot(home: pathlib.Path) -> Iterator[Dovecot]:
    """Run a server in a folder until the block ends."""
    program = found()
    assert program is not None
    for name in ("run", "state", "mail"):
        (home / name).mkdir(parents=True)
    _certificate(home)
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
        server = Dovecot(home, *_ports())
        (home / "dovecot.conf").write_text(_CONFIG.format(plain=server.plain, tls=server.tls, **given))
        running = subprocess.Popen([program, "-F", "-c", str(home / "dovecot.conf")], stderr=subprocess.PIPE)
        if _answering(server, running):
            break
        running.kill()
        told = running.communicate()[1].decode()
    else:
        log = home / "log"
        said = log.read_text() if log.exists() else ""
        raise AssertionError(f"dovecot does not answer: {said[-2000:]} {told[-2000:]}")
    try:
        yield server
    finally:
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=60)


def _answering(server: Dovecot, running: subprocess.Popen[bytes]) -> bool:
    for _ in range(3000):
        if running.poll() is not None:
            return False
        with contextlib.suppress(OSError, imaplib.IMAP4.error, ssl.SSLError), server.client():
            return True
        time.sleep(0.02)
    return False


def _ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return int(one.getsockname()[1]), int(other.getsockname()[1])


def _certificate(home: pathlib.Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    (home / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (home / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
