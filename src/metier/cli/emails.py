"""An .eml file as the inputs of a workflow: read as it is, every problem told."""

from __future__ import annotations

from metier.calls import JSON
from metier.connectors.mail import Email, read
from metier.knowledge.ingest import parsers
from metier.knowledge.parse import Limits, parse

__all__ = ["inputs_of"]

_ATTACHED = 6_000
"""Characters of attachments given to a workflow; more would not fit a small model's window."""


def inputs_of(data: bytes) -> tuple[Email, dict[str, JSON]]:
    """Read an e-mail and give it with the inputs `from, name, subject, text, attachments`."""
    limits = Limits()
    readers = parsers(limits)

    def to_text(name: str, content: bytes) -> str:
        return parse(name, content, readers, limits).text

    email = read(data, to_text)
    attached = "\n\n".join(f"{item.name}\n{item.text}" for item in email.attachments if item.text)
    return email, {
        "from": email.sender,
        "name": email.sender_name,
        "subject": email.subject,
        "text": email.text,
        "attachments": attached[:_ATTACHED],
    }
