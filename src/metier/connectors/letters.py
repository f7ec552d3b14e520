"""Plain text e-mails as tools write them: one recipient, no header that a text could add."""

from __future__ import annotations

import email
import email.errors
import email.message
import email.policy
import email.utils
import unicodedata
from typing import Any

from metier.errors import Invalid

__all__ = ["compose", "header_text"]

_NO_TEXT = frozenset({"Cc", "Cs", "Zl", "Zp"})
_PARTING = str.maketrans(dict.fromkeys('"<>@,;:\\()[]', " "))


def compose(sender: str, to: str, subject: str, body: str) -> email.message.EmailMessage:
    """Make a plain text e-mail; a line break in an address or a subject is refused, not folded."""
    for name, value in (("recipient", to), ("subject", subject)):
        if "\n" in value or "\r" in value:
            raise Invalid(f"the {name} {value!r} has a line break: it is not sent")
    name, address = email.utils.parseaddr(to)
    if len(email.utils.getaddresses([to])) != 1 or ";" in to or "@" not in address or _odd(to):
        raise Invalid(f"{to!r} is not one e-mail address: correct the recipient")
    message = email.message.EmailMessage(policy=email.policy.SMTP)
    message["From"], message["Subject"] = sender, header_text(subject)
    try:
        # Written as servers write it: few take letters beyond ASCII in an address, and each takes its domain in ASCII.
        local, _, domain = address.rpartition("@")
        ascii_only = f"{local}@{domain if domain.isascii() else domain.encode('idna').decode()}"
        ascii_only.encode("ascii")
        # What parts addresses is taken out of names: Python writes some of them without their quotes.
        shown = header_text(name).translate(_PARTING).strip()
        message["To"] = email.utils.formataddr((shown, ascii_only)) if shown else ascii_only
    except (ValueError, email.errors.MessageError):
        raise Invalid(f"{to!r} is no address that mail servers take: write it in letters without accents") from None
    message["Date"] = email.utils.formatdate(localtime=True)
    message["Auto-Submitted"] = "auto-replied"
    message.set_content(body.encode("utf-8", "replace").decode())
    if not _as_written(message):
        raise Invalid("the e-mail would leave with headers or to people nobody has written: it is not sent")
    return message


def _as_written(message: email.message.EmailMessage) -> bool:
    """Read it as servers will."""
    try:
        read: Any = email.message_from_bytes(message.as_bytes(), policy=email.policy.SMTP)
        return list(read.keys()) == message.keys() and len(read["To"].addresses) == 1
    except ValueError:
        return False


def header_text(text: str) -> str:
    """Write text for a header as one line that nothing reads as more; ends of lines become spaces."""
    # Python decodes what is written as an encoded word already, line breaks in it included: a header of a stranger's.
    plain = text.replace("=?", "= ?")
    return "".join(" " if _odd(letter) else letter for letter in plain)


def _odd(text: str) -> bool:
    return any(unicodedata.category(letter) in _NO_TEXT for letter in text)
