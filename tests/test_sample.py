"""The sample company holds together: one set of facts, files made from sources, a truth to measure against."""

from __future__ import annotations

import email
import email.policy
import importlib
import itertools
import json
import pathlib
import re
import zipfile
from collections.abc import Iterator
from email.message import EmailMessage
from html.parser import HTMLParser
from types import ModuleType
from typing import Any

import pytest
import yaml
from stdnum import iban
from stdnum.fr import nir

from metier.calls import JSON
from metier.workflow import rules

ROOT = pathlib.Path(__file__).parent.parent
SAMPLE = ROOT / "src" / "metier" / "templates" / "support-reply" / "sample"
FICTION = ("01 99 00", "02 61 91", "03 53 01", "04 65 71", "05 36 49", "06 39 98")
LABELS = {"refund", "delivery", "warranty", "billing", "product", "legal", "other"}


def load(name: str) -> Any:
    return yaml.safe_load((SAMPLE / name).read_text(encoding="utf-8"))


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SAMPLE / name).read_text(encoding="utf-8").splitlines()]


def sources() -> dict[str, str]:
    read = {path.stem: path.read_text(encoding="utf-8") for path in (SAMPLE / "sources").glob("*.md")}
    return {name: text.split("---\n", 2)[2] for name, text in read.items()}


def folded(text: str) -> str:
    return " ".join(text.replace("\u00a0", " ").split())


