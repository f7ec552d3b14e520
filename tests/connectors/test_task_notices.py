"""Notices of tasks: whom they reach, what they say, how many there are, and that each leaves once."""

from __future__ import annotations

import asyncio
import email
import email.policy
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from email.message import EmailMessage
from typing import Any

import pytest

from metier.calls import JSON
from metier.connectors.deliveries import Deliveries
from metier.connectors.people import people
from metier.connectors.smtp import Smtp
from metier.connectors.task_notices import TaskNotices
from metier.errors import ConfigError, Conflict
from metier.store import Store
from metier.vault import Vault
from metier.workflow.engine import Engine
from metier.workflow.review import Review, Reviewer, Task, TaskDesk
from tests.connectors.mailserver import Server, serving
from tests.sealing import found, own, proven
from tests.workflow.flows import WHO, Counting, Ticking, flow, step

ZOE = Reviewer("zoe", frozenset({"sav"}), "key_z", "main")
MAX = Reviewer("max", frozenset({"sav"}), "key_m", "main")
PEOPLE: dict[str, Any] = {
    "zoe": {"email": "zoe@exemple.fr", "groups": ["sav"]},
    "max": {"email": "max@exemple.fr", "groups": ["sav"], "lang": "en"},
    "eve": {"email": "eve@exemple.fr", "groups": ["compta"]},
    "key_1": {"email": "robot@exemple.fr", "groups": ["sav"]},
    "far": {"email": "far@exemple.fr", "groups": ["sav"], "organisation": "other"},
}
SECTION: dict[str, Any] = {"url": "https://metier.exemple.fr/", "people": PEOPLE}
_LINK = re.compile(r"https://metier\.exemple\.fr/review/links/(\S+)")


@dataclass
class Office:
    """An engine with a desk, and a mail server that people read their e-mails from."""

    engine: Engine
    review: Review
    notices: TaskNotices
    deliveries: Deliveries
    server: Server
    clock: Ticking
    carrier: Any
    seen: int = 0
    groups: dict[str, str] = field(default_factory=dict)

    async def park(self, **more: JSON) -> Task:
        config: JSON = {"assign": "group:sav", "title": "Valider la réponse\nà M. Petit", "edit": "steps.draft", **more}
        run = await self.engine.start(flow(step("draft"), step("ask", "human", config)), {}, WHO)
        await self.engine.drain()
        (task,) = await self.review.list(run=run)
        return task

    async def news(self) -> dict[str, EmailMessage]:
        """Send what is new, and give it by who got it; two to one person is told apart by their order."""
        await self.notices.once()
        found = [
            email.message_from_string(text, policy=email.policy.default) for text in self.server.taken[self.seen :]
        ]
        self.seen = len(self.server.taken)
        assert all(isinstance(one, EmailMessage) for one in found)
        names = [str(one["To"]).partition("@")[0] for one in found]
        assert len(names) == len(set(names)), names
        return dict(zip(names, found, strict=True))


@asynccontextmanager
async def office(store: Store, vault: Vault, *answers: str, **section: Any) -> AsyncIterator[Office]:
    server, clock = Server(*answers), Ticking()
    async with serving(server) as account:
        engine = Engine(store, vault, {"code": Counting()}, desk=TaskDesk(store, vault, clock=clock), clock=clock)
        review = Review(store, vault, engine, clock=clock)
        notices = TaskNotices(store, vault, review, clock=clock)
        carrier = (Smtp(account), "Métier <metier@exemple.fr>")
        notices.use(notices.read({**SECTION, **section}, carrier, "fr"), carrier)
        deliveries = Deliveries(store, vault, engine, review, clock=clock)
        yield Office(engine, review, notices, deliveries, server, clock, carrier)


def text(message: EmailMessage) -> str:
    return str(message.get_content())


