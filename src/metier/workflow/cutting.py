"""What of a journal still holds when a run is done again from a step, or with another definition; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from metier.calls import JSON
from metier.errors import Invalid, NotFound
from metier.workflow.commands import ASK_BUDGET, BEGAN, CHILD, GATHERED, MARKS, Entry, Key
from metier.workflow.definition import Step, Workflow
from metier.workflow.interpreter import Walk
from metier.workflow.pinned import hashed
from metier.workflow.yaml_source import suggest

__all__ = ["Cut", "cut", "reused", "with_models"]

_INSIDE = (".", "#", "[")
_NUMBER = re.compile(r"#\d+$|\[\d+\]$")
_READING = ("llm", "agent", "rules", "model", "tool", "code", "call", "human")
"""Kinds whose steps may read files of the workflow that their own words do not name."""
_OUTWARD = ("tool", "emit", "call", "human", "agent", "foreach")
"""Kinds whose steps may do something outside the run."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The lines of a journal in two: those that hold, and those that do not."""

    kept: tuple[Entry, ...]
    aside: tuple[Entry, ...]
    reached: frozenset[str]
    """Paths that are asked for with the lines that hold; what is to be done first is among them."""
    first: tuple[str, ...]
    """What is done first, by path."""
    outward: tuple[str, ...]
    """Paths that are done again and may do something outside."""

    @property
    def kept_eur(self) -> float:
        """What the lines that hold have cost, and need not cost again."""
        return float(sum(entry.cost_eur for entry in self.kept if _counts(entry)))

    @property
    def kept_calls(self) -> int:
        """Calls that need not be made again."""
        return sum(entry.calls for entry in self.kept if _counts(entry))

    @property
    def holding(self) -> tuple[str, ...]:
        """Paths of the steps whose lines hold, each once."""
        return tuple(dict.fromkeys(entry.path for entry in self.kept if not entry.path.startswith(MARKS)))

    @property
    def redone(self) -> tuple[str, ...]:
        """Paths of the steps whose lines do not hold, each once."""
        return tuple(dict.fromkeys(entry.path for entry in self.aside if not entry.path.startswith(MARKS)))


def cut(
    workflow: Workflow,
    inputs: Mapping[str, JSON],
    entries: Mapping[Key, Entry],
    path: str,
    run: Mapping[str, JSON] | None = None,
) -> Cut:
    """Set aside a step and all that came of it; what other branches did at the same time holds."""
    known = {entry.path for entry in entries.values() if not entry.path.startswith(MARKS)}
    if not any(one == path or _inside(one, path) for one in known):
        raise NotFound(f"the run has done nothing at {path[:200]!r}{suggest(path[:200], sorted(known))}")
    # What surrounds the step came to its end after it, and is found out again.
    held = {
        key: entry
        for key, entry in entries.items()
        if entry.path != path and not _inside(entry.path, path) and not _inside(path, entry.path)
    }
    return _split(workflow, inputs, entries, held, run)


def reused(
    old: Workflow,
    new: Workflow,
    inputs: Mapping[str, JSON],
    entries: Mapping[Key, Entry],
    run: Mapping[str, JSON] | None = None,
) -> Cut:
    """Say what of the journal of a run holds for another definition: steps before the first one that is different."""
    same = _same(old, new)
    over = {(e.path, e.attempt) for e in entries.values() if e.name in ("", GATHERED)}
    held = {
        key: entry
        for key, entry in entries.items()
        if not entry.path.startswith(MARKS)
        and entry.name != ASK_BUDGET  # what people lent was for the money that run had spent
        and (not entry.name.startswith((BEGAN, CHILD)) or (entry.path, entry.attempt) in over)
        and all(step in same for step in _steps(entry.path, old))
    }
    return _split(new, inputs, entries, held, run)


def with_models(workflow: Workflow, models: Mapping[str, str]) -> Workflow:
    """Make the same workflow with other models, or roles, in the place of some."""
    used = {name for step in workflow.walk() for name in _models(step.config)}
    for name in models:
        if name not in used:
            raise Invalid(f"no step of {workflow.name!r} uses the model {name!r}{suggest(name, sorted(used))}")
    made = replace(workflow, steps=tuple(_changed(step, models) for step in workflow.steps), source="")
    return replace(made, hash=hashed(made))


