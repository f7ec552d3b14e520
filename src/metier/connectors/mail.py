"""Incoming e-mail: MIME bytes to what a person would read; what cannot be read is said, never dropped."""

from __future__ import annotations

import datetime
import email
import email.errors
import email.header
import email.message
import email.policy
import email.utils
import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from metier.errors import Invalid, MetierError

__all__ = ["Attachment", "Email", "ToText", "clean", "read", "split_quoted"]

ToText = Callable[[str, bytes], str]
"""Turns a named file into text, or raises a MetierError that says why it cannot."""

_LIMIT_BYTES = 40 * 1024 * 1024
_LIMIT_PARTS = 500
_LIMIT_TEXT = 400_000
_LIMIT_HEADER = 8_192
_BROKEN = (ValueError, LookupError, TypeError, AttributeError, AssertionError, email.errors.MessageError)
"""What Python's own reader raises on headers that are broken in ways it does not expect."""
_NO_CHARSETS = frozenset({"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined"})
"""What Python also calls encodings: some take the square of the length, and no mail is written in them."""
_ON_WROTE = re.compile(
    r"^(?:le\b.{0,200}?\b(?:a\s+écrit|écrivait)|on\b.{0,200}?\bwrote|am\b.{0,200}?\bschrieb)\s*:\s*$",
    re.IGNORECASE | re.DOTALL,
)
_ORIGINAL = re.compile(
    r"^\s*(?:-{2,}\s*(?:message d['’]origine|original message|message transféré|forwarded message)\s*-{2,}|_{20,})\s*$",
    re.IGNORECASE,
)
_HEADER_BLOCK = re.compile(r"^\s*\**(?:de|from)\s?:\**\s+\S", re.IGNORECASE)
_HEADER_NEXT = re.compile(r"^\s*\**(?:envoyé|sent|date|à|to|objet|subject)\s?:\**", re.IGNORECASE)


class _Bounded(email.policy.Compat32):
    """Keeps no more of a header than anybody writes: some take the square of their length to be read."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        name, value = super().header_source_parse(sourcelines)
        return name, value[:_LIMIT_HEADER]


@dataclass(frozen=True, slots=True)
class Attachment:
    """One file that came with an e-mail."""

    name: str
    media_type: str
    size: int
    """Bytes, decoded."""
    text: str | None
    """What it says, when it could be read."""
    problem: str | None = None
    """Why it could not be read."""


@dataclass(frozen=True, slots=True)
class Email:
    """One e-mail as a person would read it."""

    message_id: str
    """Its Message-ID, or a stable one made from its bytes when it has none."""
    sender: str
    """Address of the author, lower case."""
    sender_name: str
    recipient: str
    subject: str
    date: str | None
    """ISO 8601, when the header can be read."""
    text: str
    """The new text, without the earlier messages it quotes."""
    quoted: str
    """The earlier messages quoted below or around the new text."""
    attachments: tuple[Attachment, ...]
    problems: tuple[str, ...]
    """What could not be read, one plain sentence each."""


def read(data: bytes, to_text: ToText) -> Email:
    """Read an RFC 5322 message; `to_text` turns HTML and attached files into text."""
    if len(data) > _LIMIT_BYTES:
        raise Invalid(
            f"the e-mail has {len(data):,} bytes, more than the limit of {_LIMIT_BYTES:,}: ask for a smaller one"
        )
    if not data.strip():
        raise Invalid("the e-mail file is empty: nothing was received")
    try:
        message = email.message_from_bytes(data, policy=_Bounded())
    except RecursionError:
        raise Invalid("the e-mail nests parts inside parts beyond reason: it is refused, and kept as it came") from None
    if not message.keys():
        raise Invalid("this is not an e-mail: it has no header; give the .eml file as it was received")
    problems: list[str] = []
    body, attachments = _parts(message, to_text, problems)
    if len(body) > _LIMIT_TEXT:
        problems.append(f"the text has {len(body):,} characters; only the first {_LIMIT_TEXT:,} are used")
        body = body[:_LIMIT_TEXT]
    new, quoted = split_quoted(body)
    if not new.strip() and quoted.strip():
        problems.append("there is no text above the quoted messages")
    if not body.strip():
        problems.append("the message has no text")
    name, address = _address(message, "From", problems)
    return Email(
        message_id=_one_line(_header(message, "Message-ID")).strip("<> ")
        or f"{hashlib.sha256(data).hexdigest()[:32]}@without-id.invalid",
        sender=address,
        sender_name=name,
        recipient=_address(message, "To", [])[1],
        subject=_one_line(_header(message, "Subject")),
        date=_date(message),
        text=new.strip(),
        quoted=quoted.strip(),
        attachments=tuple(attachments),
        problems=tuple(problems),
    )


def split_quoted(text: str) -> tuple[str, str]:
    """Separate what the author wrote now from the earlier messages quoted below it."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for at, line in enumerate(lines):
        follows = "\n".join(lines[at : at + 3])
        if _ORIGINAL.match(line) or _is_header_block(lines, at) or _is_attribution(lines, at, follows):
            below = lines[at:]
            answers = _interleaved(below)
            return "\n".join(lines[:at] + answers), "\n".join(below)
    kept = [line for line in lines if not line.lstrip().startswith(">")]
    quoted = [line for line in lines if line.lstrip().startswith(">")]
    return "\n".join(kept), "\n".join(quoted)


def _is_attribution(lines: list[str], at: int, follows: str) -> bool:
    """An attribution may be wrapped over up to three lines."""
    if not re.match(r"\s*(?:le|on|am)\b", lines[at], re.IGNORECASE):
        return False
    span = ""
    for line in follows.split("\n"):
        span = f"{span} {line.strip()}".strip()
        if _ON_WROTE.match(span):
            return True
    return False