async def test_those_who_may_decide_hear_of_a_task_in_their_language_with_a_link_that_works_once(
    store: Store, vault: Vault
) -> None:
    async with office(store, vault) as at:
        task = await at.park(due="1d")
        letters = await at.news()
        # Who started the run may not decide it; another group and another organisation hear nothing.
        assert set(letters) == {"zoe", "max"}
        # Python 3.13.0 writes the space twice where it folds a line before an encoded word.
        subject = letters["zoe"]["Subject"].replace("  ", " ")
        assert subject == "[Métier] Une tâche vous attend : Valider la réponse à M. Petit"
        assert letters["max"]["Subject"] == "[Métier] A task waits for you: Valider la réponse à M. Petit"
        assert letters["zoe"]["Auto-Submitted"] == "auto-generated"
        assert "Pour le groupe sav." in text(letters["zoe"])
        assert "À rendre avant le" in text(letters["zoe"])
        assert "draft" not in text(letters["zoe"])
        (token,) = _LINK.findall(text(letters["zoe"]))
        link = await at.review.links.use(token)
        assert (link.person, link.task) == ("zoe", task.id)
        with pytest.raises(Conflict):
            await at.review.links.use(token)
        assert await at.news() == {}


async def test_comments_hand_offs_and_reminders_are_told_but_not_to_who_made_them(store: Store, vault: Vault) -> None:
    async with office(store, vault) as at:
        task = await at.park(remind=["1h"], escalate=[{"after": "3h", "to": "group:compta"}])
        await at.news()
        await at.review.comment(task.id, MAX, "Le numéro de compte est 4711")
        letters = await at.news()
        assert set(letters) == {"zoe"}
        assert letters["zoe"]["Subject"] == "[Métier] max a commenté une tâche : Valider la réponse à M. Petit"
        assert "4711" not in text(letters["zoe"])
        await at.review.claim(task.id, ZOE)
        at.clock.forward(3700)
        await at.review.sweep()
        letters = await at.news()
        assert set(letters) == {"zoe"}, "a task that somebody has in hand is theirs to be reminded of"
        assert letters["zoe"]["Subject"].startswith("[Métier] Rappel")
        at.clock.forward(2 * 3600)
        await at.review.sweep()
        letters = await at.news()
        assert set(letters) == {"eve"}
        assert "remontée" in letters["eve"]["Subject"]
        await at.review.hand_off(task.id, Reviewer("eve", frozenset({"compta"}), "k", "main"), "user:max", "à toi")
        letters = await at.news()
        assert set(letters) == {"max"}
        assert letters["max"]["Subject"].startswith("[Métier] eve handed a task to you")


async def test_who_stands_in_hears_of_it_too(store: Store, vault: Vault) -> None:
    async with office(store, vault) as at:
        now = at.clock()
        eve = Reviewer("eve", frozenset({"compta"}), "key_e", "main")
        await at.review.absences.declare(ZOE, now, now + timedelta(days=2), "user:eve")
        await at.park(assign="user:zoe")
        letters = await at.news()
        assert set(letters) == {"zoe", "eve"}
        (token,) = _LINK.findall(text(letters["eve"]))
        link = await at.review.links.use(token)
        await at.review.decide(link.task, link.reviewer, {"decision": "approve"})
        assert eve.name == link.person


async def test_beyond_a_few_letters_the_rest_is_told_in_one_and_titles_may_stay_at_home(
    store: Store, vault: Vault
) -> None:
    async with office(store, vault, letters=2, titles=False) as at:
        for _ in range(2):
            await at.park()
            letters = await at.news()
            assert letters["zoe"]["Subject"] == "[Métier] Une tâche vous attend"
            assert "Petit" not in text(letters["zoe"])
        for _ in range(3):
            await at.park()
        letters = await at.news()
        assert letters["max"]["Subject"] == "[Métier] 3 news of your tasks"
        assert len(_LINK.findall(text(letters["max"]))) == 3
        await at.park()
        assert await at.news() == {}, "one letter of several in ten minutes, then quiet"
        at.clock.forward(601)
        assert set(await at.news()) == {"zoe", "max"}


async def test_a_task_that_was_decided_meanwhile_is_told_to_nobody(store: Store, vault: Vault) -> None:
    async with office(store, vault) as at:
        task = await at.park()
        await at.review.decide(task.id, ZOE, {"decision": "approve"})
        assert await at.news() == {}


