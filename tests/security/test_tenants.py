"""Organisations × projects × groups, drawn at random: nobody ever reads what another organisation or project stored."""

from __future__ import annotations

import pathlib
import random
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import pytest

from metier.calls import ConversationId, Principal, Reasoning
from metier.errors import Invalid, NotFound
from metier.guardrails.pii.conversations import Conversations
from metier.policy.keys import Scopes
from metier.providers.scripted import ScriptedProvider, says
from metier.store import Store
from metier.workflow.review import Reviewer
from tests.security.house import House, house
from tests.workflow.flows import flow, step

GROUPS: Final = ("sav", "compta", "public")
TURNS: Final = 120


@dataclass(slots=True)
class Held:
    """Everything one key stored, and the word that only it has said."""

    word: str
    responses: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    batches: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)


@pytest.fixture
async def here(store: Store, tmp_path: pathlib.Path) -> AsyncIterator[House]:
    """Two organisations of two projects of two keys each, whose groups have the same names everywhere."""
    provider = ScriptedProvider(
        answer=lambda call: says(f"vu : {call.messages[-1].text[:80]}" if call.messages else "?")
    )
    async with house(tmp_path, store, provider) as made:
        chance = random.Random(7)
        for organisation in ("Nord", "Sud"):
            for project in ("ventes", "achats"):
                for number in range(2):
                    groups = chance.sample(GROUPS, chance.randrange(1, len(GROUPS) + 1))
                    name = f"{organisation} {project} {number}"
                    await made.issue(name, organisation, f"{organisation} {project}", groups=groups)
        yield made


def form(word: str) -> tuple[bytes, bytes]:
    """An upload whose name and content hold a word."""
    line = {"custom_id": word, "method": "POST", "url": "/v1/chat/completions", "body": {
        "model": "petit", "messages": [{"role": "user", "content": word}]
    }}  # fmt: skip
    return (
        b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="' + word.encode() + b'.jsonl"\r\n\r\n'
        + orjson.dumps(line) + b"\r\n--b--\r\n",
        b"multipart/form-data; boundary=b",
    )  # fmt: skip


async def fill(here: House, name: str) -> Held:
    """Store one of each thing with a key."""
    held = Held(f"mot{secrets.token_hex(8)}")
    asked = {"model": "petit", "input": held.word}
    held.responses.append((await here.ask("POST", "/v1/responses", asked, key=name)).json["id"])
    file = await here.ask("POST", "/v1/files", form(held.word), key=name)
    held.files.append(file.json["id"])
    asked = {"endpoint": "/v1/chat/completions", "completion_window": "24h", "input_file_id": held.files[0]}
    made = await here.ask("POST", "/v1/batches", {**asked, "metadata": {"m": held.word}}, key=name)
    held.batches.append(made.json["id"])
    return held


async def test_nobody_reads_what_another_project_stored(here: House) -> None:
    everything = {name: await fill(here, name) for name in here.keys}
    chance = random.Random(20261121)
    own = foreign = 0
    for _ in range(TURNS):
        reader, owner = chance.choice(list(here.keys)), chance.choice(list(here.keys))
        held = everything[owner]
        method, path, body = chance.choice([
            ("GET", f"/v1/responses/{held.responses[0]}", None),
            ("GET", f"/v1/responses/{held.responses[0]}/input_items", None),
            ("POST", "/v1/responses", {"model": "petit", "input": "x", "previous_response_id": held.responses[0]}),
            ("GET", f"/v1/files/{held.files[0]}", None),
            ("GET", f"/v1/files/{held.files[0]}/content", None),
            ("GET", f"/v1/batches/{held.batches[0]}", None),
            ("GET", "/v1/files", None), ("GET", "/v1/batches", None),
            ("GET", f"/v1/files?after={held.files[0]}", None), ("GET", f"/v1/batches?after={held.batches[0]}", None),
            ("POST", "/v1/batches", {
                "endpoint": "/v1/chat/completions", "completion_window": "24h", "input_file_id": held.files[0]
            }),
        ])  # fmt: skip
        answer = await here.ask(method, path, body, key=reader)
        same = here.keys[reader].key.project == here.keys[owner].key.project
        for other, theirs in everything.items():
            if here.keys[other].key.project != here.keys[reader].key.project:
                # What a reader asks for by its name may be repeated to them; what it holds may not.
                assert theirs.word.encode() not in answer.whole, (reader, other, method, path)
        if not same and "after" not in path and path.count("/") > 2:
            assert answer.status == 404, (reader, owner, method, path, answer.status)
            foreign += 1
        own += same and answer.status == 200
    assert own > 10 and foreign > 30