class Shown(HTMLParser):
    """Text of a page as a reader sees it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def message(file: str) -> EmailMessage:
    return email.message_from_bytes((SAMPLE / "emails" / file).read_bytes(), policy=email.policy.default)


def seen(mail: EmailMessage) -> str:
    """Give the text of a message with its sender and subject, as one line."""
    body = mail.get_body(("plain", "html"))
    assert body is not None
    text = body.get_content()
    if body.get_content_subtype() == "html":
        text = " ".join(Shown(text).words)
    return folded(f"{mail['From']} {mail['Subject']} {text}")


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("make_sample")


def comparable(path: pathlib.Path) -> object:
    """Reduce a file to what its readers see, so that another version of a writing library changes nothing."""
    data = path.read_bytes()
    if path.suffix in (".docx", ".xlsx"):
        with zipfile.ZipFile(path) as packed:
            names = [n for n in packed.namelist() if n == "word/document.xml" or re.match("xl/(worksheets|shared)", n)]
            return {name: re.findall(rb">([^<]+)<", packed.read(name)) for name in names}
    if path.suffix == ".pdf":
        return re.findall(rb"\[?\((.*?)\)\]? TJ?j?", data)
    if path.suffix == ".eml":
        mail = email.message_from_bytes(data, policy=email.policy.default)
        return [str(mail["Subject"]), str(mail["From"]), [part.get_content_type() for part in mail.walk()], seen(mail)]
    return data


def test_the_committed_files_are_those_the_script_makes_the_same_each_time(
    maker: ModuleType, tmp_path: pathlib.Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    maker.write(one)
    maker.write(two)
    made = {str(path.relative_to(one)) for path in one.rglob("*") if path.is_file()}
    kept = {f"{folder}/{path.name}" for folder in ("documents", "emails") for path in (SAMPLE / folder).iterdir()}
    assert made == kept | {"customers.jsonl", "documents.yaml"}
    for name in sorted(made):
        assert (one / name).read_bytes() == (two / name).read_bytes(), f"{name} changes from one run to the next"
        assert comparable(one / name) == comparable(SAMPLE / name) != [], f"{name}: run scripts/make_sample.py"


def test_every_fact_is_said_where_it_should_be() -> None:
    texts = sources()
    missing = [
        f"{fact['id']}: {name}"
        for fact in load("sources/facts.yaml")["facts"]
        for name in fact["in"]
        if fact["says"].lower() not in folded(texts[name]).lower()
    ]
    assert missing == []


def test_no_document_shows_an_amount_that_is_no_fact() -> None:
    facts = load("sources/facts.yaml")
    known = {float(amount) for amount in facts["other_amounts_eur"]}
    known |= {float(article["price"]) for article in load("sources/catalogue.yaml")["articles"]}
    for fact in facts["facts"]:
        known |= set(amounts(fact["says"]))
    for name, text in sources().items():
        assert set(amounts(folded(text))) <= known, name


def amounts(text: str) -> Iterator[float]:
    for found in re.finditer(r"(\d[\d ]*(?:,\d\d)?) €|€(\d+(?:\.\d\d)?)", text):
        yield float((found[1] or found[2]).replace(" ", "").replace(",", "."))


def test_a_product_sheet_shows_the_price_of_the_catalogue() -> None:
    texts = sources()
    for article in load("sources/catalogue.yaml")["articles"]:
        price = f"{article['price']:.2f}".replace(".", ",").removesuffix(",00")
        if "sheet" in article:
            assert f"Référence {article['ref']}. Prix public : {price} € TTC" in folded(texts[article["sheet"]])
        for name, text in texts.items():
            for said in re.findall(rf"référence {article['ref']}(?:, [^,)]*)?, (\d+(?:,\d\d)?) €", text):
                assert said == price, f"{article['ref']} in {name}"


def test_documents_are_many_short_sectioned_and_in_every_format() -> None:
    entries = load("documents.yaml")["documents"]
    formats = [entry["file"].rsplit(".", 1)[1] for entry in entries]
    assert len(entries) >= 22
    assert formats.count("pdf") >= 4 and formats.count("html") >= 3 and formats.count("xlsx") >= 2
    assert {"md", "docx"} <= set(formats)
    assert {group for entry in entries for group in entry["groups"]} == {
        "public",
        "sav",
        "commercial",
        "sav-chef",
        "juridique",
    }
    for name, text in sources().items():
        assert 250 <= len(re.findall(r"[\w'-]+", text)) <= 900, name
        for section in re.split(r"\n#+ ", text)[1:]:
            assert len(re.findall(r"[\w'-]+", section)) <= 200, f"{name}: {section[:40]!r} is too long for one extract"


def test_internal_thresholds_are_in_no_public_document() -> None:
    texts = sources()
    hidden = load("sources/facts.yaml")["internal_only"]
    for entry in load("documents.yaml")["documents"]:
        name = entry["file"].rsplit(".", 1)[0]
        if "public" in entry["groups"] and name in texts:
            assert [word for word in hidden if word in texts[name]] == [], name


def test_pdf_documents_have_several_pages_and_keep_their_accents() -> None:
    pages = {path.name: path.read_bytes() for path in (SAMPLE / "documents").glob("*.pdf")}
    assert all("é".encode("cp1252") in data for data in pages.values())
    assert sum(len(re.findall(rb"/Type /Page\b", data)) >= 2 for data in pages.values()) >= 4
    assert "€".encode("cp1252") in pages["fiche-perceuse-brossac-18v.pdf"]


def test_only_fictional_numbers_and_reserved_domains_appear() -> None:
    for path in [p for p in SAMPLE.rglob("*") if p.suffix in (".md", ".yaml", ".jsonl", ".html")]:
        text = folded(path.read_text(encoding="utf-8"))
        for phone in re.findall(r"\b0[1-9](?: \d\d){4}\b", text):
            assert phone.startswith(FICTION), f"{phone} in {path.name}"
        for domain in re.findall(r"[\w.-]+@([\w.-]+\w)", text):
            assert domain.endswith(".example") or domain == "2026-11", f"{domain} in {path.name}"


def test_messages_are_labelled_and_no_request_crosses_a_split() -> None:
    messages = lines("messages.jsonl")
    assert len(messages) >= 200
    assert len({m["id"] for m in messages}) == len({m["text"] for m in messages}) == len(messages)
    assert {m["label"] for m in messages} == LABELS
    counts = {split: [m for m in messages if m["split"] == split] for split in ("train", "validation", "test")}
    assert sum(map(len, counts.values())) == len(messages)
    assert len(counts["test"]) >= 50
    assert all({m["label"] for m in part} == LABELS for part in counts.values())
    assert 0.08 <= sum(m["lang"] == "en" for m in messages) / len(messages) <= 0.15
    for group, members in itertools.groupby(sorted(messages, key=lambda m: m["group"]), key=lambda m: m["group"]):
        assert len({(m["split"], m["label"]) for m in members}) == 1, group


def test_no_message_of_one_split_is_nearly_one_of_another() -> None:
    found = [(m["split"], m["text"], shingles(m["text"])) for m in lines("messages.jsonl")]
    for (split, text, mine), (other, near, theirs) in itertools.combinations(found, 2):
        if split != other:
            assert len(mine & theirs) / len(mine | theirs) < 0.3, f"{text!r} ~ {near!r}"


def shingles(text: str) -> set[str]:
    plain = re.sub(r"\W+", " ", text.lower()).strip()
    return {plain[place : place + 5] for place in range(max(1, len(plain) - 4))}


def test_no_message_of_the_classifier_is_a_sample_email() -> None:
    mails = [shingles(seen(message(path.name))) for path in (SAMPLE / "emails").iterdir()]
    for example in lines("messages.jsonl"):
        words = shingles(example["text"])
        if len(words) > 30:
            assert max(len(words & mail) / len(words) for mail in mails) < 0.6, example["id"]


def test_customers_are_distinct_and_their_orders_add_up() -> None:
    customers = lines("customers.jsonl")
    assert len(customers) == len({c["email"] for c in customers}) == 40
    assert {c["tier"] for c in customers} == {"particulier", "fidele", "pro"}
    orders = [order for customer in customers for order in customer["orders"]]
    assert len(orders) == len({order["number"] for order in orders})
    for order in orders:
        total = sum(item["unit_eur"] * item["quantity"] for item in order["items"]) + order["delivery_eur"]
        assert round(total, 2) == order["amount_eur"], order["number"]


def test_the_truth_covers_every_email_and_names_things_that_exist() -> None:
    truth = load("emails.yaml")["emails"]
    assert [t["file"] for t in truth] == sorted(path.name for path in (SAMPLE / "emails").iterdir())
    known = {entry["file"] for entry in load("documents.yaml")["documents"]}
    table = rules.read((SAMPLE / "rules" / "refund-policy@2026-11.yaml").read_text(encoding="utf-8"), "refund-policy")
    tiers = {customer["email"]: customer["tier"] for customer in lines("customers.jsonl")}
    for expected in truth:
        assert {
            "category",
            "may_be",
            "language",
            "routes",
            "documents",
            "facts",
            "forbidden",
            "personal",
            "note",
        } <= set(expected)
        named = {file for any_of in expected["documents"] for file in ([any_of] if isinstance(any_of, str) else any_of)}
        assert named <= known, expected["file"]
        sender = message(expected["file"])["From"].addresses[0].addr_spec
        assert tiers.get(sender, "unknown") == expected["tier"]
        asked = {key: expected[key] for key in ("category", "tier", "amount_eur", "language")}
        decided = rules.decide(table, asked | {"confidence": 0.9, "empty": expected["file"].startswith("12-")})
        assert decided["route"] in expected["routes"], expected["file"]


def test_the_facts_expected_in_an_answer_are_in_the_documents_named() -> None:
    texts = {f"{name}": folded(text).lower() for name, text in sources().items()}
    for expected in load("emails.yaml")["emails"]:
        files = [f for any_of in expected["documents"] for f in ([any_of] if isinstance(any_of, str) else any_of)]
        readable = " ".join(texts[file.rsplit(".", 1)[0]] for file in files)
        for fact in expected["facts"]:
            wordings = [fact] if isinstance(fact, str) else fact
            assert any(wording.lower() in readable for wording in wordings), f"{expected['file']}: {fact}"


def test_the_personal_values_are_really_in_the_messages() -> None:
    for expected in load("emails.yaml")["emails"]:
        mail = message(expected["file"])
        for value in expected["personal"]:
            assert value in seen(mail), f"{expected['file']}: {value!r}"
        for value in expected.get("in_attachment", []):
            attached = next(mail.iter_attachments()).get_content()
            assert value.encode("cp1252") in attached, f"{expected['file']}: {value!r}"


def test_the_emails_travel_in_the_ways_real_ones_do() -> None:
    mails = {path.name[:2]: message(path.name) for path in (SAMPLE / "emails").iterdir()}
    assert all(not mail.defects and mail["Message-ID"] and mail["Date"] for mail in mails.values())
    assert all(b"\n" not in path.read_bytes().replace(b"\r\n", b"") for path in (SAMPLE / "emails").iterdir())
    assert mails["01"].get_content_type() == "text/html"
    assert (mails["02"].get_content_charset(), mails["02"]["Content-Transfer-Encoding"]) == (
        "iso-8859-1",
        "quoted-printable",
    )
    assert mails["03"]["Content-Transfer-Encoding"] == "base64"
    assert [part.get_filename() for part in mails["04"].iter_attachments()] == ["FAC-2026-20871.pdf"]
    assert seen(mails["05"]).count(" a écrit :") == 4 and mails["05"]["In-Reply-To"]
    assert "Consigne du système" in seen(mails["09"])
    assert mails["11"].get_content_type() == "multipart/alternative"
    assert mails["12"].get_content().strip() == ""


def test_the_bank_and_social_security_numbers_have_right_keys() -> None:
    text = seen(message("06-rib-et-numero-de-securite-sociale.eml"))
    account = re.search(r"FR76[ \d]+\d", text)
    person = re.search(r"\b1 48 06 99 999 042 \d\d", text)
    assert account and person
    assert iban.is_valid(account[0]) and nir.is_valid(person[0])
    bank, branch, number, key = re.fullmatch(  # type: ignore[union-attr]  # the shape of every French account
        r"FR\d\d(\d{5})(\d{5})(\d{11})(\d\d)", account[0].replace(" ", "")
    ).groups()
    assert int(key) == 97 - (89 * int(bank) + 15 * int(branch) + 3 * int(number)) % 97


def test_every_row_of_the_decision_table_decides_something() -> None:
    table = rules.read((SAMPLE / "rules" / "refund-policy@2026-11.yaml").read_text(encoding="utf-8"), "refund-policy")
    assert table.reference == "refund-policy@2026-11"
    reached = set()
    for category, confidence, tier, amount, language, empty in itertools.product(
        sorted(LABELS),
        (0.2, 0.9),
        ("particulier", "fidele", "pro", "unknown"),
        (0, 100, 500, 2000),
        ("fr", "other"),
        (False, True),
    ):
        asked: dict[str, JSON] = {"category": category, "confidence": confidence, "tier": tier, "amount_eur": amount}
        asked |= {"language": language, "empty": empty}
        reached.add(str(rules.decide(table, asked)["reason"]))
    never = {str(row.then["reason"]) for row in table.rows} - reached
    assert never == {"cas non prévu"}
