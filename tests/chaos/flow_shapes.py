"""The shapes of workflows that the chaos matrix kills: each with a model, effects outside, and what it must come to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from metier.calls import JSON
from metier.workflow.definition import Workflow, parse

__all__ = ["AGENT_TURNS", "SHAPES", "Shape", "said"]

Start = Literal["call", "folder", "mailbox"]
AGENT_TURNS: tuple[tuple[tuple[str, str], ...], ...] = ((("shop_book", "a"), ("shop_book", "b")), (("shop_ship", "c"),))
"""The tools an agent asks for, turn by turn, and what for; then it answers."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One flow of the matrix, and what an undisturbed run of it gives and leaves outside."""

    name: str
    flow: dict[str, Any]
    output: JSON
    asks: int
    """Calls of the model."""
    effects: int
    """Effects at the HTTP server."""
    mails: int = 0
    runs: int = 1
    """Runs, with those below."""
    start: Start = "call"
    files: tuple[tuple[str, str], ...] = ()

    def workflow(self, triggers: list[Any] | None = None) -> Workflow:
        """Read it as a file would be read."""
        files = {"prompts/ask.md": "RUN={{ run }} ASK={{ ask }}.", "agents/desk.md": "Work.", **dict(self.files)}
        written = {**self.flow, **({} if triggers is None else {"triggers": triggers})}
        return parse(json.dumps(written), files)


def said(ask: str) -> JSON:
    """What the model says to a question; always the same."""
    word, _, rest = ask.partition(" ")
    known: dict[str, JSON] = {
        "classify": {"kind": "refund"},
        "plan": {"tasks": ["a", "b"]},
        "vote": {"vote": "no" if rest == "1" else "yes"},
        "grade": {"score": 5 if rest == "1" else 9},
    }
    return known.get(word, {"v": ask})


def _llm(id: str, ask: str | None = None, **output: object) -> dict[str, Any]:
    with_ = {"run": "{{ run.id }}", "ask": ask or id}
    return {"id": id, "llm": {"model": "writer", "prompt": "prompts/ask.md"}, "with": with_,
            "output": output or {"v": "string"}}  # fmt: skip


def _book(id: str, what: str) -> dict[str, Any]:
    return {"id": id, "tool": "shop.book", "with": {"run": "{{ run.id }}", "what": what}}


def _flow(name: str, steps: list[Any], output: JSON, **more: Any) -> dict[str, Any]:
    return {"flow": name, "schema": 1, **more, "steps": steps, "output": output}


_MAIL = {
    "id": "send", "tool": "email.send",
    "with": {"to": "ana@exemple.fr", "subject": "RUN={{ run.id }}", "body": "{{ steps.write.v }}"},
}  # fmt: skip
_CHILD = _flow("child", [_llm("inner", "inner {{ inputs.x }}"), _book("below", "below")], "{{ steps.inner.v }}",
               inputs={"x": "string"})  # fmt: skip
_HUMAN = {"assign": "group:sav", "title": "Bon ?", "show": ["steps.write.v"]}


def _triggered(name: str) -> dict[str, Any]:
    steps = [_llm("read", "read {{ inputs.text }}"), _book("note", "note {{ inputs.text }}")]
    return _flow(name, steps, "{{ steps.read.v }}", inputs={"text": "string"})


SHAPES = (
    Shape("chaining", _flow("chaining", [_llm("read"), _book("book", "{{ steps.read.v }}"), _llm("write"), _MAIL],
                            "{{ steps.write.v }}"), "write", 2, 1, 1),
    Shape("routing", _flow("routing", [
        _llm("classify", kind={"enum": ["refund", "other"]}),
        {"id": "way", "switch": [
            {"when": "steps.classify.kind == 'refund'", "steps": [_llm("refund"), _book("pay", "pay")]},
            {"else": [_book("none", "none")]}]}],
        "{{ steps.refund.v }}"), "refund", 2, 1),
    Shape("sections", _flow("sections", [
        {"id": "all", "parallel": [
            {"name": name, "steps": [_llm(f"look_{name}"), _book(f"book_{name}", name)]} for name in ("a", "b", "c")]}],
        "{{ [steps.look_a.v, steps.look_b.v, steps.look_c.v] }}"), ["look_a", "look_b", "look_c"], 3, 3),
    Shape("voting", _flow("voting", [
        {"id": "votes", "foreach": {"times": 3, "as": "paths", "each": "{{ steps.vote.vote }}",
                                    "give": "{{ majority(items) }}"},
         "steps": [_llm("vote", "vote {{ index }}", vote={"enum": ["yes", "no"]})]}, _book("won", "{{ steps.votes }}")],
        "{{ steps.votes }}"), "yes", 3, 1),
    Shape("orchestrator", _flow("orchestrator", [
        _llm("plan", tasks="string[]"),
        {"id": "work", "foreach": {"over": "{{ steps.plan.tasks }}", "max": 5, "concurrency": 2, "as": "runs",
                                   "each": "{{ steps.do.v }}", "give": "{{ items }}"},
         "steps": [_llm("do", "do {{ item }}"), _book("book", "{{ item }}")]}, _llm("join")],
        "{{ steps.work }}"), ["do a", "do b"], 4, 2, 0, 3),
    Shape("evaluator", _flow("evaluator", [
        {"id": "refine", "loop": {"max": 3, "until": "steps.grade.score >= 8", "keep": "steps.grade.score"},
         "steps": [_llm("draft", "draft {{ loop.turn }}"), _llm("grade", "grade {{ loop.turn }}", score="integer")]},
        _book("book", "{{ steps.draft.v }}")], "{{ steps.draft.v }}"), "draft 2", 4, 1),
    Shape("agent", _flow("agent", [
        {"id": "desk", "agent": {"instructions": "agents/desk.md", "model": "writer", "tools": ["shop.*"],
                                 "approve": ["shop.ship"], "max_turns": 6, "assign": "group:sav"},
         "with": {"message": "RUN={{ run.id }} ASK=turn."}, "output": {"v": "string"}}],
        "{{ steps.desk.v }}"), "Done.", 3, 3),
    Shape("human", _flow("human", [
        _llm("write"), {"id": "ask", "human": _HUMAN, "output": {"decision": {"enum": ["approve", "reject"]}}},
        _book("book", "{{ steps.ask.decision }}")], "{{ steps.ask.decision }}"), "approve", 1, 1),
    Shape("wait and event", _flow("waiting", [
        _llm("before"), {"id": "pause", "wait": {"for": "1s"}},
        {"id": "go", "wait": {"event": "go", "key": "{{ run.id }}"}}, _book("book", "{{ steps.go.data.said }}"),
        {"id": "tell", "emit": {"event": "gone", "key": "{{ run.id }}"}, "with": {"n": 1}}],
        "{{ steps.go.data.said }}"), "now", 1, 1),
    Shape("call", _flow("calling", [
        _llm("before"), {"id": "sub", "call": {"flow": "child.yaml"}, "with": {"x": "{{ steps.before.v }}"}},
        _book("book", "{{ steps.sub }}")], "{{ steps.sub }}"), "inner before", 2, 2, 0, 2,
        files=(("child.yaml", json.dumps(_CHILD)),)),
    Shape("folder trigger", _triggered("by-folder"), ["read 0", "read 1"], 2, 2, 0, 2, "folder"),
    Shape("mailbox trigger", _triggered("by-mail"), ["read 0", "read 1"], 2, 2, 0, 2, "mailbox"),
)  # fmt: skip