async def test_nobody_deletes_or_cancels_what_another_project_stored(here: House) -> None:
    held = await fill(here, "Nord ventes 0")
    for reader in ("Sud ventes 0", "Nord achats 0"):
        for method, path in (
            ("DELETE", f"/v1/responses/{held.responses[0]}"),
            ("DELETE", f"/v1/files/{held.files[0]}"),
            ("POST", f"/v1/batches/{held.batches[0]}/cancel"),
            ("POST", f"/v1/responses/{held.responses[0]}/cancel"),
        ):
            refused = await here.ask(method, path, {} if method == "POST" else None, key=reader)
            assert refused.status == 404, (reader, method, path, refused.body)
            gone = await here.ask(method, path.replace(path.split("/")[3], "x" * 30), None, key=reader)
            # Whether it is somebody else's or nobody's is not told.
            assert gone.status == refused.status and gone.json["error"]["code"] == refused.json["error"]["code"]
    assert (await here.ask("GET", f"/v1/files/{held.files[0]}", key="Nord ventes 0")).status == 200


async def test_nobody_finds_what_another_organisation_ingested(here: House) -> None:
    """Both have a collection of one name, written by any of their keys; what is found is of one's own alone."""
    people = {name: await here.principal(name) for name in here.keys}
    chance = random.Random(20261121)
    words: dict[str, list[str]] = {"Nord": [], "Sud": []}
    documents: dict[str, list[tuple[str, frozenset[str]]]] = {"Nord": [], "Sud": []}
    for number in range(12):
        writer = chance.choice(list(people))
        ingest = here.app.ingest(people[writer])
        if "fiches" not in {one.name for one in await ingest.collections()}:
            await ingest.create("fiches")
        house, word = writer.split()[0], f"mot{secrets.token_hex(8)}"
        groups = frozenset(chance.sample(GROUPS, chance.randrange(1, len(GROUPS) + 1)))
        await ingest.add("fiches", f"fiche {number}.md", f"La garantie dit {word}.".encode(), groups)
        words[house].append(word)
        documents[house].append((word, groups))
    everything = [*words["Nord"], *words["Sud"]]
    ids = [f"fiche-{number}-1" for number in range(12)]
    found = 0
    for _ in range(TURNS // 2):
        reader = chance.choice(list(people))
        principal, house = people[reader], reader.split()[0]
        may = {word for word, groups in documents[house] if groups & principal.groups}
        retrieve = here.app.retrieve(principal)
        question = chance.choice(["la garantie", f"garantie {chance.choice(everything)}"])
        hits = await retrieve.search("fiches", question, principal.groups, 20)
        cited = await retrieve.extracts("fiches", ids, principal.groups)
        for texts in ([hit.text for hit in hits], [one.text for one in cited]):
            assert {word for word in everything if any(word in text for text in texts)} == may, (reader, question)
        assert len(await retrieve.documents("fiches", principal.groups)) == len(may)
        found += bool(may)
    assert found > 10 and words["Nord"] and words["Sud"]


async def test_placeholders_of_a_conversation_are_not_those_of_another_project(here: House) -> None:
    conversations = here.app.personal_data._conversations
    assert isinstance(conversations, Conversations)
    name = ConversationId("la-meme")
    for key, person in (("Nord ventes 0", "nord@exemple.fr"), ("Sud ventes 0", "sud@exemple.fr")):
        principal = await here.principal(key)
        call = {"model": "petit", "messages": [{"role": "user", "content": f"Écrivez à {person}"}]}
        assert (await here.ask("POST", "/v1/chat/completions", call, key=key)).status == 200
        assert principal.organisation
    north, south = [(await here.principal(key)).project for key in ("Nord ventes 0", "Sud ventes 0")]
    assert north != south
    tables = [await conversations.load(project, name) for project in (north, south)]
    assert tables[0] is not tables[1]


async def test_thoughts_sealed_for_one_project_open_in_no_other(here: House) -> None:
    people = {name: await here.principal(name) for name in here.keys}
    for owner, principal in people.items():
        sealed = here.app.responses.seal(principal, Reasoning("secret"))
        for reader, other in people.items():
            same = (other.organisation, other.project, other.system) == (
                principal.organisation, principal.project, principal.system
            )  # fmt: skip
            if same:
                assert here.app.responses.open(other, sealed).text == "secret"
            else:
                with pytest.raises(Invalid):
                    here.app.responses.open(other, sealed)
                assert owner != reader


async def test_a_task_is_seen_and_decided_within_its_organisation_alone(here: House) -> None:
    config: Any = {"assign": "group:sav", "title": "Relire", "show": []}
    north, south = (
        await here.issue("Nord s", "Nord", "Nord ventes", groups=["sav", "admins"]),
        await here.issue("Sud s", "Sud", "Sud ventes", groups=["sav", "admins"]),
    )
    assert north and south

    def person(principal: Principal) -> Reviewer:
        return Reviewer(principal.name, principal.groups, principal.key_id, principal.organisation)

    people = {name: person(await here.principal(name)) for name in ("Nord s", "Sud s")}
    runs = {}
    for name in people:
        principal = await here.principal(name)
        runs[name] = await here.app.engine.start(flow(step("approve", "human", config)), {"texte": name}, principal)
    await here.app.engine.drain()
    for name, reviewer in people.items():
        other = next(each for each in people if each != name)
        assert [task.run for task in await here.app.review.list(reviewer)] == [runs[name]]
        (theirs,) = await here.app.review.list(people[other])
        for attempt in (
            here.app.review.get(theirs.id, reviewer),
            here.app.review.claim(theirs.id, reviewer),
            here.app.review.hand_off(theirs.id, reviewer, "group:sav", "why"),
            here.app.review.decide(theirs.id, reviewer, {"decision": "done"}),
        ):
            with pytest.raises(NotFound):
                await attempt
    assert {task.run for task in await here.app.review.list()} == set(runs.values())


async def test_the_same_cause_starts_a_run_of_ones_own(here: House) -> None:
    started = []
    for name in ("Nord ventes 0", "Sud ventes 0"):
        principal = await here.principal(name)
        started.append(await here.app.engine.start(flow(step("a")), {}, principal, dedupe="message-1"))
    assert started[0] != started[1], "a run of another organisation was given instead of one's own"


async def test_limits_and_usage_of_one_organisation_say_nothing_of_another(here: House) -> None:
    call = {"model": "petit", "messages": [{"role": "user", "content": "Bonjour"}]}
    for _ in range(3):
        assert (await here.ask("POST", "/v1/chat/completions", call, key="Nord ventes 0")).status == 200
    await here.app.ledger.flush()
    nord = (await here.principal("Nord ventes 0")).project
    sud = (await here.principal("Sud ventes 0")).project
    used = await here.app.records.keys(project=sud)
    assert not used
    assert sum(one.calls for one in await here.app.records.keys(project=nord)) == 3


async def test_a_batch_asks_for_no_more_than_its_key_may(here: House) -> None:
    """A key for batches and embeddings alone cannot reach chats by way of a file."""
    project = here.projects["Nord ventes"]
    right = here.keys["Nord ventes 0"].key
    narrow = Scopes(surfaces=frozenset({"batches", "embeddings"}))
    here.keys["narrow"] = await here.app.keys.issue("narrow", project.id, right.system, "tests", scopes=narrow)
    file = (await here.ask("POST", "/v1/files", form("mot"), key="narrow")).json["id"]
    asked = {"endpoint": "/v1/chat/completions", "completion_window": "24h", "input_file_id": file}
    assert (await here.ask("POST", "/v1/batches", asked, key="narrow")).status == 403
    chat = {"model": "petit", "messages": [{"role": "user", "content": "Bonjour"}]}
    assert (await here.ask("POST", "/v1/chat/completions", chat, key="narrow")).status == 403
