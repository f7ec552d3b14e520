"""Workflows written in Python: calls that emit the same data as the YAML, and the YAML itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import yaml

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.definition import Workflow, parse
from metier.workflow.flow_kinds import FOREACH_KEYS, LOOP_KEYS
from metier.workflow.grammar import ALLOWED, FLOW_KEYS, MODIFIERS, TRIGGER_KINDS
from metier.workflow.kinds import KIND_KEYS
from metier.workflow.yaml_source import is_text, suggest
from metier.workflow.yaml_source import read as read_yaml

__all__ = [
    "Flow",
    "Part",
    "Written",
    "branch",
    "end",
    "flow",
    "foreach",
    "loop",
    "otherwise",
    "parallel",
    "read",
    "section",
    "step",
    "switch",
]


@dataclass(frozen=True, slots=True)
class Written:
    """One step as data, to put into a flow, a branch, a section or a body."""

    data: Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class Part:
    """One branch of a switch or one section of a parallel step, as data."""

    data: Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class Flow:
    """A workflow under construction; every call gives a new one and leaves the old one as it was."""

    head: Mapping[str, JSON]
    """Everything but the steps, triggers and tests, by its key in the file."""
    steps: tuple[Written, ...] = ()
    triggers: tuple[Mapping[str, JSON], ...] = ()
    tests: tuple[Mapping[str, JSON], ...] = field(default=())

    def step(self, id: str, **keys: JSON) -> Flow:
        """Add a step of any kind that holds no other steps; see `step`."""
        return self.add(step(id, **keys))

    def add(self, *steps: Written) -> Flow:
        """Add steps, in order."""
        return replace(self, steps=(*self.steps, *steps))

    def trigger(self, kind: str, **keys: JSON) -> Flow:
        """Add what starts it by itself."""
        if kind not in TRIGGER_KINDS:
            raise Invalid(f"cannot add the trigger {kind!r}: there is none{suggest(kind, TRIGGER_KINDS)}")
        return replace(self, triggers=(*self.triggers, {kind: _named(keys)}))

    def test(self, name: str, **keys: JSON) -> Flow:
        """Add a test: inputs, mock and expect."""
        return replace(self, tests=(*self.tests, {"name": name, **_named(keys)}))

    def data(self) -> dict[str, JSON]:
        """Give the whole definition as plain JSON, in the order of a file."""
        parts: dict[str, JSON] = dict(self.head)
        if self.triggers:
            parts["triggers"] = [dict(trigger) for trigger in self.triggers]
        parts["steps"] = _listed(self.steps)
        if self.tests:
            parts["tests"] = [dict(test) for test in self.tests]
        return {key: parts[key] for key in FLOW_KEYS if key in parts}

    def source(self) -> str:
        """Write it as the YAML a person could have written; reading that gives the same workflow."""
        try:
            return yaml.dump(_plain(self.data()), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
        except (yaml.YAMLError, RecursionError) as wrong:
            raise Invalid(f"cannot write the workflow {self.head.get('flow')!r} as YAML: {wrong}") from wrong

    def workflow(self, files: Mapping[str, str] | None = None) -> Workflow:
        """Read it as a workflow; `files` are the prompts, tables and workflows it names."""
        return parse(self.source(), files or {})


def flow(name: str, **keys: JSON) -> Flow:
    """Begin a workflow; keys are those of the file, such as inputs, budget, defaults and output."""
    taken = _named(keys)
    for key in taken:
        if key not in FLOW_KEYS or key in ("flow", "schema", "steps", "triggers", "tests"):
            known = [one for one in FLOW_KEYS if one not in ("flow", "schema", "steps", "triggers", "tests")]
            raise Invalid(f"cannot begin the workflow {name!r}: unknown key {key!r}{suggest(key, known)}")
    return Flow({"flow": name, "schema": 1, **taken})


def step(id: str, **keys: JSON) -> Written:
    """Write a step: one kind, and modifiers; words of Python take an underscore, as in `with_`."""
    named = _named(keys)
    kinds = [key for key in named if key in KIND_KEYS]
    if len(kinds) != 1:
        raise Invalid(f"cannot write the step {id!r}: it needs exactly one kind, and has {', '.join(kinds) or 'none'}")
    return _step(id, kinds[0], named)


def loop(id: str, *steps: Written, **keys: JSON) -> Written:
    """Write steps that are repeated until a condition holds; needs `max`."""
    return _body(id, "loop", LOOP_KEYS, steps, keys)


def foreach(id: str, *steps: Written, **keys: JSON) -> Written:
    """Write steps that run for every item of a list (`over` and `max`), or so many `times`."""
    return _body(id, "foreach", FOREACH_KEYS, steps, keys)


def switch(id: str, *branches: Part, **keys: JSON) -> Written:
    """Write branches of which the first that holds is taken."""
    return _step(id, "switch", {"switch": [dict(one.data) for one in branches], **_named(keys)})


def branch(when: str, *steps: Written) -> Part:
    """Write one way out of a switch."""
    return Part({"when": when, "steps": _listed(steps)})


def otherwise(*steps: Written) -> Part:
    """Write the way out of a switch that is taken when no other is."""
    return Part({"else": _listed(steps)})


def parallel(id: str, *sections: Part, concurrency: int | None = None, **keys: JSON) -> Written:
    """Write sections that run at the same time."""
    listed: list[JSON] = [dict(one.data) for one in sections]
    config: JSON = listed if concurrency is None else {"concurrency": concurrency, "sections": listed}
    return _step(id, "parallel", {"parallel": config, **_named(keys)})


def section(name: str, *steps: Written) -> Part:
    """Write one section of a parallel step."""
    return Part({"name": name, "steps": _listed(steps)})


def end(status: str, *, output: JSON = None, when: str | None = None, id: str | None = None) -> Written:
    """Write the end of the run."""
    config: JSON = status if output is None else {"status": status, "output": output}
    named: dict[str, JSON] = {} if id is None else {"id": id}
    return Written({**named, **({} if when is None else {"when": when}), "end": config})


def read(text: str) -> Flow:
    """Take up a workflow written as YAML, to go on with it in Python."""
    root = read_yaml(text, "flow.yaml")
    root.only("a workflow", FLOW_KEYS)
    data = {key: value.data() for key, value in root.entries.items()}
    parts = {key: data.pop(key, None) for key in ("steps", "triggers", "tests")}
    for key, value in parts.items():
        if value is not None and not (isinstance(value, list) and all(isinstance(one, dict) for one in value)):
            raise Invalid(f"cannot take up the workflow: {key!r} must be a list of mappings")
    return Flow(
        data,
        tuple(Written(one) for one in _mappings(parts["steps"])),
        _mappings(parts["triggers"]),
        _mappings(parts["tests"]),
    )


def _mappings(value: JSON) -> tuple[dict[str, JSON], ...]:
    return tuple(one for one in value if isinstance(one, dict)) if isinstance(value, list) else ()


def _body(
    id: str, kind: str, config_keys: tuple[str, ...], steps: tuple[Written, ...], keys: Mapping[str, JSON]
) -> Written:
    named = _named(keys)
    config: dict[str, JSON] = {key: named.pop(key) for key in config_keys if key in named}
    return _step(id, kind, {kind: config, **named, "steps": _listed(steps)})


def _step(id: str, kind: str, named: Mapping[str, JSON]) -> Written:
    known = (kind, *ALLOWED[kind])
    for key in named:
        if key not in known:
            what = "does not belong to" if key in MODIFIERS else "is unknown to"
            raise Invalid(f"cannot write the step {id!r}: {key!r} {what} a {kind} step{suggest(key, known)}")
    return Written({"id": id, **named})


def _listed(steps: tuple[Written, ...]) -> list[JSON]:
    for one in steps:
        if not isinstance(one, Written):
            raise Invalid(
                f"cannot add {one!r}: it is no step; write step(…), switch(…), end(…) and the like, one by one"
            )
    return [dict(one.data) for one in steps]


def _named(keys: Mapping[str, JSON]) -> dict[str, JSON]:
    return {key.removesuffix("_"): value for key, value in keys.items()}


def _plain(data: JSON) -> JSON:
    """Make sure that nothing but JSON is written, and copy it, so that YAML sees no part twice."""
    try:
        copied: JSON = json.loads(json.dumps(data, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as wrong:
        raise Invalid(f"cannot write the workflow as YAML: it holds what is not JSON: {wrong}") from wrong
    return copied


_BREAKS: Final = frozenset("\x85\u2028\u2029")
"""Line breaks to YAML, which folds them unless they are escaped."""


class _Dumper(yaml.SafeDumper):
    """Writes texts so that our reader takes them for texts again."""

    def ignore_aliases(self, data: object) -> bool:
        """Write everything where it stands."""
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    lines = "\n" in value and "\r" not in value and not value.isspace()
    style = '"' if _BREAKS & set(value) else "|" if lines else None if is_text(value) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
