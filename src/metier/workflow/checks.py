"""The checks of one step or one test of a workflow, each writing what it finds into the same report."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from metier.calls import JSON
from metier.deferred import deferred
from metier.errors import Invalid, MetierError, NotFound
from metier.workflow import rules
from metier.workflow.bundle import prompts_of
from metier.workflow.cel import expressions_in, parse, pieces, texts_in
from metier.workflow.files import language_of
from metier.workflow.inference import give
from metier.workflow.nulls import EVERYTHING
from metier.workflow.schema_types import alike, types_of, words
from metier.workflow.shape import FlowTest, Mark, Step, Trigger, Workflow
from metier.workflow.shorthand import conform
from metier.workflow.step_outputs import gives
from metier.workflow.tables import gaps
from metier.workflow.view import Schema, Seen, Severity, View
from metier.workflow.yaml_source import placed, suggest

if TYPE_CHECKING:
    from metier.workflow import prompts
else:
    prompts = deferred("metier.workflow.prompts")

__all__ = [
    "Finding",
    "Known",
    "Report",
    "check_given",
    "check_late",
    "check_prompt",
    "check_replacements",
    "check_rules",
    "check_test",
]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong or doubtful in a workflow, for a person or an editor."""

    file: str
    line: int
    column: int
    code: str
    """Stable name of the kind of finding, such as `unknown-field`."""
    message: str
    suggestion: str
    severity: Severity

    def __str__(self) -> str:
        hint = f"; {self.suggestion}" if self.suggestion else ""
        return f"{self.file}:{self.line}:{self.column}: {self.severity}: {self.message}{hint} [{self.code}]"


@dataclass(frozen=True, slots=True)
class Known:
    """Names the platform knows, to check references against; None leaves that kind unchecked."""

    models: Collection[str] | None = None
    """Models and roles an `llm` step may name."""
    house: Collection[str] | None = None
    """Models and roles of the metier.yaml at hand: another name is only a warning, as flows are run elsewhere too."""
    classifiers: Collection[str] | None = None
    """Pinned references of `model` steps, such as `intent@3`."""
    rules: Collection[str] | None = None
    """Pinned references of decision tables that do not lie beside the workflow."""
    collections: Collection[str] | None = None
    tools: Collection[str] | None = None
    code: Collection[str] | None = None
    agent_tools: Collection[str] | None = None
    """Tools an agent may be given; None where some come from servers that are only known when it runs."""
    flows: Collection[str] | None = None
    """Pinned references of released workflows, such as `refund@3`."""
    trigger: Callable[[Trigger], str | None] | None = None
    """Says what is wrong with what a trigger needs of its kind, such as a mailbox."""


@dataclass(slots=True)
class Report:
    """What has been found so far in one workflow, and what it is checked against."""

    workflow: Workflow
    known: Known
    all_ids: frozenset[str]
    findings: list[Finding] = field(default_factory=list)
    given: dict[str, Schema] = field(default_factory=dict)
    """What steps give, where only checking them could tell: items of a foreach, output of a called workflow."""

    def gives(self, step: Step) -> Schema:
        """Find the schema of what a step gives, as far as it is known by now."""
        return self.given[step.id] if step.id in self.given else gives(step, self.workflow)

    def say(self, mark: Mark, code: str, message: str, suggestion: str = "", severity: Severity = "error") -> None:
        """Write down one finding."""
        self.findings.append(
            Finding(mark.file, mark.line, mark.column, code, message, suggestion.removeprefix("; "), severity)
        )

    def fault(self, mark: Mark, code: str, message: str) -> None:
        """Write down what is wrong in a file the workflow names, at its place in that file where it has one."""
        found = placed(message)
        self.say(*((found[0], code, *found[1:]) if found else (mark, code, message)))

    def reference(self, step: Step, path: str, name: str, among: Collection[str] | None, what: str) -> None:
        """Check a name against those the platform knows, where it says which there are."""
        if among is not None and name not in among and not any(_beneath(name, one) for one in among):
            self.say(
                step.marks.get(path, step.mark), f"unknown-{what}", f"there is no {what} {name!r}", suggest(name, among)
            )

    def template(self, template: JSON, view: View, marks: Mapping[str, Mark], path: str, fallback: Mark) -> None:
        """Check every expression of a template; one that is put into a text must not be null."""
        for inner, text in texts_in(template):
            cut = pieces(text)
            for piece in cut:
                if piece.expression:
                    mark = marks.get(path + inner, marks.get(path, fallback))
                    self.expression(piece.text, view, mark, "a text" if len(cut) > 1 else "")

    def condition(self, expr: str, view: View, mark: Mark) -> None:
        """Check an expression that must give true or false."""
        types = types_of(self.expression(expr, view, mark, "a condition"))
        if types and "boolean" not in types:
            self.say(mark, "not-a-condition", f"{expr!r} gives {words(types)}; a condition must give true or false")

    def expression(self, expr: str, view: View, mark: Mark, needed: str = "") -> Schema:
        """Check one expression and give the schema of its value; `needed` says what takes it that takes no null."""
        schema, remarks = give(parse(expr), view, needed)
        for remark in remarks:
            self.say(mark, remark.code, f"in {expr!r}: {remark.message}", remark.suggestion, remark.severity)
        return schema


