"""The table of tools that steps and agents call by name: those of the house, and those of every connector."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from metier.calls import JSON
from metier.connectors.base import Connector, Effect, Given, Make, Tool, ToolSpec, schema_of, text
from metier.connectors.customers import Customers
from metier.connectors.effects import Effects
from metier.connectors.http import http
from metier.connectors.imap import imap_append
from metier.connectors.letters import compose
from metier.connectors.mcp import mcp
from metier.connectors.openapi import openapi
from metier.connectors.outbox import Outbox
from metier.connectors.secrets import Secrets
from metier.connectors.sql import sql
from metier.connectors.webhook import webhook
from metier.errors import ConfigError, NotFound
from metier.store import Store
from metier.vault import Vault

__all__ = ["KINDS", "NAMES", "Effect", "Tool", "ToolSpec", "Toolbox", "compose", "names", "tools"]

NAMES = ("crm.find_contact", "email.send")
"""Every tool of the house that a workflow may name without declaring a connector."""

KINDS: Mapping[str, Make] = {
    "http": http,
    "imap_append": imap_append,
    "mcp": mcp,
    "openapi": openapi,
    "sql": sql,
    "webhook": webhook,
}
"""What `kind:` of a connector may be, and what makes it: one more kind is one more line."""

_NAMED = re.compile(r"[a-z][a-z0-9_-]{0,62}", re.ASCII)
_CONTACT = schema_of({"email": "string"}, "a contact")
_LETTER = schema_of({"to": "string", "subject": "string", "body": "string"}, "an e-mail")
_SENT = schema_of({"message_id": "string"}, "an e-mail")


def tools(outbox: Outbox | None, customers: Customers | None, sender: str | None) -> Mapping[str, ToolSpec]:
    """Give the tools of the house; one that is not configured says what is missing when it is called."""

    async def find_contact(effect: Effect, with_: dict[str, JSON]) -> JSON:
        if customers is None:
            raise ConfigError("crm.find_contact has no customer file: set `customers:` in metier.yaml")
        return dict(await customers.find_contact(text(with_, "email")))

    async def send(effect: Effect, with_: dict[str, JSON]) -> JSON:
        if outbox is None or not sender:
            raise ConfigError("email.send has no mail server: set METIER_SMTP_URL and METIER_MAIL_FROM")
        message = compose(sender, text(with_, "to"), text(with_, "subject"), text(with_, "body"))
        return {"message_id": await outbox.send(effect.key, message, effect.principal.organisation)}

    contact = "Find a customer by e-mail address: their tier and their orders."
    letter = "Send one plain text e-mail to one person, exactly once."
    return {
        "crm.find_contact": ToolSpec("crm.find_contact", contact, _CONTACT, False, find_contact),
        "email.send": ToolSpec("email.send", letter, _LETTER, True, send, _SENT),
    }


def names(section: object) -> tuple[str, ...]:
    """Give what a linter may take for granted: names of tools, and "files.*" where a connector has to be asked."""
    found = dict[str, None]()
    for name, entry in section.items() if isinstance(section, dict) else ():
        kind = entry.get("kind") if isinstance(entry, dict) else None
        inner = {"webhook": ["send"], "imap_append": ["draft"]}.get(str(kind), ["*"])
        written = {"http": "operations", "sql": "queries"}.get(str(kind))
        if written is not None and isinstance(entry.get(written), dict):
            inner = [str(one) for one in entry[written]]
        found |= {f"{name}.{one}": None for one in inner}
    declared = {one.partition(".")[0] for one in found}
    return (*(name for name in NAMES if name.partition(".")[0] not in declared), *found)


class Toolbox(Mapping[str, Tool]):
    """Every tool by name; those of a connector are looked for when called, and stand before those of the house."""

    def __init__(self, effects: Effects, secrets: Secrets, house: Mapping[str, ToolSpec]) -> None:
        self._effects = effects
        self._secrets = secrets
        self._house = dict(house)
        self._connectors: Mapping[str, Connector] = {}

    @classmethod
    def built(cls, store: Store, vault: Vault, section: object, house: Mapping[str, ToolSpec]) -> Toolbox:
        """Make the table in one call, from the section `connectors` of metier.yaml and the tools of the house."""
        made = cls(Effects(store, vault), Secrets.built(store, vault), house)
        made.use(made.read(section))
        return made

    def read(self, section: object) -> Mapping[str, Connector]:
        """Make the connectors of a section, or say which entry of it is wrong; nothing is reached."""
        if section is None:
            return {}
        if not isinstance(section, dict):
            raise ConfigError("connectors in metier.yaml takes a name for each, with its kind and its options")
        return {str(name): self._made(str(name), entry) for name, entry in section.items()}

    def use(self, connectors: Mapping[str, Connector]) -> None:
        """Put connectors in force, in place of those before; what is under way with those ends as it began."""
        self._connectors = dict(connectors)

    @property
    def connectors(self) -> Mapping[str, Connector]:
        """Those in force, by name."""
        return self._connectors

    def connector(self, name: str) -> Connector:
        """Give one connector, or say which there are."""
        found = self._connectors.get(name)
        if found is None:
            raise NotFound(f"there is no connector {name!r}: metier.yaml declares {sorted(self._connectors)}")
        return found

    async def find(self, name: str) -> ToolSpec:
        """Give one tool by its whole name."""
        prefix, _, _ = name.partition(".")
        if prefix not in self._connectors and name in self._house:
            return self._house[name]
        for spec in await self._given(prefix):
            if spec.name == name:
                return spec
        raise NotFound(f"there is no tool {name!r}: metier connectors list --tools shows those there are")

    async def matching(self, patterns: Sequence[str]) -> tuple[ToolSpec, ...]:
        """Give the tools that names and patterns such as "crm.*" mean; one that means none is refused."""
        known = {n: spec for n, spec in self._house.items() if n.partition(".")[0] not in self._connectors}
        for prefix in self._connectors:
            if any(fnmatch.fnmatchcase(prefix, pattern.partition(".")[0]) for pattern in patterns):
                known |= {spec.name: spec for spec in await self._given(prefix)}
        found: dict[str, ToolSpec] = {}
        for pattern in patterns:
            meant = {name: spec for name, spec in known.items() if fnmatch.fnmatchcase(name, pattern)}
            if not meant:
                raise NotFound(f"no tool is called {pattern!r}: metier connectors list --tools shows those there are")
            found |= meant
        return tuple(found[name] for name in sorted(found))

    async def close(self) -> None:
        """Let go of what connectors hold."""
        for connector in self._connectors.values():
            await connector.close()

    def __getitem__(self, name: str) -> Tool:
        """Give a tool as steps call it; one of a connector is looked for when it is called."""
        if name.partition(".")[0] not in self._connectors:
            return self._house[name]

        async def call(effect: Effect, with_: dict[str, JSON]) -> JSON:
            return await (await self.find(name))(effect, with_)

        return call

    def __iter__(self) -> Iterator[str]:
        """Names of the house, and "crm.*" for what a connector gives."""
        yield from (name for name in self._house if name.partition(".")[0] not in self._connectors)
        yield from (f"{name}.*" for name in self._connectors)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    async def _given(self, prefix: str) -> Sequence[ToolSpec]:
        return await self._connectors[prefix].tools() if prefix in self._connectors else ()

    def _made(self, name: str, entry: Any) -> Connector:
        if not _NAMED.fullmatch(name):
            raise ConfigError(f"{name!r} cannot name a connector: use a-z, 0-9, '-' and '_', beginning with a letter")
        kind = entry.get("kind") if isinstance(entry, dict) else None
        if not isinstance(kind, str) or kind not in KINDS:
            raise ConfigError(f"connectors.{name}.kind is {kind!r}: choose among {', '.join(KINDS)}")
        options = {str(key): value for key, value in entry.items() if key != "kind"}
        return KINDS[kind](Given(name, options, self._effects, self._secrets))
