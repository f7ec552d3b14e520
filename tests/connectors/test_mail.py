from __future__ import annotations

import email.message

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.connectors.mail import read, split_quoted
from metier.errors import Invalid


def plain(name: str, data: bytes) -> str:
    if name.endswith(".bin"):
        raise Invalid(f"no parser for {name!r}")
    return data.decode("utf-8", "replace")


def test_a_latin_1_quoted_printable_message_is_read_with_its_accents() -> None:
    raw = (
        b"From: =?iso-8859-1?Q?H=E9l=E8ne_Lef=E8vre?= <Helene@Exemple.FR>\r\nTo: sav@exemple.fr\r\n"
        b"Subject: =?utf-8?B?UmV0b3VyIGTigJl1biBhcnRpY2xl?=\r\nMessage-ID: <a1@exemple.fr>\r\n"
        b"Date: Mon, 2 Nov 2026 10:12:00 +0100\r\nContent-Type: text/plain; charset=iso-8859-1\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\nJe suis tr=E8s d=E9=\r\n=E7ue.\r\n"
    )
    found = read(raw, plain)
    assert (found.sender, found.sender_name, found.subject) == (
        "helene@exemple.fr",
        "Hélène Lefèvre",
        "Retour d’un article",
    )
    assert found.text == "Je suis très déçue." and found.message_id == "a1@exemple.fr"
    assert found.date == "2026-11-02T10:12:00+01:00" and found.problems == ()


def test_an_attachment_that_cannot_be_read_is_said() -> None:
    message = email.message.EmailMessage()
    message["From"], message["To"] = "a@exemple.fr", "b@exemple.fr"
    message.set_content("Voir la pièce jointe.")
    message.add_attachment(b"\x00\x01", maintype="application", subtype="octet-stream", filename="x.bin")
    message.add_attachment("Facture 12", filename="facture.txt")
    found = read(message.as_bytes(), plain)
    assert [(a.name, a.text) for a in found.attachments] == [("x.bin", None), ("facture.txt", "Facture 12\n")]
    assert found.problems == ("the attachment 'x.bin' could not be read: no parser for 'x.bin'",)


def test_a_wrong_charset_is_read_anyway_and_said() -> None:
    raw = b"From: a@exemple.fr\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nd\xe9\xe7ue"
    found = read(raw, plain)
    assert found.text == "déçue" and "cp1252" in found.problems[0]


def test_an_empty_body_is_said() -> None:
    found = read(b"From: a@exemple.fr\r\nSubject: Rien\r\n\r\n", plain)
    assert found.text == "" and "the message has no text" in found.problems


@pytest.mark.parametrize("raw", [b"", b"   \r\n", b"\x00\x01\x02"])
def test_what_is_not_an_email_is_refused(raw: bytes) -> None:
    with pytest.raises(Invalid):
        read(raw, plain)


@pytest.mark.parametrize(
    ("text", "new"),
    [
        ("Merci.\n\nLe lun. 2 nov. 2026 à 10:12, SAV <sav@exemple.fr> a écrit :\n> Bonjour\n", "Merci."),
        ("Merci.\n\nLe lundi 2 novembre 2026,\nSAV Maison <sav@exemple.fr> a\nécrit :\n> Bonjour\n", "Merci."),
        ("Thanks.\n\nOn Mon, Nov 2, 2026 at 10:12 AM, Support wrote:\n> Hello\n", "Thanks."),
        ("Merci.\n\n-----Message d'origine-----\nDe : SAV\nBonjour", "Merci."),
        ("Merci.\n\nDe : SAV <sav@exemple.fr>\nEnvoyé : lundi\nObjet : retour\n\nBonjour", "Merci."),
        ("> Combien ?\nDeux articles.\n", "Deux articles."),
        ("Le colis que vous avez écrit est arrivé.\nBien.", "Le colis que vous avez écrit est arrivé.\nBien."),
    ],
)
def test_the_new_text_is_parted_from_what_it_quotes(text: str, new: str) -> None:
    assert split_quoted(text)[0].strip() == new


