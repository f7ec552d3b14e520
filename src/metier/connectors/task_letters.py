"""What e-mails say about tasks, in French and English: what happened, for whom, and a link; nothing of the contents."""

from __future__ import annotations

import email.message
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from metier.connectors.letters import compose
from metier.connectors.people import Colleague, People
from metier.workflow.tasks import EventKind, Task

__all__ = ["News", "letter"]

_TITLE_MOST = 120
_LISTED = 20

_WORDS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "fr": {
            "opened": "Une tâche vous attend",
            "commented": "{by} a commenté une tâche",
            "handed_off": "{by} vous confie une tâche",
            "reminded": "Rappel : une tâche attend toujours",
            "reassigned": "Une tâche en retard vous est confiée",
            "escalated": "Une tâche que personne n’a tranchée vous est remontée",
            "somebody": "Quelqu’un",
            "hello": "Bonjour {name},",
            "title": "« {title} »",
            "for_group": "Pour le groupe {name}.",
            "for_user": "Pour {name}.",
            "due": "À rendre avant le {due}.",
            "moment": "%d/%m/%Y à %H:%M",
            "named": "{what} : {title}",
            "link": "Ouvrir la tâche :",
            "rule": "Ce lien est à vous seul : il sert une fois, pendant trois jours. Ne le transférez pas.",
            "all": "Toutes vos tâches : {url}",
            "digest": "{count} nouvelles de vos tâches",
            "more": "… et {count} autres tâches.",
        },
        "en": {
            "opened": "A task waits for you",
            "commented": "{by} commented on a task",
            "handed_off": "{by} handed a task to you",
            "reminded": "Reminder: a task still waits",
            "reassigned": "A late task is yours now",
            "escalated": "A task nobody decided has been escalated to you",
            "somebody": "Somebody",
            "hello": "Hello {name},",
            "title": "“{title}”",
            "for_group": "For the group {name}.",
            "for_user": "For {name}.",
            "due": "Due by {due}.",
            "moment": "%Y-%m-%d %H:%M",
            "named": "{what}: {title}",
            "link": "Open the task:",
            "rule": "This link is for you alone: it works once, within three days. Do not forward it.",
            "all": "All your tasks: {url}",
            "digest": "{count} news of your tasks",
            "more": "… and {count} more tasks.",
        },
    }
)


@dataclass(frozen=True, slots=True)
class News:
    """What happened to one task, with the link that opens it for one person."""

    task: Task
    kind: EventKind
    by: str | None
    """Name of who did it; None for the platform."""
    link: str
    """Path and token; empty where there is no room for another one."""


def letter(sender: str, to: Colleague, people: People, news: Sequence[News], count: int) -> email.message.EmailMessage:
    """Write the e-mail that tells one person what happened; `count` is how many events it stands for."""
    words = _WORDS[to.lang]
    subject, said = _one(words, people, news[0]) if len(news) == 1 else _several(words, people, news, count)
    closing = [words["rule"], "", words["all"].format(url=f"{people.url}/review")]
    body = "\n".join([words["hello"].format(name=to.name), "", *said, "", *closing, ""])
    message = compose(sender, to.email, f"[Métier] {subject}", body)
    message.replace_header("Auto-Submitted", "auto-generated")
    return message


def _one(words: Mapping[str, str], people: People, one: News) -> tuple[str, list[str]]:
    kind, _, name = one.task.assignee.partition(":")
    said = [f"{_what(words, one)}.", ""]
    if people.titles:
        said.append(words["title"].format(title=_title(one.task)))
    said.append(words["for_group" if kind == "group" else "for_user"].format(name=name))
    if one.task.due_at is not None:
        said.append(words["due"].format(due=one.task.due_at.astimezone().strftime(words["moment"])))
    said += ["", words["link"], f"{people.url}{one.link}", ""]
    return _named(words, people, one), said


def _several(words: Mapping[str, str], people: People, news: Sequence[News], count: int) -> tuple[str, list[str]]:
    subject = words["digest"].format(count=count)
    said = [f"{subject}.", ""]
    for one in news[:_LISTED]:
        said.append(f"- {_named(words, people, one)}")
        if one.link:
            said.append(f"  {people.url}{one.link}")
    if len(news) > _LISTED:
        said.append(words["more"].format(count=len(news) - _LISTED))
    return subject, [*said, ""]


def _what(words: Mapping[str, str], one: News) -> str:
    return words[one.kind].format(by=one.by or words["somebody"])


def _named(words: Mapping[str, str], people: People, one: News) -> str:
    what = _what(words, one)
    return words["named"].format(what=what, title=_title(one.task)) if people.titles else what


def _title(task: Task) -> str:
    """On one line and not longer than a subject should be."""
    plain = " ".join(task.title.split())
    return plain if len(plain) <= _TITLE_MOST else f"{plain[: _TITLE_MOST - 1]}…"
