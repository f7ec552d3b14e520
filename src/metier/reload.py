"""Takes over a changed metier.yaml while calls are answered; one that is wrong changes nothing, and is told."""

from __future__ import annotations

import asyncio
import logging
import pathlib
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from metier.catalog import Catalog
from metier.errors import ConfigError, MetierError
from metier.policy.constraints import Constraints
from metier.record.exposition import Family, Sample
from metier.ways import Ways

__all__ = ["LIVE", "Configured", "Reload", "Roles", "roles_of"]

LIVE = frozenset(
    {"alerts", "batches", "connectors", "eur_per_usd", "models", "review", "roles", "systems", "workflows"}
)
"""Sections of metier.yaml that take effect at once; any other needs a restart."""

_COMPARE_EVERY = 60
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Configured:
    """What a configuration comes to, whole: put in force in one step, or not at all."""

    catalog: Catalog
    constraints: Constraints
    roles: Mapping[str, str]


class Roles(Mapping[str, str]):
    """What workflows mean by writer, judge and so on, as of now."""

    def __init__(self, roles: Mapping[str, str]) -> None:
        self._roles = dict(roles)

    def use(self, roles: Mapping[str, str]) -> None:
        """Let the names mean something else from now on."""
        self._roles = dict(roles)

    def __getitem__(self, role: str) -> str:
        return self._roles[role]

    def __iter__(self) -> Iterator[str]:
        return iter(self._roles)

    def __len__(self) -> int:
        return len(self._roles)


