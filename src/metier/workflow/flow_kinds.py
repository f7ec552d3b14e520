"""Kinds that decide what runs when: branches, turns, items, sections, waiting, events, other workflows and the end."""

from __future__ import annotations

import datetime
import re

from metier.calls import JSON
from metier.workflow.files import inside_folder
from metier.workflow.forms import EVENT, PINNED, condition, duration, matching, needs, template
from metier.workflow.yaml_source import Node

__all__ = [
    "CALL_KEYS",
    "CONCURRENCY_MAX",
    "EMIT_KEYS",
    "FOREACH_KEYS",
    "ITEMS_MAX",
    "LOOP_KEYS",
    "LOOP_MAX",
    "PARALLEL_KEYS",
    "SECTIONS_MAX",
    "WAIT_KEYS",
    "call",
    "emit",
    "end",
    "foreach",
    "loop",
    "parallel",
    "sections",
    "switch",
    "wait",
]

LOOP_KEYS = ("max", "until", "keep")
FOREACH_KEYS = ("over", "times", "max", "concurrency", "on_item_error", "as", "each", "give")
PARALLEL_KEYS = ("concurrency", "sections")
WAIT_KEYS = ("for", "until", "event", "key")
EMIT_KEYS = ("event", "key")
CALL_KEYS = ("flow",)
LOOP_MAX = 50
ITEMS_MAX = 10_000
"""Items one foreach may have."""
SECTIONS_MAX = 20
CONCURRENCY_MAX = 100
_STATUS = re.compile(r"[a-z][a-z0-9_]{0,39}\Z", re.ASCII)


def loop(node: Node, what: str) -> JSON:
    """Read how often the body of a loop may run, when it stops and which turn is kept."""
    node.only(what, LOOP_KEYS)
    needs(node, what, "max")
    node.entries["max"].whole(f"{what}.max", 1, LOOP_MAX)
    found: dict[str, JSON] = {"max": node.entries["max"].scalar}
    for key in ("until", "keep"):
        if key in node.entries:
            found[key] = condition(node.entries[key], f"{what}.{key}")
    return found


def foreach(node: Node, what: str) -> JSON:
    """Read over what a foreach goes, within which bounds, and what it gives."""
    node.only(what, FOREACH_KEYS)
    entries = node.entries
    if ("over" in entries) == ("times" in entries):
        node.fail(f"{what} needs either 'over' (a list) or 'times' (a number), not both")
    found: dict[str, JSON] = {"max": None, "concurrency": None, "on_item_error": "fail", "as": None}
    if "over" in entries:
        needs(node, f"{what} with over", "max")
        found["over"] = _listed(entries["over"], f"{what}.over")
        found["max"] = entries["max"].whole(f"{what}.max", 1, ITEMS_MAX)
    else:
        if "max" in entries:
            entries["max"].fail(f"{what} with times has no 'max'; times says how many")
        found["times"] = found["max"] = entries["times"].whole(f"{what}.times", 1, ITEMS_MAX)
    if "concurrency" in entries:
        found["concurrency"] = _concurrency(entries["concurrency"], what)
    if "on_item_error" in entries:
        found["on_item_error"] = entries["on_item_error"].one_of(f"{what}.on_item_error", ("fail", "collect"))
    if "as" in entries:
        found["as"] = entries["as"].one_of(f"{what}.as", ("runs", "paths"))
    for key in ("each", "give"):
        if key in entries:
            found[key] = template(entries[key])
    return found


def parallel(node: Node, what: str) -> JSON:
    """Read how many sections run at once; the sections themselves are read by the reader of steps."""
    if node.shape != "mapping":
        return {"concurrency": None}
    node.only(what, PARALLEL_KEYS)
    needs(node, what, "sections")
    return {"concurrency": _concurrency(node.entries["concurrency"], what) if "concurrency" in node.entries else None}


