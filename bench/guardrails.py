"""Measures the guardrail for personal data: CPU per message and per chunk, values found in labelled mails.

python bench/guardrails.py [--mails emails.yaml]
"""

from __future__ import annotations

import argparse
import email
import email.message
import email.policy
import json
import pathlib
import re
import statistics
import time
from collections.abc import Callable

import yaml

from metier.calls import Chunk
from metier.guardrails.pii import Restore, Table, find, mask

DENSE = """Bonjour Madame Lefèvre,
Je suis Hélène LEFÈVRE, née le 12/03/1980, et j'habite 12 bis, rue de la République, 69002 Lyon Cedex 02.
Ma commande n° 4567891234 du 12/05/2024 à 129,90 € n'est pas arrivée. Mon numéro : 06 12 34 56 78, mon
adresse : helene.lefevre@courriel.example ; NIR 1 84 12 76 451 089 46, IBAN FR76 3000 6000 0112 3456 7890 189.
Voici la voiture AB-123-CD de M. Jean-Pierre N'Guessan. Mot de passe : Azerty123!
Cordialement,
H. Lefèvre
"""
PROSE = """Le délai de rétractation est de quatorze jours à compter de la réception du colis. Le client renvoie
le produit dans son emballage d'origine, avec la facture et les accessoires, au service des retours.
Le remboursement intervient dans les quatorze jours qui suivent, par le moyen de paiement utilisé
lors de la commande, frais de port compris pour la livraison standard. Les articles descellés pour
raison d'hygiène ne sont pas repris, sauf défaut de conformité.
"""


def milliseconds(work: Callable[[], object], seconds: float = 0.4) -> float:
    """Median CPU time of one call, over at least five."""
    work()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        begun = time.process_time_ns()
        work()
        times.append((time.process_time_ns() - begun) / 1e6)
    return statistics.median(times)


def messages() -> dict[str, float]:
    """Time to find and to mask, for texts full of personal data and for texts without any."""
    figures: dict[str, float] = {}
    print(f"{'characters':>10} {'text':>6} {'find ms':>9} {'mask ms':>9}")
    for size in (200, 2_000, 8_000):
        for name, sample in (("dense", DENSE), ("prose", PROSE)):
            text = (sample * (size // len(sample) + 1))[:size]
            found = milliseconds(lambda text=text: find(text))  # type: ignore[misc]  # bound now, on purpose
            masked = milliseconds(lambda text=text: mask(text, Table()))  # type: ignore[misc]
            figures[f"find_{name}_{size}_ms"] = round(found, 3)
            figures[f"mask_{name}_{size}_ms"] = round(masked, 3)
            print(f"{size:>10} {name:>6} {found:>9.3f} {masked:>9.3f}")
    return figures


def chunks() -> dict[str, float]:
    """Time per chunk of a streamed answer, with and without placeholders in it."""
    table = Table()
    masked, _ = mask(DENSE, table)
    values = {entry.code: entry.surface for entry in table.entries()}
    figures: dict[str, float] = {}
    for name, text in (("plain", PROSE * 8), ("codes", masked * 8)):
        pieces = [Chunk(text=piece) for piece in re.findall(r"(?s).{1,5}", text)]

        def stream(pieces: list[Chunk] = pieces) -> None:
            output = Restore(values)
            for piece in pieces:
                output.feed(piece)

        figures[f"chunk_{name}_us"] = round(milliseconds(stream) * 1_000 / len(pieces), 2)
        print(f"per chunk, {name}: {figures[f'chunk_{name}_us']} µs")
    return figures


def mails(labels: pathlib.Path) -> dict[str, float]:
    """Share of the labelled personal values of a folder of mails that is masked, and what was masked besides."""
    total = missed = 0
    besides: list[str] = []
    for entry in yaml.safe_load(labels.read_text(encoding="utf-8"))["emails"]:
        data = (labels.parent / "emails" / entry["file"]).read_bytes()
        text = _text(email.message_from_bytes(data, policy=email.policy.default))
        masked, _ = mask(text, Table())
        expected = [_plain(value) for value in entry["personal"]]
        total += len(expected)
        missed += sum(value in _plain(masked) for value in expected)
        for one in find(text):
            value = _plain(text[one.start : one.end])
            if not any(value in other or other in value for other in expected):
                besides.append(value)
    print(f"mails: {total - missed} of {total} values masked; besides: {besides}")
    return {"mail_values": total, "mail_values_missed": missed, "mail_besides": len(besides)}


def _text(message: email.message.EmailMessage) -> str:
    body = message.get_body(("plain", "html"))
    content = str(body.get_content()) if body is not None else ""
    if body is not None and body.get_content_type() == "text/html":
        content = re.sub(r"<[^>]+>", "\n", content)
    return f"From: {message['from']}\nSubject: {message['subject']}\n\n{content}"


def _plain(text: str) -> str:
    return text.replace("\u00a0", " ").replace("\u202f", " ").lower()


def main() -> None:
    """Measure and print one table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mails", type=pathlib.Path, help="labels of a folder of mails")
    options = parser.parse_args()
    figures = {**messages(), **chunks()}
    if options.mails:
        figures |= mails(options.mails)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