class Reload:
    """Watches the file and puts what it says in force; calls under way keep the way they have found."""

    def __init__(
        self,
        path: pathlib.Path,
        config: Mapping[str, Any],
        read: Callable[[pathlib.Path], Mapping[str, Any]],
        make: Callable[[Mapping[str, Any]], Configured],
        ways: Ways,
        roles: Roles,
    ) -> None:
        self._path = path
        self._started_with = config
        self._config = config
        self._read = read
        self._make = make
        self._ways = ways
        self._roles = roles
        self.sections: Callable[[Mapping[str, Any]], Callable[[], None]] = lambda _: lambda: None
        """Reads the further live sections of a configuration, or refuses it; gives what puts them in force."""
        self.prepare: Callable[[Catalog], Awaitable[None]] | None = None
        """Awaited with a catalogue that is about to be put in force."""
        self.registered: Callable[[], Awaitable[Collection[str]]] | None = None
        """Names and ids of the systems in the register, where rules for others are to be told."""
        self.unknown: tuple[str, ...] = ()
        """Systems that have rules but are not registered, perhaps misspelt: their rules apply to nothing."""
        self._applied = _Stamp.of(path)
        self._asked = asyncio.Event()
        self.valid = True
        """False while the file that lies there could not be put in force."""
        self.restart: tuple[str, ...] = ()
        """Changed sections that need a restart."""
        self.taken_at = time.time()
        """When the configuration in force was taken over."""

    def ask(self) -> None:
        """Have the file read now, changed or not; for SIGHUP."""
        self._asked.set()

    async def run(self, every_s: float = 0.5) -> None:
        """Look for ever; a file counts as written once it has stayed the same from one look to the next."""
        # What was written between the reading of the settings and now is found by its content.
        await self.take_over()
        await self.compare()
        before, turn = self._applied, 0
        while True:
            try:
                async with asyncio.timeout(every_s):
                    await self._asked.wait()
            except TimeoutError:
                pass
            stamp = _Stamp.of(self._path)
            if self._asked.is_set() or (stamp != self._applied and stamp == before):
                self._asked.clear()
                await self.take_over()
                turn = 0
            if turn % _COMPARE_EVERY == 0:
                await self.compare()
            before, turn = stamp, turn + 1

    async def compare(self) -> None:
        """See whether each system that has rules is registered, and warn of those that are not, once."""
        if self.registered is None:
            return
        try:
            unknown = tuple(sorted(self._ways.systems - set(await self.registered())))
        except (MetierError, psycopg.Error):
            return
        for name in sorted({*unknown} - {*self.unknown}):
            _log.warning(
                "systems.%s in metier.yaml: no system of that name is registered, so these rules apply to nothing: "
                "`metier system list` shows the names", name,
            )  # fmt: skip
        self.unknown = unknown

    async def take_over(self) -> bool:
        """Read the file and put it in force; gives whether what lies there is now in force."""
        had = self._applied
        self._applied = _Stamp.of(self._path)
        if self._applied is None and had is None:
            return True
        try:
            if self._applied is None:
                raise ConfigError(f"{self._path} is gone: put it back")
            config = await asyncio.to_thread(self._read, self._path)
            if config == self._config:
                self._tell(True)
                return True
            if self._config.get("models") and not config.get("models"):
                # A file left empty by an editor or a full disk would otherwise end every call.
                raise ConfigError(f"{self._path} declares no model any more: restart if that is meant")
            made = await asyncio.to_thread(self._make, config)
            use = await asyncio.to_thread(self.sections, config)
            if self.prepare is not None:
                await self.prepare(made.catalog)
            self._ways.use(made.catalog, made.constraints)
        except MetierError as error:
            self.valid = False
            _log.error("the configuration before stays in force: %s", error.message)
            return False
        self._roles.use(made.roles)
        use()
        changed = sorted(name for name in {*config, *self._config} if config.get(name) != self._config.get(name))
        self._config = config
        self.taken_at = time.time()
        self.restart = tuple(
            sorted(
                name for name in {*config, *self._started_with} - LIVE
                if config.get(name) != self._started_with.get(name)
            )
        )  # fmt: skip
        _log.info("%s taken over: %s; %d models", self._path, ", ".join(changed), len(made.catalog.names()))
        if self.restart:
            _log.warning("%s: %s take effect at the next start only", self._path, ", ".join(self.restart))
        self._tell(True)
        return True

    def remarks(self) -> Mapping[str, object]:
        """Say what people should know of the configuration, without a word of its content; empty when all is well."""
        found: dict[str, object] = {}
        if not self.valid or self.restart:
            found["configuration"] = {"valid": self.valid, "restart_needed": list(self.restart)}
        if self.unknown:
            # How many, not which: whoever asks may be anybody.
            found["systems"] = {"unregistered": len(self.unknown)}
        return found

    def families(self) -> list[Family]:
        """Say the same to whoever watches."""
        return [
            Family("metier_config_valid", "gauge", "1 while metier.yaml is in force as it lies there.", [
                Sample({}, int(self.valid))
            ]),
            Family("metier_config_restart_needed", "gauge", "1 while a changed section waits for a restart.", [
                Sample({}, int(bool(self.restart)))
            ]),
            Family("metier_config_taken_timestamp_seconds", "gauge", "When metier.yaml was taken over.", [
                Sample({}, self.taken_at)
            ]),
        ]  # fmt: skip

    def _tell(self, valid: bool) -> None:
        if valid and not self.valid:
            _log.info("%s is valid again", self._path)
        self.valid = valid


def roles_of(config: Mapping[str, Any], models: Collection[str] | None = None) -> Mapping[str, str]:
    """Read the section `roles`, or say what is wrong with it; where models are given, each role must mean one."""
    roles = config.get("roles") or {}
    if not isinstance(roles, dict) or not all(isinstance(v, str) and isinstance(k, str) for k, v in roles.items()):
        raise ConfigError("roles: write one line for each role with the name of its model, such as `writer: large`")
    for role, model in roles.items():
        if models is not None and model not in models:
            raise ConfigError(f"metier.yaml: roles.{role}: there is no model {model!r} in `models:`")
    return roles


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What tells a changed file from the same one without reading it."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, path: pathlib.Path) -> _Stamp | None:
        try:
            found = path.stat()
        except OSError:
            return None
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
