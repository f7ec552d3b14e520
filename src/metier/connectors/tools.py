"""The tools that workflows may call by name: the customer file and outgoing e-mail."""

from __future__ import annotations

import email.message
import email.policy
import email.utils
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeAlias

from metier.calls import JSON
from metier.connectors.customers import Customers
from metier.connectors.outbox import Outbox
from metier.errors import ConfigError, Invalid

__all__ = ["NAMES", "Effect", "Tool", "compose", "tools"]

NAMES = ("crm.find_contact", "email.send")
"""Every tool a workflow may name."""


class Effect(Protocol):
    """Where a tool is called from; the same key means the same effect."""

    @property
    def key(self) -> str:
        """Run and path of the step."""
        ...


Tool: TypeAlias = Callable[[Effect, dict[str, JSON]], Awaitable[JSON]]


def tools(outbox: Outbox | None, customers: Customers | None, sender: str | None) -> Mapping[str, Tool]:
    """Give the functions behind the names; one that is not configured says what is missing when it is called."""

    async def find_contact(effect: Effect, with_: dict[str, JSON]) -> JSON:
        if customers is None:
            raise ConfigError("crm.find_contact has no customer file: set `customers:` in metier.yaml")
        return dict(await customers.find_contact(_text(with_, "email")))

    async def send(effect: Effect, with_: dict[str, JSON]) -> JSON:
        if outbox is None or not sender:
            raise ConfigError("email.send has no mail server: set METIER_SMTP_URL and METIER_MAIL_FROM")
        message = compose(sender, _text(with_, "to"), _text(with_, "subject"), _text(with_, "body"))
        return {"message_id": await outbox.send(effect.key, message)}

    return {"crm.find_contact": find_contact, "email.send": send}


def compose(sender: str, to: str, subject: str, body: str) -> email.message.EmailMessage:
    """Make a plain text e-mail; a line break in an address or a subject is refused, not folded."""
    for name, value in (("recipient", to), ("subject", subject)):
        if "\n" in value or "\r" in value:
            raise Invalid(f"the {name} {value!r} has a line break: it is not sent")
    if len(email.utils.getaddresses([to])) != 1 or ";" in to or "@" not in email.utils.parseaddr(to)[1]:
        raise Invalid(f"{to!r} is not one e-mail address: correct the recipient")
    message = email.message.EmailMessage(policy=email.policy.SMTP)
    message["From"], message["To"], message["Subject"] = sender, to, subject
    message["Date"] = email.utils.formatdate(localtime=True)
    message["Auto-Submitted"] = "auto-replied"
    message.set_content(body)
    return message


def _text(with_: Mapping[str, JSON], name: str) -> str:
    value = with_.get(name)
    if not isinstance(value, str):
        raise Invalid(f"`with.{name}` must be text, got {type(value).__name__}")
    return value
