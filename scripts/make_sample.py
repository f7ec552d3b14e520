"""Make the sample company's files from the sources its authors wrote; running it twice gives the same bytes."""

from __future__ import annotations

import argparse
import io
import json
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping
from decimal import ROUND_HALF_UP, Decimal
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

import sample_formats
import yaml

__all__ = ["catalogue", "customers", "documents", "emails", "main", "write"]

SAMPLE = pathlib.Path(__file__).parent.parent / "src" / "metier" / "templates" / "support-reply" / "sample"
CENT = Decimal("0.01")


def source(name: str) -> Any:
    """Read one YAML source by its file name."""
    return yaml.safe_load((SAMPLE / "sources" / name).read_text(encoding="utf-8"))


def catalogue() -> dict[str, dict[str, Any]]:
    """Give the articles by reference, with exact prices."""
    articles = source("catalogue.yaml")["articles"]
    return {a["ref"]: {**a, "price": Decimal(str(a["price"])).quantize(CENT)} for a in articles}


def order(line: str, prices: Mapping[str, Mapping[str, Any]], percent: int) -> dict[str, Any]:
    """Compute one order from its line in the sources: number, date, articles, delivery fee, status."""
    number, date, items, fee, status = (part.strip() for part in line.split("|"))
    wanted = [re.fullmatch(r"(\S+) x(\d+)", item.strip()) for item in items.split(",")]
    bought = [(m[1], int(m[2])) for m in wanted if m]
    if len(bought) != len(wanted):
        raise ValueError(f"order {number!r}: cannot read the articles {items!r}; write them as 'REF xN, REF xN'")
    rows = []
    for ref, quantity in bought:
        unit = (prices[ref]["price"] * (100 - percent) / 100).quantize(CENT, ROUND_HALF_UP)
        rows.append({"ref": ref, "name": prices[ref]["name"], "quantity": quantity, "unit_eur": float(unit)})
    total = sum((Decimal(str(r["unit_eur"])) * r["quantity"] for r in rows), Decimal(fee))
    return {
        "number": number,
        "date": date,
        "items": rows,
        "delivery_eur": float(fee),
        "amount_eur": float(total),
        "status": status,
    }


def customers() -> list[dict[str, Any]]:
    """Compute every customer with the amounts of their orders."""
    prices = catalogue()
    found = []
    for person in source("customers.yaml")["customers"]:
        percent = person.get("percent", 0)
        orders = [order(line, prices, percent) for line in person["orders"]]
        known = {key: str(person[key]) for key in ("email", "name", "phone", "address", "tier", "since")}
        found.append({**known, "discount_percent": percent, "orders": orders})
    return found


def invoice(spec: Mapping[str, str]) -> bytes:
    """Make the invoice a customer attaches to a message, from the order it bills."""
    for person in customers():
        for bought in person["orders"]:
            if bought["number"] == spec["invoice"]:
                return sample_formats.invoice(spec, person, bought)
    raise ValueError(f"invoice {spec['number']!r}: no customer has the order {spec['invoice']!r}")