def _is_header_block(lines: list[str], at: int) -> bool:
    return bool(_HEADER_BLOCK.match(lines[at])) and any(_HEADER_NEXT.match(n) for n in lines[at + 1 : at + 3])


def _interleaved(below: list[str]) -> list[str]:
    """Answers written between quoted lines belong to the author; text after the last quote too."""
    if not any(line.lstrip().startswith(">") for line in below):
        return []
    first = next(i for i, line in enumerate(below) if line.lstrip().startswith(">"))
    return [line for line in below[first:] if not line.lstrip().startswith(">")]


def _parts(message: email.message.Message, to_text: ToText, problems: list[str]) -> tuple[str, list[Attachment]]:
    plain: list[str] = []
    html: list[str] = []
    attachments: list[Attachment] = []
    for number, part in enumerate(_leaves(message)):
        if number >= _LIMIT_PARTS:
            problems.append(f"the message has more than {_LIMIT_PARTS} parts; the rest is not read")
            break
        kind, name = part.get_content_type(), _file_name(part)
        content = _payload(part, name or kind, problems)
        if name or part.get_content_disposition() == "attachment" or not kind.startswith("text/"):
            attachments.append(_attachment(name or f"part-{number + 1}", kind, content, to_text))
        elif kind == "text/html":
            html.append(_html(content, part, to_text, problems))
        else:
            plain.append(_decode(content, part, problems))
    text = "\n\n".join(p for p in plain if p.strip()) or "\n\n".join(h for h in html if h.strip())
    for item in attachments:
        if item.problem:
            problems.append(f"the attachment {item.name!r} could not be read: {item.problem}")
    return text, attachments


def _leaves(message: email.message.Message) -> Iterator[email.message.Message]:
    """Every part that is not a container, without recursion: hostile messages nest thousands deep."""
    stack: list[email.message.Message] = [message]
    while stack:
        part = stack.pop()
        # Not asked of other parts: their text would be decoded on the way, as whatever they say it is.
        payload = part.get_payload() if part.is_multipart() else None
        if isinstance(payload, list):
            stack.extend(p for p in reversed(payload) if isinstance(p, email.message.Message))
        else:
            yield part


def _payload(part: email.message.Message, label: str, problems: list[str]) -> bytes:
    try:
        content = part.get_payload(decode=True)
    except _BROKEN:
        # What it says of its characters cannot be read; its bytes may be.
        del part["Content-Type"]
        try:
            content = part.get_payload(decode=True)
        except _BROKEN as error:
            problems.append(f"the part {label!r} could not be decoded: {error}")
            return b""
        problems.append(f"the part {label!r} says in a broken way what it is made of; it was read as it looks")
    if any(isinstance(d, email.errors.InvalidBase64CharactersDefect) for d in part.defects):
        problems.append(f"the part {label!r} has damaged base64; what could be decoded is used")
    return content if isinstance(content, bytes) else b""


def _decode(content: bytes, part: email.message.Message, problems: list[str]) -> str:
    try:
        declared = part.get_content_charset()
    except _BROKEN:
        declared = None
    for charset in (declared, "utf-8", "cp1252"):
        if charset is None or charset.replace("-", "_") in _NO_CHARSETS:
            continue
        try:
            text = content.decode(charset)
        except (LookupError, ValueError):
            continue
        if declared and charset != declared.lower():
            problems.append(f"the text says it is {declared!r} and is not; it was read as {charset}")
        return clean(text)
    problems.append("the text has bytes that no known character set explains; they are shown as �")
    return clean(content.decode("utf-8", errors="replace"))


def _html(content: bytes, part: email.message.Message, to_text: ToText, problems: list[str]) -> str:
    text = _decode(content, part, problems)
    try:
        return clean(to_text("message.html", text.encode("utf-8")))
    except MetierError as error:
        problems.append(f"the HTML text could not be read: {error.message}")
        return ""


def _attachment(name: str, kind: str, content: bytes, to_text: ToText) -> Attachment:
    try:
        text: str | None = clean(to_text(name, content))[:_LIMIT_TEXT]
        problem = None if text and text.strip() else "it holds no text"
    except MetierError as error:
        text, problem = None, error.message
    return Attachment(name, kind, len(content), text, problem)


def clean(text: str) -> str:
    """Drop control and invisible characters that a person would not see; keep line breaks and tabs."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co"))


def _header(message: email.message.Message, name: str) -> str:
    raw = message.get(name)
    if raw is None:
        return ""
    try:
        text = str(email.header.make_header(email.header.decode_header(str(raw))))
    except _BROKEN:
        text = str(raw)
    return clean(text.encode("utf-8", "replace").decode("utf-8")).strip()


def _one_line(text: str) -> str:
    return " ".join(text.split())[:1000]


def _address(message: email.message.Message, name: str, problems: list[str]) -> tuple[str, str]:
    try:
        found = [pair for pair in email.utils.getaddresses([_one_line(_header(message, name))]) if "@" in pair[1]]
    except RecursionError:  # comments inside comments
        found = []
    if not found:
        problems.append(f"the {name} header has no usable address")
        return "", ""
    return found[0][0].strip(), found[0][1].strip().lower()


def _date(message: email.message.Message) -> str | None:
    try:
        found = email.utils.parsedate_to_datetime(_one_line(_header(message, "Date")))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if found.tzinfo is None:
        found = found.replace(tzinfo=datetime.UTC)
    return found.isoformat()


def _file_name(part: email.message.Message) -> str:
    try:
        name = part.get_filename()
    except _BROKEN:
        return ""
    return _one_line(clean(str(name))).replace("/", "_").replace("\\", "_") if name else ""