def check_prompt(report: Report, step: Step) -> None:
    """Check the variables of every variant of a prompt against `with`."""
    used: set[str] = set()
    for place, path in prompts_of(step):
        mark = step.marks.get(place, step.mark)
        folder, _, name = path.rpartition("/")
        for file, text in report.workflow.files.items():
            other, _, variant = file.rpartition("/")
            if other != folder or not (variant == name or language_of(path, variant)):
                continue
            try:
                prompts.check(text, file)
                names = prompts.variables(text, file)
            except Invalid as wrong:
                report.fault(mark, "bad-prompt", f"step {step.id!r}: {wrong.message}")
                used |= step.with_.keys()
                continue
            used |= names
            for name_ in sorted(names - step.with_.keys()):
                report.say(
                    mark,
                    "unknown-variable",
                    f"the prompt {file!r} uses {name_!r}, which 'with' of step {step.id!r} does not give",
                    suggest(name_, step.with_),
                )
    if step.kind == "agent":
        return  # what its instructions do not use is told to it as its first message
    for unused in sorted(step.with_.keys() - used - {"language"}):
        report.say(
            step.marks.get(f"with/{unused}", step.mark),
            "unused-variable",
            f"{unused!r} of step {step.id!r} is used by no variant of its prompt",
            "remove it",
            "warning",
        )


def check_rules(report: Report, step: Step, view: View) -> None:
    """Check that a table can be asked what `with` gives, and that every decision fits the declared output."""
    mark = step.marks.get("rules", step.mark)
    try:
        table = rules.table(report.workflow, str(step.config))
    except NotFound:
        report.reference(step, "rules", str(step.config), report.known.rules or (), "decision-table")
        return
    except MetierError as wrong:
        report.fault(mark, "bad-rules", f"step {step.id!r}: {wrong.message}")
        return
    check_given(report, step.with_, table.inputs, view, step.marks, mark, str(step.config))
    for gap in gaps(table):
        severity: Severity = "warning" if gap.doubtful else "error"
        report.say(gap.mark, gap.code, f"{table.reference}: {gap.message}", gap.mend, severity)
    for test in table.tests:
        for failure in rules.rehearse(table, test):
            report.say(test.mark, "failing-test", f"test {test.name!r} of {table.reference}: {failure}")
    for number, row in enumerate(table.rows, 1):
        try:
            conform(dict(row.then), step.output or {}, f"row {number}")
        except Invalid as wrong:
            report.say(
                step.marks.get("output", step.mark),
                "wrong-output",
                f"the output of step {step.id!r} does not fit {step.config}: {wrong.message}",
                "declare every field the table decides",
            )
            break


def check_given(
    report: Report,
    given: Mapping[str, JSON],
    schema: Schema,
    view: View,
    marks: Mapping[str, Mark],
    mark: Mark,
    what: str,
) -> None:
    """Check values handed over by name against what asks for them: none missing, none unknown, types alike."""
    properties, required = schema.get("properties"), schema.get("required")
    wanted: Mapping[str, JSON] = properties if isinstance(properties, dict) else {}
    for name in required if isinstance(required, list) else ():
        inner = wanted.get(str(name))
        if name not in given and not (isinstance(inner, dict) and "default" in inner):
            report.say(
                mark, "missing-input", f"{what} asks for {name!r}, which 'with' does not give", f"add {name}: to with"
            )
    for name, template in given.items():
        place = marks.get(f"with/{name}", mark)
        inner = wanted.get(name)
        if name not in wanted:
            if schema.get("additionalProperties") is False:
                report.say(place, "unknown-input", f"{what} does not ask for {name!r}", suggest(name, wanted))
        elif isinstance(inner, dict):
            _fits(report, template, inner, view, place, f"{name!r} of {what}")