def _split(
    workflow: Workflow,
    inputs: Mapping[str, JSON],
    entries: Mapping[Key, Entry],
    held: dict[Key, Entry],
    run: Mapping[str, JSON] | None,
) -> Cut:
    walk = Walk(workflow, inputs, dict(held), run)
    first = tuple(getattr(command, "path", "") for command in walk.frontier())
    reached = walk.reached
    kept = {key for key, entry in held.items() if entry.path in reached or entry.path.startswith(MARKS)}
    aside = tuple(entry for key, entry in entries.items() if key not in kept)
    kinds = {step.id: step.kind for step in workflow.walk()}
    outward = dict.fromkeys(
        entry.path
        for entry in aside
        if kinds.get(_bare(entry.path.rsplit(".", 1)[-1])) in _OUTWARD and not entry.path.startswith(MARKS)
    )
    return Cut(
        kept=tuple(entry for key, entry in entries.items() if key in kept),
        aside=aside,
        reached=reached,
        first=tuple(path for path in first if path),
        outward=tuple(outward),
    )


def _counts(entry: Entry) -> bool:
    """Whether the money of a line is told by no other line."""
    return entry.name in ("", GATHERED) and not entry.path.startswith(MARKS)


def _inside(path: str, outer: str) -> bool:
    return path.startswith(tuple(outer + sign for sign in _INSIDE))


def _bare(part: str) -> str:
    return _NUMBER.sub("", part)


def _steps(path: str, workflow: Workflow) -> list[str]:
    """Give the ids of the steps a path goes through; names of sections are none."""
    return [part for part in map(_bare, path.split(".")) if workflow.step(part) is not None]


def _same(old: Workflow, new: Workflow) -> frozenset[str]:
    """Give the ids of steps that are the same in both, and so are the steps around them."""
    files = {name for name in {*old.files, *new.files} if old.files.get(name) != new.files.get(name)}
    written = [repr((step.config, step.with_)) for flow in (old, new) for step in flow.walk()]
    loose = any(not any(name in text for text in written) for name in files)
    before = {step.id: (_signature(step), around) for step, around in _placed(old.steps)}
    found: set[str] = set()
    for step, around in _placed(new.steps):
        reads = any(name in repr((step.config, step.with_)) for name in files)
        if (
            before.get(step.id) == (_signature(step), around)
            and not reads
            and not (loose and step.kind in _READING)
            and all(outer in found for outer in around)
        ):
            found.add(step.id)
    return frozenset(found)


def _placed(steps: Iterable[Step], around: tuple[str, ...] = ()) -> Iterable[tuple[Step, tuple[str, ...]]]:
    for step in steps:
        yield step, around
        for body in (step.steps, *(branch.steps for branch in step.branches)):
            yield from _placed(body, (*around, step.id))


def _signature(step: Step) -> object:
    ways = [(branch.name, branch.when) for branch in step.branches]
    return (step.kind, step.config, step.when, dict(step.with_), step.output, step.on_error, ways)


def _models(config: JSON) -> list[str]:
    if isinstance(config, list):
        return [name for one in config for name in _models(one)]
    if not isinstance(config, dict):
        return []
    own = [config["model"]] if isinstance(config.get("model"), str) else []
    return [str(name) for name in own] + [name for one in config.values() for name in _models(one)]


def _changed(step: Step, models: Mapping[str, str]) -> Step:
    return replace(
        step,
        config=_mapped(step.config, models) if step.kind in ("llm", "agent") else step.config,
        steps=tuple(_changed(one, models) for one in step.steps),
        branches=tuple(
            replace(branch, steps=tuple(_changed(one, models) for one in branch.steps)) for branch in step.branches
        ),
    )


def _mapped(config: JSON, models: Mapping[str, str]) -> JSON:
    if isinstance(config, list):
        return [_mapped(one, models) for one in config]
    if not isinstance(config, dict):
        return config
    made: dict[str, Any] = {key: _mapped(value, models) for key, value in config.items()}
    if isinstance(made.get("model"), str):
        made["model"] = models.get(made["model"], made["model"])
    return made
