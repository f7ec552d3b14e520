"""`metier ask`: a question to a collection, its answer, and exactly what code has checked of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from rich.markup import escape

from metier.app import App, Parts
from metier.calls import JSON, Call, Message, OutputSchema, Receipt
from metier.cli import preparation
from metier.cli.terminal import Terminal, as_json_option, run
from metier.errors import StepFailed
from metier.workflow.steps.citations import check_draft
from metier.workflow.steps.functions import language
from metier.workflow.steps.llm import read_answer

__all__ = ["command"]

_SCHEMA: dict[str, JSON] = {
    "type": "object",
    "properties": {
        "citations": {
            "type": "array",
            "maxItems": 3,
            "items": {
                "type": "object",
                "properties": {"id": {"type": "string"}, "quote": {"type": "string", "maxLength": 240}},
                "required": ["id", "quote"],
                "additionalProperties": False,
            },
        },
        "body": {"type": "string", "maxLength": 900},
    },
    "required": ["citations", "body"],
    "additionalProperties": False,
}
_PROMPT = {
    "fr": "Réponds en français, en trois phrases au plus, uniquement d'après les extraits. Recopie d'abord dans "
    "citations la phrase exacte qui répond, avec l'identifiant de son extrait, puis écris body. Si les extraits ne "
    "répondent pas, laisse citations vide et dis-le.",
    "en": "Answer in English, in three sentences at most, only from the extracts. First copy into citations the exact "
    "sentence that answers, with the identifier of its extract, then write body. If the extracts do not answer, leave "
    "citations empty and say so.",
}
_SAID = {
    "fr": {
        "quotes": "Contrôlé : {verified} citation(s) sur {cited} figurent mot pour mot dans l'extrait nommé.",
        "none": "Contrôlé : la réponse ne cite rien ; rien ne la rattache aux documents.",
        "figures": "Contrôlé : chaque chiffre de la réponse figure dans un extrait cité ou dans la question.",
        "wrong": "Contrôlé : chiffres introuvables dans les extraits cités et dans la question : {figures}.",
        "limit": "Non contrôlé : que les extraits répondent à la question, et que la réponse les ait bien compris. "
        "Lisez les passages.",
    },
    "en": {
        "quotes": "Checked: {verified} of {cited} citations stand word for word in the extract they name.",
        "none": "Checked: the answer cites nothing; nothing ties it to the documents.",
        "figures": "Checked: every figure of the answer stands in a cited extract or in the question.",
        "wrong": "Checked: figures found neither in the cited extracts nor in the question: {figures}.",
        "limit": "Not checked: that the extracts answer the question, and that the answer understood them. "
        "Read the passages.",
    },
}


@click.command()
@click.argument("collection")
@click.argument("question")
@click.option("--top", type=click.IntRange(1, 20), default=4, show_default=True, help="Extracts to answer from.")
@click.option("--search-only", is_flag=True, help="Show the extracts and call no model.")
@preparation.key_option
@as_json_option
def command(collection: str, question: str, top: int, search_only: bool, key: str, as_json: bool) -> None:
    """Ask a collection a question and answer from its documents, with citations.

    Code checks that quotes stand in the extracts they name, and figures in those or in the question. Whether the answer
    is right is for you to read.

    Example: metier ask sav "Combien de jours pour renvoyer un article ?"
    """

    async def work(app: App, terminal: Terminal) -> None:
        principal = await preparation.house(app, key)
        hits = await app.retrieve(principal).search(collection, question, principal.groups, top)
        extracts: list[JSON] = [
            {"id": h.id, "document": h.document, "title": h.path, "text": h.text, "score": round(h.score, 3)}
            for h in hits
        ]
        if search_only or not hits:
            terminal.data({"hits": extracts})
            terminal.table(
                ["extract", "title", "score", "text"], [[h.id, h.path, f"{h.score:.2f}", h.text] for h in hits]
            )
            if not hits:
                terminal.say("No extract that this key may read answers this.")
            return
        detected = language(question)
        spoken = "en" if isinstance(detected, dict) and detected["language"] == "en" else "fr"
        shown = "\n\n".join(f"[{h.id}] {h.path}\n{h.text}" for h in hits)
        call = Call(
            principal,
            app.roles["writer"],
            messages=(Message("system", _PROMPT[spoken]), Message("user", f"{shown}\n\n{question}")),
            output=OutputSchema("answer", _SCHEMA),
            temperature=0.0,
            max_output_tokens=400,
        )
        answer = await app.gateway.collect(call)
        draft = _draft(answer.text)
        checked = check_draft(draft, extracts, [question], spoken)
        _show(terminal, draft, checked if isinstance(checked, dict) else {}, extracts, answer.receipt, spoken)

    run(work, as_json=as_json, parts=Parts(loading=preparation.Loading(Terminal(as_json))))


def _show(
    terminal: Terminal,
    draft: dict[str, Any],
    checked: dict[str, Any],
    extracts: list[JSON],
    receipt: Receipt | None,
    spoken: str,
) -> None:
    good, bad, limit = _verdict(checked, _SAID[spoken])
    said = {"answer": draft, "check": checked, "checked": [*good, *bad], "not_checked": limit}
    terminal.data({**said, "hits": extracts, "receipt": receipt})
    terminal.say(escape(str(draft["body"])))
    for citation in draft["citations"]:
        cited = escape(f"[{citation['id']}] « {citation['quote']} »")
        terminal.say(f"[dim]{cited}[/dim]")
    for colour, lines in (("green", good), ("red", bad)):
        for line in lines:
            terminal.say(f"[{colour}]{escape(line)}[/{colour}]")
    if checked.get("critique"):
        terminal.say(escape(str(checked["critique"])))
    terminal.say(limit)


def _verdict(checked: dict[str, Any], words: Mapping[str, str]) -> tuple[list[str], list[str], str]:
    """Say what was found to hold, what was found wrong, and what nobody has looked at."""
    verified, cited = checked.get("verified", 0), checked.get("cited", 0)
    quotes = words["quotes" if cited else "none"].format(verified=verified, cited=cited)
    lost = dict.fromkeys(f["where"] for f in checked.get("findings", ()) if f["kind"] == "figure unsupported")
    figures = words["wrong"].format(figures=", ".join(lost)) if lost else words["figures"]
    lines = [(quotes, bool(cited) and verified == cited), (figures, not lost)]
    return [line for line, well in lines if well], [line for line, well in lines if not well], words["limit"]


def _draft(text: str) -> dict[str, Any]:
    draft, problem = read_answer(text, _SCHEMA)
    if problem is not None or not isinstance(draft, dict):
        raise StepFailed(f"the model did not answer as it was asked to: {problem}; ask again, or use a larger model")
    return draft
