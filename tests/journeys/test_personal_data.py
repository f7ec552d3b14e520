"""Personal data of real e-mails never leaves in the bytes given to a provider, and comes back in the draft."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg import sql

from metier.calls import Call
from metier.cli.emails import inputs_of
from metier.providers.scripted import Script, gives
from metier.store import Store
from tests.journeys.company import company, drafting, mail, numbered, sent, truth, wrote

PLACEHOLDER = re.compile(r"\[\[[A-Z_]+_\d+[a-z]?\]\]")


def folded(text: str) -> str:
    """One spelling for spaces and case; JSON escapes are not in the way."""
    return " ".join(text.replace("\\n", " ").split()).casefold()


def personal(number: int) -> Iterator[str]:
    """What must be masked of an e-mail and of the file attached to it."""
    (entry,) = (entry for name, entry in truth().items() if name.startswith(f"{number:02}-"))
    yield from entry["personal"]
    yield from entry.get("in_attachment", [])


def repeats(call: Call) -> Script:
    """A writer who answers whom the first placeholder stands for, then says every one it was shown, and a judge."""
    if not drafting(call):
        return gives({"critique": "aucun", "grounded": True, "score": 9})
    shown = [*dict.fromkeys(PLACEHOLDER.findall(call.messages[-1].content))]
    number, sentence = next((n, text.rpartition("] ")[2]) for n, text in numbered(call).items() if len(text) > 60)
    # Words that no document says are taken out of a letter: the name stands inside a sentence that one says.
    told = [f"{''.join(shown[:1])}, {sentence}"[:320], f"Vous avez écrit : {' '.join(shown)}."[:320]]
    return gives({"answers": [{"question": 1, "sentences": [number], "answer": answer} for answer in told]})


@pytest.mark.parametrize("number", range(1, 12))
async def test_no_personal_value_reaches_a_provider(store: Store, tmp_path: pathlib.Path, number: int) -> None:
    _, inputs = inputs_of(mail(number))
    received = folded(f"{inputs['text']} {inputs['attachments']} {inputs['subject']}")
    async with company(store.url, tmp_path, repeats) as c:
        run = await c.receive(number)
        if number == 10:
            assert c.provider.calls == [], "no document answers a formal notice: a person does, and no model sees it"
            task = await c.task(run)
            for value in personal(number):
                assert folded(value) not in received or folded(value) in folded(
                    json.dumps(task.show, ensure_ascii=False)
                )
            await c.decide(run, {"decision": "taken", "note": ""})
            assert (await c.run(run)).outcome == "escalated" and sent(c.mailbox) == [] and c.provider.calls == []
            return
        assert len(c.provider.calls) >= 2
        given = folded(" ".join(map(wrote, c.provider.calls)))
        for value in personal(number):
            assert folded(value) not in given, f"{value!r} was shown to the model"
        shown = PLACEHOLDER.findall(next(filter(drafting, c.provider.calls)).messages[-1].content)
        values: Any = await c.values(run)
        drafted = json.dumps(values["refine#1.draft"], ensure_ascii=False)
        said = {value for value in personal(number) if folded(value) in received}
        assert shown and said and any(folded(value) in folded(drafted) for value in said), "the draft has them again"
        await c.decide(run, {"decision": "approve"})
        [letter] = sent(c.mailbox)
        body = letter.get_content()
        assert not PLACEHOLDER.search(body) and not PLACEHOLDER.search(str(letter["subject"]))
        assert any(folded(value) in folded(body) for value in said), "what is sent has them again"
        assert letter["to"] == inputs["from"]


async def test_an_empty_message_shows_nothing_to_a_model(store: Store, tmp_path: pathlib.Path) -> None:
    async with company(store.url, tmp_path, repeats) as c:
        await c.receive(12)
        assert c.provider.calls == []


async def test_the_tables_hold_no_personal_value_in_clear(store: Store, tmp_path: pathlib.Path) -> None:
    """Runs, journal, tasks, calls, pseudonyms, outbox: whatever is kept of an e-mail is sealed."""
    async with company(store.url, tmp_path, repeats) as c:
        run = await c.receive(6)
        await c.decide(run, {"decision": "approve"})
        await c.app.ledger.flush()
    async with store.connection() as connection:
        found = await connection.execute("SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'")
        tables = [row["name"] for row in await found.fetchall()]
        assert {"runs", "journal", "tasks", "calls", "outbox", "pseudonyms"} <= {*tables}
        for table in tables:
            query = sql.SQL("SELECT t::text AS line FROM {} t").format(sql.Identifier(table))
            rows = await (await connection.execute(query)).fetchall()
            for value in personal(6):
                kept = [row["line"] for row in rows if value in row["line"] or value.encode().hex() in row["line"]]
                assert not kept, f"{table} keeps {value!r} in clear"
    assert not [
        path for path in tmp_path.rglob("*") if path.is_file() and "sent" not in path.parts
        and any(value.encode() in path.read_bytes() for value in personal(6))
    ], "neither do the files of the house"  # fmt: skip
