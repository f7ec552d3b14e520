"""What can be read at one place of a workflow: which steps are there, which may be null, and what is known."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from metier.calls import JSON
from metier.workflow.nulls import ruled_out
from metier.workflow.shape import Mark
from metier.workflow.syntax import Binary, Constant, Name, Node, Select, Unary

__all__ = ["Reason", "Schema", "Seen", "Severity", "View", "known_after", "path_of", "step_id"]

Schema: TypeAlias = Mapping[str, JSON]
"""JSON Schema of a value; an empty one says nothing."""
Severity: TypeAlias = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why the output of a step may be null where it is read."""

    key: str
    """Shared by steps that are null together: proving one of them proves the others."""
    text: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A step as expressions at some place see it."""

    schema: Schema
    reasons: tuple[Reason, ...] = ()
    never: str | None = None
    """Why it is always null there, such as coming later."""
    mark: Mark | None = None
    proves: frozenset[str] = frozenset()
    """What is known where the step is known to have run, such as what its `when` asked."""


@dataclass(frozen=True, slots=True)
class View:
    """Everything an expression may read at one place of a workflow."""

    variables: Mapping[str, Schema]
    steps: Mapping[str, Seen]
    all_ids: frozenset[str] = frozenset()
    """Ids of the whole workflow, to tell a later step from one that does not exist."""
    facts: frozenset[str] = frozenset()
    """Keys of reasons that cannot hold here, paths known to be there, and values known not to be null."""

    racing: Mapping[str, str] = field(default_factory=dict)
    """Steps that run at the same time, in another section of a parallel step, with the id of that step."""

    def knowing(self, facts: frozenset[str]) -> View:
        """Give the same view where more is known."""
        return replace(self, facts=self.facts | facts) if facts else self

    def naming(self, variables: Mapping[str, Schema]) -> View:
        """Give the view in which these names stand for new values, of which nothing is known yet."""
        called = re.compile(rf"(?:some|has) (?:.*[^\w.])?(?:{'|'.join(map(re.escape, variables))})\b", re.DOTALL)
        facts = frozenset(fact for fact in self.facts if called.match(fact) is None)
        return replace(self, variables={**self.variables, **variables}, facts=facts)


def step_id(node: Node) -> str | None:
    """Give x for the expression `steps.x`."""
    if isinstance(node, Select) and not node.test and isinstance(node.target, Name) and node.target.name == "steps":
        return node.field
    return None


def path_of(node: Node) -> str:
    """Write a chain of fields as text, such as `steps.grade.score`; empty for anything else."""
    match node:
        case Name(name=name):
            return name
        case Select(target=target, field=name, test=False) if path := path_of(target):
            return f"{path}.{name}"
    return ""


def known_after(node: Node, view: View) -> tuple[frozenset[str], frozenset[str]]:
    """Say what is known where a condition holds, and where it does not."""
    yes, no = _steps_known(node, view)
    some, others = ruled_out(node)
    return yes | _with_steps(some, view), no | _with_steps(others, view)


def _with_steps(facts: frozenset[str], view: View) -> frozenset[str]:
    """A step whose output is not null has run, and so has what it asked before."""
    found = facts
    for fact in facts:
        way = fact.split(".", 2)
        if way[0] == "some steps" and len(way) == 2:
            found |= _proven(way[1], view)
    return found


def _steps_known(node: Node, view: View) -> tuple[frozenset[str], frozenset[str]]:
    nothing: frozenset[str] = frozenset()
    match node:
        case Binary(operator="&&", left=left, right=right):
            return _steps_known(left, view)[0] | _steps_known(right, view)[0], nothing
        case Binary(operator="||", left=left, right=right):
            return nothing, _steps_known(left, view)[1] | _steps_known(right, view)[1]
        case Unary(operator="!", operand=operand):
            yes, no = _steps_known(operand, view)
            return no, yes
        case Select(test=True, target=target, field=name):
            id = step_id(target)
            return _proven(id, view) | {f"has {path}" for path in _way(f"{path_of(target)}.{name}")}, nothing
        case Binary(operator="==" | "!=", left=left, right=right):
            for side, other in ((left, right), (right, left)):
                id = step_id(side)
                if id is not None and isinstance(other, Constant) and other.value is None:
                    known = _proven(id, view)
                    return (nothing, known) if node.operator == "==" else (known, nothing)
                if node.operator == "==" and isinstance(other, Constant) and other.value is not None:
                    return _read_steps(side, view), nothing
    return nothing, nothing


def _way(path: str) -> Iterator[str]:
    """`has(inputs.order.sum)` also says that inputs.order is there."""
    parts = path.split(".")
    yield from (".".join(parts[:count]) for count in range(2, len(parts) + 1))


def _read_steps(node: Node, view: View) -> frozenset[str]:
    """`steps.x.y == 'a'` can only hold when steps.x is there."""
    if isinstance(node, Select) and (id := step_id(node.target)) is not None:
        return _proven(id, view)
    return frozenset()


def _proven(id: str | None, view: View) -> frozenset[str]:
    seen = view.steps.get(id) if id is not None else None
    return seen.proves.union(reason.key for reason in seen.reasons) if seen is not None else frozenset()
