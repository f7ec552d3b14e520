"""From the YAML of a workflow to its data: every mistake with its place, as many as can be found at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeVar, cast

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow import flow_kinds
from metier.workflow.forms import ID, condition, duration, needs, template
from metier.workflow.grammar import (
    ALLOWED,
    BODIES,
    DEFAULT_KEYS,
    FLOW_KEYS,
    INHERITING,
    MODIFIERS,
    NESTING_MAX,
    RESERVED,
    RETRIES_MAX,
    STEPS_MAX,
    TEST_KEYS,
)
from metier.workflow.kinds import KIND_KEYS, READERS
from metier.workflow.quantities import euros
from metier.workflow.shape import (
    Backoff,
    Branch,
    Expectation,
    FlowTest,
    Kind,
    Mark,
    OnError,
    OnExceed,
    Retry,
    RunBudget,
    Step,
    Then,
)
from metier.workflow.shorthand import expand_fields
from metier.workflow.yaml_source import Node, suggest

__all__ = ["Reader"]

_PROBLEMS_MAX = 20
_FLOW = re.compile(r"[a-z][a-z0-9-]{0,62}\Z", re.ASCII)
_PART = r"[a-z][a-z0-9_]*(?:#[1-9][0-9]?|\[[0-9]{1,5}\])?"
_PATH = re.compile(rf"{_PART}(?:\.{_PART}){{0,17}}\Z", re.ASCII)
_Read = TypeVar("_Read")


@dataclass(slots=True)
class Reader:
    """Reads one workflow; what is wrong in one step does not hide what is wrong in the next."""

    problems: list[str] = field(default_factory=list)
    ids: dict[str, Mark] = field(default_factory=dict)
    defaults: Mapping[str, Node] = field(default_factory=dict)

    def collect(self, read: Callable[[], _Read]) -> _Read | None:
        """Read one part, keeping its mistake for later instead of stopping at it."""
        try:
            return read()
        except Invalid as wrong:
            self.problems.append(wrong.message)
            return None

    def conclude(self) -> None:
        """Raise everything that was found wrong, one line each."""
        if self.problems:
            shown = self.problems[:_PROBLEMS_MAX]
            more = len(self.problems) - len(shown)
            raise Invalid("\n".join([*shown, *([f"… and {more} more"] if more else [])]))

    def name(self, root: Node) -> str:
        """Read the head of the file: its keys, the version of the language and the name."""
        root.only("a workflow", FLOW_KEYS)
        for key in ("flow", "schema", "steps"):
            if key not in root.entries:
                root.fail(f"a workflow needs {key!r}")
        if root.entries["schema"].scalar != 1:
            root.entries["schema"].fail(
                f"schema must be 1, not {root.entries['schema'].scalar!r}; this version reads 1"
            )
        name = root.entries["flow"].text("flow")
        if not _FLOW.match(name):
            root.entries["flow"].fail(f"flow is {name[:80]!r}; a name is lower case letters, digits and '-'")
        if "defaults" in root.entries:
            node = root.entries["defaults"]
            node.only("defaults", DEFAULT_KEYS)
            self.defaults = node.entries
        return name

    def inputs(self, root: Node) -> dict[str, JSON]:
        """Read the schema of the inputs; without one the workflow takes none."""
        node = root.entries.get("inputs")
        if node is None:
            return {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
        schema = expand_fields(node, "inputs")
        if schema.get("type") != "object":
            node.fail("inputs must be named fields, such as {email: string}")
        return schema

    def budget(self, root: Node) -> RunBudget | None:
        """Read what one run may spend."""
        node = root.entries.get("budget")
        if node is None:
            return None
        node.only("budget", ("per_run_eur", "on_exceed"))
        if "per_run_eur" not in node.entries:
            node.fail("budget needs 'per_run_eur'")
        exceed = (
            node.entries["on_exceed"].one_of("on_exceed", ("fail", "human")) if "on_exceed" in node.entries else "fail"
        )
        return RunBudget(self._money(node.entries["per_run_eur"], "per_run_eur"), cast(OnExceed, exceed))

    def steps(self, node: Node, what: str, depth: int = 0) -> tuple[Step, ...]:
        """Read a list of steps, nested ones too."""
        if depth > NESTING_MAX:
            node.fail(f"more than {NESTING_MAX} loops, switches and the like inside one another")
        items = node.list(what)
        if not items:
            node.fail(f"{what} must hold at least one step")
        found: list[Step] = []
        for item in items:
            step = self.collect(lambda item=item: self._step(item, depth))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            if step is not None:
                found.append(step)
        return tuple(found)

    def tests(self, root: Node) -> tuple[FlowTest, ...]:
        """Read the tests that live beside the steps."""
        found: list[FlowTest] = []
        for node in root.entries["tests"].list("tests") if "tests" in root.entries else ():
            test = self.collect(lambda node=node: self._test(node))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            if test is not None and any(test.name == other.name for other in found):
                self.problems.append(f"{test.mark}: two tests are named {test.name!r}")
            elif test is not None:
                found.append(test)
        return tuple(found)

    def _step(self, node: Node, depth: int) -> Step:
        kind = self._kind(node)
        id = self._id(node, kind)
        what = f"step {id!r}"
        node.only(what, ("id", kind, *ALLOWED[kind]))
        if len(self.ids) > STEPS_MAX:
            node.fail(f"more than {STEPS_MAX} steps; split the workflow")
        entries = node.entries
        config = READERS[kind](entries[kind], f"{kind} of {what}")
        branches: tuple[Branch, ...] = ()
        if kind == "switch":
            branches = self._branches(entries[kind], what, depth)
        elif kind == "parallel":
            branches = self._sections(entries[kind], what, depth)
            self._not_ended(branches)
        body: tuple[Step, ...] = ()
        if kind in BODIES:
            if "steps" not in entries:
                node.fail(f"{what} is a {kind} and needs 'steps'")
            body = self.steps(entries["steps"], f"steps of {what}", depth + 1)
        inherits: Mapping[str, Node] = self.defaults if kind in INHERITING else {}
        timeout = entries.get("timeout", inherits.get("timeout"))
        return Step(
            id=id,
            kind=kind,
            config=config,
            mark=node.mark,
            when=condition(entries["when"], f"when of {what}") if "when" in entries else None,
            with_=self._with(entries, kind, what),
            output=self._output(entries, kind, what),
            retry=self._retry(entries, inherits, what),
            timeout_s=None if timeout is None else duration(timeout, f"timeout of {what}"),
            on_error=self._on_error(entries.get("on_error", inherits.get("on_error")), what),
            budget_eur=self._money(entries["budget"], f"budget of {what}") if "budget" in entries else None,
            cache_s=duration(entries["cache"], f"cache of {what}") if "cache" in entries else None,
            mock=entries["mock"].data() if "mock" in entries else None,
            steps=body,
            branches=branches,
            marks=dict(node.marks()),
        )

    def _kind(self, node: Node) -> Kind:
        entries = node.mapping("a step")
        kinds = [key for key in entries if key in KIND_KEYS]
        if len(kinds) == 1:
            return cast(Kind, kinds[0])
        if kinds:
            node.fail(
                f"a step has exactly one kind; this one has {' and '.join(map(repr, kinds))}; "
                f"make it {len(kinds)} steps"
            )
        for strange in [key for key in entries if key not in ("id", "steps", *MODIFIERS)][:1]:
            raise Invalid(f"{node.key_marks[strange]}: unknown kind {strange[:80]!r}{suggest(strange, KIND_KEYS)}")
        return node.fail(f"a step needs one kind: {', '.join(KIND_KEYS)}")

    def _id(self, node: Node, kind: str) -> str:
        if "id" not in node.entries:
            if kind != "end":
                node.fail(f"a step needs 'id' (only 'end' can go without); this is a {kind} step")
            id = next(name for number in range(1, STEPS_MAX + 2) if (name := f"end_{number}") not in self.ids)
            mark = node.mark
        else:
            given = node.entries["id"]
            id, mark = given.text("id"), given.mark
            if not ID.match(id):
                given.fail(f"id is {id[:80]!r}; an id is lower case letters, digits and '_'")
            if id in RESERVED:
                given.fail(f"id {id!r} is a word of expressions; choose another")
            if id in self.ids:
                given.fail(
                    f"id {id!r} is here twice; the first is at {self.ids[id]}; ids are unique in the whole workflow"
                )
        self.ids[id] = mark
        return id

    def _with(self, entries: Mapping[str, Node], kind: str, what: str) -> dict[str, JSON]:
        found: dict[str, JSON] = {}
        if "with" in entries:
            for key, value in entries["with"].mapping(f"with of {what}").items():
                if not ID.match(key.lower()):
                    value.fail(f"with of {what} has the name {key[:80]!r}; a name is letters, digits and '_'")
                found[key] = template(value)
        if kind == "retrieve":
            # The question is data that enters the step, so it is evaluated with the rest of `with`.
            found.setdefault("query", entries[kind].entries["query"].data())
        elif kind == "agent" and "conversation" in entries[kind].entries:
            found.setdefault("conversation", entries[kind].entries["conversation"].data())
        return found

    def _output(self, entries: Mapping[str, Node], kind: str, what: str) -> dict[str, JSON] | None:
        if "output" in entries:
            return expand_fields(entries["output"], f"output of {what}")
        if kind == "human":
            return {
                "type": "object",
                "properties": {"decision": {"enum": ["approve", "reject"]}, "edited": {}},
                "required": ["decision"],
            }
        return None

    def _retry(self, entries: Mapping[str, Node], inherits: Mapping[str, Node], what: str) -> Retry | None:
        node = entries.get("retry", inherits.get("retry"))
        if node is None:
            return None
        what = f"retry of {what}"
        if node.shape == "scalar":
            return Retry(node.whole(what, 0, RETRIES_MAX), "exponential", 1.0)
        node.only(what, ("max", "backoff", "first"))
        if "max" not in node.entries:
            node.fail(f"{what} needs 'max'")
        backoff = (
            node.entries["backoff"].one_of(f"{what}.backoff", ("exponential", "constant"))
            if "backoff" in node.entries
            else "exponential"
        )
        first = duration(node.entries["first"], f"{what}.first") if "first" in node.entries else 1.0
        return Retry(node.entries["max"].whole(f"{what}.max", 0, RETRIES_MAX), cast(Backoff, backoff), first)

    def _on_error(self, node: Node | None, what: str) -> OnError | None:
        if node is None:
            return None
        what = f"on_error of {what}"
        if node.shape == "scalar":
            return OnError(None, cast(Then, node.one_of(what, ("fail", "continue"))))
        node.only(what, ("output", "then", "assign"))
        entries = node.entries
        then = (
            entries["then"].one_of(f"{what}.then", ("fail", "continue", "human")) if "then" in entries else "continue"
        )
        if "output" in entries and then != "continue":
            node.fail(f"{what} has an output, which only 'then: continue' uses")
        if ("assign" in entries) != (then == "human"):
            node.fail(f"{what} needs 'assign: group:…' with 'then: human', and only there")
        assign = entries["assign"].text(f"{what}.assign") if "assign" in entries else None
        if assign is not None and not re.match(r"(?:group|user):\S+\Z", assign):
            entries["assign"].fail(f"{what}.assign is {assign[:80]!r}; write group:<name> or user:<name>")
        return OnError(entries["output"].data() if "output" in entries else None, cast(Then, then), assign)

    def _branches(self, node: Node, what: str, depth: int) -> tuple[Branch, ...]:
        found: list[Branch] = []
        items = node.list(f"switch of {what}")
        if not items:
            node.fail(f"switch of {what} must hold at least one branch")
        for item in items:
            last = "else" in item.mapping(f"a branch of {what}")
            item.only(f"a branch of {what}", ("else",) if last else ("when", "steps"))
            if found and found[-1].when is None:
                item.fail(f"a branch after 'else' in {what} is never taken; move it before")
            for key in () if last else ("when", "steps"):
                if key not in item.entries:
                    item.fail(f"a branch of {what} needs {key!r}; the last one may be {{else: [steps]}}")
            steps = self.steps(item.entries["else" if last else "steps"], f"a branch of {what}", depth + 1)
            when = None if last else condition(item.entries["when"], f"when of a branch of {what}")
            found.append(Branch(when, steps, item.mark))
        return tuple(found)

    def _sections(self, node: Node, what: str, depth: int) -> tuple[Branch, ...]:
        found: list[Branch] = []
        for item in flow_kinds.sections(node, f"parallel of {what}"):
            whose = f"a section of {what}"
            item.only(whose, ("name", "steps"))
            needs(item, whose, "name", "steps")
            name = item.entries["name"].text(f"the name of {whose}")
            if not ID.match(name):
                item.entries["name"].fail(
                    f"the name of {whose} is {name[:80]!r}; a name is lower case letters, digits and '_'"
                )
            if any(name == other.name for other in found):
                item.entries["name"].fail(f"two sections of {what} are named {name!r}")
            steps = self.steps(item.entries["steps"], f"section {name!r} of {what}", depth + 1)
            found.append(Branch(None, steps, item.mark, name))
        return tuple(found)

    def _not_ended(self, branches: tuple[Branch, ...]) -> None:
        """Refuse an end among sections that run at once: which of them came first would decide the run."""
        pending = [step for branch in branches for step in branch.steps]
        while pending:
            step = pending.pop()
            if step.kind == "end":
                self.problems.append(
                    f"{step.mark}: an end inside a section would end the run while others go on; "
                    "let a step give what is found, and end after the parallel step"
                )
            elif step.kind != "foreach":
                pending.extend((*step.steps, *(inner for branch in step.branches for inner in branch.steps)))

    def _money(self, node: Node, what: str) -> Decimal:
        try:
            return euros(node.scalar)
        except Invalid as wrong:
            node.fail(f"{what}: {wrong.message}")

    def _test(self, node: Node) -> FlowTest:
        node.only("a test", TEST_KEYS)
        entries = node.entries
        for key in ("name", "expect"):
            if key not in entries:
                node.fail(f"a test needs {key!r}")
        name = entries["name"].text("the name of a test")
        mock = entries["mock"].mapping("mock") if "mock" in entries else {}
        for path, value in mock.items():
            if not _PATH.match(path):
                value.fail(f"mock of test {name!r} has {path[:80]!r}; write the path of a step, such as refine#1.grade")
        return FlowTest(
            name=name,
            inputs={key: value.data() for key, value in entries["inputs"].mapping("inputs").items()}
            if "inputs" in entries
            else {},
            mock={path: value.data() for path, value in mock.items()},
            expect=tuple(
                Expectation(condition(wanted, f"expect of test {name!r}"), wanted.mark)
                for wanted in entries["expect"].list("expect")
            ),
            mark=node.mark,
        )
