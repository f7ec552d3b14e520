"""What starts runs of a workflow by itself, as written under `triggers`: read here, run by the room of triggers."""

from __future__ import annotations

from typing import cast

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.forms import condition, template
from metier.workflow.grammar import TRIGGER_KEYS, TRIGGER_KINDS
from metier.workflow.shape import Trigger, TriggerKind
from metier.workflow.yaml_source import Node, suggest

__all__ = ["TRIGGERS_MAX", "triggers"]

TRIGGERS_MAX = 20


def triggers(root: Node) -> tuple[Trigger, ...]:
    """Read the triggers of a workflow; one that is written wrong is refused with its place."""
    node = root.entries.get("triggers")
    if node is None:
        return ()
    items = node.list("triggers")
    if len(items) > TRIGGERS_MAX:
        node.fail(f"more than {TRIGGERS_MAX} triggers; split the workflow")
    return tuple(_trigger(item) for item in items)


def _trigger(item: Node) -> Trigger:
    entries = item.mapping("a trigger")
    for kind in entries:
        if kind not in TRIGGER_KINDS:
            said = f"unknown trigger {kind[:80]!r}{suggest(kind, TRIGGER_KINDS)}"
            if kind in TRIGGER_KEYS and (kinds := [one for one in entries if one in TRIGGER_KINDS]):
                said = f"{kind!r} stands inside {kinds[0]!r}, beside its other options: indent it once more"
            raise Invalid(f"{item.key_marks[kind]}: {said}")
    if len(entries) != 1:
        item.fail(f"a trigger has exactly one kind: {', '.join(TRIGGER_KINDS)}; make each its own entry of the list")
    kind, node = next(iter(entries.items()))
    what = f"the {kind} trigger"
    if node.shape == "scalar" and node.scalar is None:
        return Trigger(cast(TriggerKind, kind), {}, {}, None, None, item.mark)
    parts = node.mapping(what)
    with_: dict[str, JSON] = {}
    for name, value in parts["with"].mapping(f"with of {what}").items() if "with" in parts else ():
        with_[name] = template(value)
    return Trigger(
        kind=cast(TriggerKind, kind),
        config={key: value.data() for key, value in parts.items() if key not in TRIGGER_KEYS},
        with_=with_,
        dedupe=condition(parts["dedupe"], f"dedupe of {what}") if "dedupe" in parts else None,
        when=condition(parts["when"], f"when of {what}") if "when" in parts else None,
        mark=item.mark,
    )