def test_answers_written_between_quoted_lines_are_kept() -> None:
    new, _ = split_quoted(
        "Bonjour,\n\nLe 2 nov., SAV a écrit :\n> Quelle taille ?\nDu 42.\n> Quelle couleur ?\nBleu.\n"
    )
    assert "Du 42." in new and "Bleu." in new and "taille" not in new


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=3000))
def test_any_bytes_are_read_or_refused_plainly(raw: bytes) -> None:
    try:
        found = read(raw, plain)
    except Invalid:
        return
    found.text.encode()


_HEADERS = st.sampled_from(
    [b"From: ", b"To: ", b"Subject: =?", b"Content-Type: multipart/mixed; boundary=b\r\n", b"Content-Type: text/html"]
    + [b"Content-Transfer-Encoding: base64\r\n", b"Content-Type: message/rfc822\r\n", b"Date: ", b"--b\r\n", b"--b--"]
    + [b"Content-Type: text/plain; charset=", b"\r\n\r\n", b"\r\n", b"utf-7", b"=?utf-8?B?", b"?=", b"\xff", b"@", b"<"]
    + [b"Content-Disposition: attachment; filename*=utf-8''%E9", b"unknown-8bit", b"idna", b"punycode", b"rot13"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_HEADERS, max_size=40))
def test_hostile_mime_is_read_or_refused_plainly(pieces: list[bytes]) -> None:
    try:
        found = read(b"".join(pieces), plain)
    except Invalid:
        return
    found.text.encode()
    found.subject.encode()


def test_parts_nested_beyond_reason_do_not_bring_the_reader_down() -> None:
    depth = 3000
    raw = b"From: a@exemple.fr\r\n"
    for n in range(depth):
        raw += b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n' % (n, n)
    try:
        read(raw + b"\r\nbonjour", plain)
    except Invalid as error:
        assert "nests" in error.message


def test_senders_in_comments_without_end_do_not_bring_the_reader_down() -> None:
    found = read(b"From: " + b"(" * 50_000 + b"\r\nTo: " + b"(" * 900 + b"\r\n\r\nBonjour", plain)
    assert (found.text, found.sender) == ("Bonjour", "") and "From" in found.problems[0]


@pytest.mark.parametrize(
    "header",
    [b"Subject: =?punycode?q?-", b"Content-Type: application/pdf; name*=punycode''-", b"Subject: " + b"=?utf-8?q?a?= "],
)
def test_a_header_cannot_choose_how_long_it_takes(header: bytes) -> None:
    found = read(b"From: a@exemple.fr\r\n" + header + b"kajbc" * 500_000 + b"?=\r\n\r\nBonjour", plain)
    assert found.sender == "a@exemple.fr"


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Type: text/plain; charset*=utf-8''%ff",
        b"Content-Type: text/plain; charset=\xffV\x00",
        b"Content-Type: text/plain; charset*=utf\x00-8''%f\xe5",
        b"Content-Type: text/plain; charset*0=a; charset*=b''c",
        b"Subject: =?utf\xc88?b?////?=",
        b"From: =?utf\xc88?b?////?= <a@exemple.fr>",
    ],
)
def test_headers_that_break_the_reader_of_python_cost_no_text(header: bytes) -> None:
    found = read(b"From: a@exemple.fr\r\n" + header + b"\r\n\r\nBonjour \xe9t\xe9", plain)
    assert found.text == "Bonjour été" and found.sender == "a@exemple.fr"
    assert found.subject.encode() is not None


def test_a_file_whose_name_cannot_be_read_is_still_a_file() -> None:
    part = (
        b"--b\r\nContent-Type: text/plain\r\nContent-Disposition: attachment; filename*0=a; filename*=b''c\r\n\r\nx\r\n"
    )
    found = read(
        b"From: a@exemple.fr\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" + part + b"--b--\r\n", plain
    )
    assert [(one.name, one.text) for one in found.attachments] == [("part-1", "x")]
