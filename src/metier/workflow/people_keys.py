"""What a human step says about people: who may not decide, how many read it, and to whom it climbs when nobody does."""

from __future__ import annotations

from metier.workflow.forms import assignee, duration, needs, template
from metier.workflow.yaml_source import Node

__all__ = ["PEOPLE_KEYS", "people"]

PEOPLE_KEYS = ("allow_self", "not", "second_reading", "escalate")
_MOST_LEVELS = 10


def people(node: Node, what: str) -> None:
    """Check the keys of a human step that are about people."""
    entries = node.entries
    if "allow_self" in entries and not isinstance(entries["allow_self"].scalar, bool):
        entries["allow_self"].fail(f"{what}.allow_self is {entries['allow_self'].scalar!r}; write true or false")
    if "not" in entries:
        barred = entries["not"]
        for who in barred.list(f"{what}.not") if barred.shape == "list" else (barred,):
            who.text(f"{what}.not")
        template(barred)
    if "second_reading" in entries:
        entries["second_reading"].number(f"{what}.second_reading", 0, 1)
    levels = entries["escalate"].list(f"{what}.escalate") if "escalate" in entries else ()
    if len(levels) > _MOST_LEVELS:
        levels[_MOST_LEVELS].fail(f"{what}.escalate has {len(levels)} levels; {_MOST_LEVELS} at most")
    for level in levels:
        level.only(f"a level of {what}.escalate", ("after", "to"))
        needs(level, f"a level of {what}.escalate", "after", "to")
        duration(level.entries["after"], f"{what}.escalate.after")
        assignee(level.entries["to"], f"{what}.escalate.to")