def email(spec: Mapping[str, Any], mailbox: str) -> bytes:
    """Write one message as the bytes its mail program would have sent."""
    name, address = re.fullmatch(r"(.*) <(.*)>", spec["from"]).groups()  # type: ignore[union-attr]  # ours, always so
    domain, local = address.split("@")[1], address.split("@")[0]
    message = EmailMessage(policy=SMTP)
    message["Return-Path"] = f"<{address}>"
    queue = f"{abs(hash_of(spec['id'])):X}"
    last = f"from mta3.{domain} (mta3.{domain} [192.0.2.{len(local) + 10}]) by mx1.tournevelle.example (Postfix)"
    message["Received"] = f"{last} with ESMTPS id {queue} for <{mailbox}>; {spec['date']}"
    first = f"from poste.{domain} (unknown [198.51.100.{len(domain)}]) by mta3.{domain} with ESMTPSA"
    message["Received"] = f"{first}; {spec['date']}"
    message["Date"] = spec["date"]
    message["From"] = Address(name, local, domain)
    message["To"] = Address("Service client Tournevelle", "service-client", "tournevelle.example")
    message["Subject"] = spec["subject"]
    message["Message-ID"] = f"<{spec['id']}>"
    if "reply_to_id" in spec:
        message["In-Reply-To"] = f"<{spec['reply_to_id']}>"
        earlier = "<sav-4388-1@tournevelle.example> <sav-4388-2@tournevelle.example>"
        message["References"] = f"{earlier} <{spec['reply_to_id']}>"
    if "priority" in spec:
        message["X-Priority"] = spec["priority"]
    how = {"charset": spec["charset"], "cte": spec["transfer"]}
    if "text" in spec:
        message.set_content(spec["text"], **how)
        if "html" in spec:
            message.add_alternative(spec["html"], subtype="html", **how)
    else:
        message.set_content(spec["html"], subtype="html", **how)
    if "attachment" in spec:
        file = spec["attachment"]
        message.add_attachment(invoice(file), maintype="application", subtype="pdf", filename=file["name"])
    if message.is_multipart():
        message.set_boundary(f"=_partie_{spec['file'][:2]}_{abs(hash_of(spec['id'])):x}")
    return message.as_bytes()


def hash_of(text: str) -> int:
    """Give a small number that depends only on the text, where mail programs put a random one."""
    return sum(ord(letter) * (place + 7) ** 3 for place, letter in enumerate(text))


def emails() -> Iterator[tuple[str, bytes]]:
    """Give each sample message with its file name."""
    data = source("emails.yaml")
    for spec in data["emails"]:
        yield spec["file"], email(spec, data["mailbox"])


def documents() -> Iterator[tuple[dict[str, Any], bytes]]:
    """Give each document of the company with its entry in the manifest."""
    for path in sorted((SAMPLE / "sources").glob("*.md")):
        _, head, body = path.read_text(encoding="utf-8").split("---\n", 2)
        about = yaml.safe_load(head)
        entry = {
            "file": f"{path.stem}.{about['format']}",
            "title": about["title"],
            "groups": about["groups"],
            "language": about["language"],
            "updated": str(about["updated"]),
        }
        yield entry, sample_formats.render(entry, body.strip() + "\n", about["format"])
    lists = source("price-lists.yaml")
    shop = source("catalogue.yaml")
    for entry in lists["lists"]:
        sheets = sample_formats.price_sheets(entry, list(catalogue().values()), shop["discounts"], shop["vat_percent"])
        kept = {key: entry[key] for key in ("file", "title", "groups", "language")} | {"updated": str(entry["updated"])}
        yield kept, sample_formats.workbook(sheets, entry["title"])


def write(target: pathlib.Path) -> None:
    """Write every generated file of the sample under `target`."""
    for folder in ("documents", "emails"):
        (target / folder).mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(person, ensure_ascii=False) + "\n" for person in customers()]
    (target / "customers.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
    for file, data in emails():
        (target / "emails" / file).write_bytes(data)
    entries = []
    for entry, data in documents():
        (target / "documents" / entry["file"]).write_bytes(data)
        entries.append(entry)
    out = io.StringIO()
    out.write("# Made by scripts/make_sample.py. groups: who may read the document; public means everybody.\n")
    yaml.safe_dump({"documents": entries}, out, allow_unicode=True, sort_keys=False, width=120)
    (target / "documents.yaml").write_text(out.getvalue(), encoding="utf-8", newline="\n")


def main() -> None:
    """Regenerate the committed sample, or write it elsewhere."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--to", type=pathlib.Path, default=SAMPLE, help="folder to write in (default: the sample itself)"
    )
    target = options.parse_args().to
    write(target)
    sys.stdout.write(f"sample written under {target}\n")


if __name__ == "__main__":
    main()