def sections(node: Node, what: str) -> tuple[Node, ...]:
    """Give the sections of a parallel step, however they are written."""
    listed = node.entries["sections"] if node.shape == "mapping" else node
    found = listed.list(what)
    if not 2 <= len(found) <= SECTIONS_MAX:
        listed.fail(f"{what} must hold between 2 and {SECTIONS_MAX} sections, not {len(found)}")
    return found


def switch(node: Node, what: str) -> JSON:
    """Read the conditions; the branches are read by the reader of steps."""
    return [
        {"when": branch.entries["when"].data()} if "when" in branch.entries else {"else": True}
        for branch in node.list(what)
    ]


def wait(node: Node, what: str) -> JSON:
    """Read what is waited for: a length of time, a moment, or an event."""
    node.only(what, WAIT_KEYS)
    entries = node.entries
    if sum(key in entries for key in ("for", "until", "event")) != 1:
        node.fail(f"{what} needs one of 'for' (a length of time), 'until' (a moment) or 'event' (a name)")
    if "event" in entries:
        return _event(node, what)
    if "key" in entries:
        entries["key"].fail(f"{what} has a 'key', which only belongs to an 'event'")
    key = "for" if "for" in entries else "until"
    written = entries[key].text(f"{what}.{key}")
    if "{{" in written:
        return {key: template(entries[key])}
    if key == "for":
        duration(entries[key], f"{what}.for")
    else:
        _moment(entries[key], written, f"{what}.until")
    return {key: written}


def emit(node: Node, what: str) -> JSON:
    """Read which event is told, and for what."""
    node.only(what, EMIT_KEYS)
    needs(node, what, "event")
    return _event(node, what)


def call(node: Node, what: str) -> JSON:
    """Read which workflow is called: a file beside this one, or a released version."""
    node.only(what, CALL_KEYS)
    needs(node, what, "flow")
    flow = node.entries["flow"]
    written = flow.text(f"{what}.flow")
    if "@" in written and not written.endswith((".yaml", ".yml")):
        return {"flow": matching(PINNED, "refund@3 or flows/refund.yaml")(flow, f"{what}.flow")}
    inside_folder(flow, f"{what}.flow")
    if not written.endswith((".yaml", ".yml")):
        flow.fail(f"{what}.flow is {written[:80]!r}; write a file such as flows/refund.yaml, or name@version")
    return {"flow": written}


def end(node: Node, what: str) -> JSON:
    """Read the status a run ends with, and what it gives then."""
    if node.shape == "mapping":
        node.only(what, ("status", "output"))
        needs(node, what, "status")
        status, output = node.entries["status"], node.entries.get("output")
        given = None if output is None else template(output)
    else:
        status, given = node, None
    written = status.text(f"the status of {what}")
    if not _STATUS.match(written):
        status.fail(f"the status of {what} is {written[:80]!r}; write one word in lower case, like escalated")
    return {"status": written, "output": given}


def _event(node: Node, what: str) -> JSON:
    entries = node.entries
    name = matching(EVENT, "payment.received")(entries["event"], f"{what}.event")
    key: JSON = ""
    if "key" in entries:
        entries["key"].text(f"{what}.key")
        key = template(entries["key"])
    return {"event": name, "key": key}


def _listed(node: Node, what: str) -> JSON:
    if node.shape == "mapping" or (node.shape == "scalar" and "{{" not in node.text(what)):
        node.fail(f"{what} must be a list, or an expression that gives one: '{{{{ steps.plan.tasks }}}}'")
    return template(node)


def _concurrency(node: Node, what: str) -> int:
    return node.whole(f"{what}.concurrency", 1, CONCURRENCY_MAX)


def _moment(node: Node, written: str, what: str) -> None:
    try:
        datetime.datetime.fromisoformat(written)
    except ValueError:
        node.fail(f"{what} is {written[:40]!r}; write 2026-10-01T08:30:00Z, or an expression that gives a moment")
