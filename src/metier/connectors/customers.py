"""The customer file: who wrote, which tier, which orders; read from JSON Lines, looked up by e-mail address."""

from __future__ import annotations

import asyncio
import json
import pathlib
from dataclasses import dataclass

from metier.calls import JSON
from metier.errors import ConfigError

__all__ = ["Customers"]

_LIMIT_BYTES = 200_000_000


@dataclass(frozen=True, slots=True)
class _Loaded:
    stamp: tuple[int, int]
    by_email: dict[str, dict[str, JSON]]


class Customers:
    """Looks customers up in a file, read again when it changes."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._loaded: _Loaded | None = None

    async def find_contact(self, email: str) -> dict[str, JSON]:
        """Give the tier and the orders of a customer; an unknown address is a customer of tier "unknown"."""
        loaded = await asyncio.to_thread(self._load)
        found = loaded.by_email.get(email.strip().lower())
        if found is None:
            return {"tier": "unknown", "orders": []}
        orders = found.get("orders")
        return {"tier": found.get("tier", "unknown"), "orders": orders if isinstance(orders, list) else []}

    def _load(self) -> _Loaded:
        try:
            status = self._path.stat()
        except OSError as error:
            raise ConfigError(
                f"the customer file {str(self._path)!r} cannot be read: {error.strerror}; "
                "check `customers:` in metier.yaml"
            ) from error
        stamp = (status.st_mtime_ns, status.st_size)
        if self._loaded is None or self._loaded.stamp != stamp:
            if status.st_size > _LIMIT_BYTES:
                raise ConfigError(
                    f"the customer file {str(self._path)!r} passes {_LIMIT_BYTES:,} bytes: connect the CRM"
                )
            self._loaded = _Loaded(stamp, self._read())
        return self._loaded

    def _read(self) -> dict[str, dict[str, JSON]]:
        found: dict[str, dict[str, JSON]] = {}
        try:
            # Not splitlines: a JSON string may hold the other characters that it takes for line ends.
            lines = self._path.read_text(encoding="utf-8").split("\n")
        except OSError as error:
            raise ConfigError(f"the customer file {str(self._path)!r} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"the customer file {str(self._path)!r} is not UTF-8 (byte {error.start})") from error
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                found[str(row["email"]).strip().lower()] = row
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(f"{self._path}:{number}: not a customer with an `email` ({error})") from error
        return found