def check_replacements(report: Report, step: Step) -> None:
    """Check that what replaces an output fits the schema of the output."""
    replacements: list[tuple[str, JSON]] = []
    if step.on_error is not None and step.on_error.output is not None:
        replacements.append(("on_error/output", step.on_error.output))
    if step.mock is not None:
        replacements.append(("mock", step.mock))
    for path, value in replacements:
        try:
            conform(value, step.output or {}, f"{path.replace('/', '.')} of step {step.id!r}")
        except Invalid as wrong:
            report.say(step.marks.get(path, step.mark), "wrong-output", wrong.message)


def check_late(report: Report, step: Step, config: Mapping[str, JSON]) -> None:
    """Check that the decision a late task holds ready fits the output of its step, as far as it is constant."""
    late = config.get("on_timeout")
    if not isinstance(late, dict) or "output" not in late or any(expressions_in(late["output"])):
        return
    value, places = late["output"], (step.output or {}).get("properties")
    if isinstance(value, dict) and isinstance(places, dict) and "edited" in places and config.get("edit") is not None:
        # The draft stands in for what nobody edited; what it holds is only known in a run.
        value = {key: part for key, part in value.items() if key != "edited"}
        required = (step.output or {}).get("required")
        wanted = [key for key in required if key != "edited"] if isinstance(required, list) else []
        schema: Schema = {**(step.output or {}), "required": wanted}
    else:
        schema = step.output or {}
    try:
        conform(value, schema, f"on_timeout.output of step {step.id!r}")
    except Invalid as wrong:
        mark = step.marks.get("human/on_timeout/output", step.marks.get("human/on_timeout", step.mark))
        report.say(mark, "wrong-output", wrong.message)


def check_test(report: Report, test: FlowTest, view: View) -> None:
    """Check the inputs, the pretended outputs and the expectations of a test."""
    place = test.mark
    try:
        conform(dict(test.inputs), report.workflow.inputs, f"the inputs of test {test.name!r}")
    except Invalid as wrong:
        report.say(place, "wrong-inputs", wrong.message)
    by_path = dict(_paths(report.workflow.steps, ""))
    for path, value in test.mock.items():
        step = by_path.get(re.sub(r"#[0-9]+|\[[0-9]+\]", "", path))
        if step is None:
            report.say(
                place, "unknown-path", f"test {test.name!r} pretends {path!r}, which is no step", suggest(path, by_path)
            )
            continue
        try:
            conform(value, step.output or {}, f"{path!r} in test {test.name!r}")
        except Invalid as wrong:
            report.say(place, "wrong-output", wrong.message)
    # A test looks at the end of one run, where it knows which steps ran: only names are checked.
    everything = {step.id: Seen(report.gives(step)) for step in report.workflow.walk()}
    scope = {**view.variables, "output": {}, "status": {"type": "string"}}
    over = View(scope, everything, report.all_ids, frozenset({EVERYTHING}))
    for wanted in test.expect:
        report.condition(wanted.expr, over, wanted.mark)


def _fits(report: Report, template: JSON, wanted: Schema, view: View, place: Mark, what: str) -> None:
    """Compare the type of a value that is one expression with the type that is wanted, where both are known."""
    if not any(expressions_in(template)):
        try:
            conform(template, wanted, what)
        except Invalid as wrong:
            report.say(place, "wrong-input", wrong.message)
        return
    cut = pieces(template) if isinstance(template, str) else ()
    if len(cut) != 1 or not cut[0].expression:
        return
    given, need = types_of(give(parse(cut[0].text), view)[0]), types_of(wanted)
    if not alike(given, need):
        report.say(place, "wrong-type", f"{what} must be {words(need)}, and this is {words(given)}")


def _paths(steps: Sequence[Step], prefix: str) -> Iterator[tuple[str, Step]]:
    for step in steps:
        yield prefix + step.id, step
        yield from _paths(step.steps, f"{prefix}{step.id}.")
        for branch in step.branches:
            name = f"{branch.name}." if branch.name else ""
            yield from _paths(branch.steps, f"{prefix}{step.id}.{name}")


def _beneath(name: str, known: str) -> bool:
    """Whether a name is one of those of a connector that has to be asked, known as "files.*"."""
    return known.endswith(".*") and name.startswith(known[:-1])
