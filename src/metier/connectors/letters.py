"""Plain text e-mails as tools write them: one recipient, no header that a text could add."""

from __future__ import annotations

import email.message
import email.policy
import email.utils

from metier.errors import Invalid

__all__ = ["compose"]


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