@pytest.mark.parametrize("answer", ["451 later", "421 busy"])
async def test_a_server_that_refuses_for_now_gets_the_same_letter_later(
    store: Store, vault: Vault, answer: str
) -> None:
    async with office(store, vault, answer, people={"zoe": PEOPLE["zoe"]}) as at:
        await at.park()
        assert await at.news() == {}
        assert await at.news() == {}, "not at once"
        at.clock.forward(31)
        assert set(await at.news()) == {"zoe"}


@pytest.mark.parametrize("answer", ["cut", "250 then cut", "550 no such person"])
async def test_a_letter_in_doubt_or_refused_for_good_is_not_sent_again_and_bothers_nobody(
    store: Store, vault: Vault, answer: str
) -> None:
    async with office(store, vault, answer, people={"zoe": PEOPLE["zoe"]}) as at:
        await at.park()
        await at.notices.once()
        for _ in range(3):
            at.clock.forward(4000)
            await at.notices.once()
        assert len(at.server.taken) == (1 if answer == "250 then cut" else 0)
        assert await at.deliveries.list() == ()


async def test_many_workers_send_each_letter_once(store: Store, vault: Vault) -> None:
    async with office(store, vault, letters=20) as at:
        for _ in range(4):
            await at.park()
        others = []
        for _ in range(3):
            other = TaskNotices(store, vault, at.review, clock=at.clock)
            other.use(other.read({**SECTION, "letters": 20}, at.carrier, "fr"), at.carrier)
            others.append(other)
        await asyncio.gather(*(one.once() for one in (at.notices, *others)))
        await at.notices.once()
        ids = [email.message_from_string(one)["Message-ID"] for one in at.server.taken]
        assert len(ids) == len(set(ids)) == 8


async def test_a_letter_is_sealed_for_the_organisation_of_whoever_gets_it(store: Store, vault: Vault) -> None:
    await own(store, WHO.project, "other")
    async with office(store, vault) as at:
        await at.park()
        assert set(await at.news()) == {"far"}
    ((content, key),) = await found(store, "outbox", "content", "key")
    assert b"far@exemple.fr" in proven(vault, "other", "outbox", content, key)


async def test_a_house_that_names_nobody_keeps_nothing_for_later(store: Store, vault: Vault) -> None:
    async with office(store, vault, people={}) as at:
        await at.park()
        assert await at.news() == {}
        at.notices.use(people(SECTION, "fr"), at.carrier)
        assert await at.news() == {}


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ([], None),
        ("zoe", "takes"),
        ({"persons": {}}, "takes"),
        ({"people": ["zoe"]}, "takes names"),
        ({"people": {"zoe": {"email": "zoe"}}, "url": "https://a"}, "email"),
        ({"people": {"zoe": {"email": "z@e", "groups": "sav"}}, "url": "https://a"}, "groups"),
        ({"people": {"zoe": {"email": "z@e", "lang": "de"}}, "url": "https://a"}, "lang"),
        ({"people": {"zoe": {"email": "z@e", "phone": "1"}}, "url": "https://a"}, "takes"),
        ({"people": {"zoe": {"email": "z@e"}}}, "url"),
        ({"people": {"zoe": {"email": "z@e"}}, "url": "http://metier.exemple.fr"}, "url"),
        ({"people": {"zoe": {"email": "z@e"}}, "url": "https://me:secret@metier.exemple.fr"}, "url"),
        ({"letters": 0}, "letters"),
        ({"titles": "yes"}, "titles"),
    ],
)
def test_a_section_that_is_wrong_says_where(section: object, said: str | None) -> None:
    if said is None:
        assert not people(section, "fr").known
        return
    with pytest.raises(ConfigError, match=said):
        people(section, "fr")


def test_people_without_a_mail_server_are_refused() -> None:
    with pytest.raises(ConfigError, match="METIER_SMTP_URL"):
        TaskNotices.read(SECTION, (None, None), "fr")
