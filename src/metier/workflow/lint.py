"""What is wrong with a workflow that can be read: found before a run, each with its place and what to do."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.bundle import called_path, calls_of
from metier.workflow.cel import expressions_in, parse
from metier.workflow.checks import (
    Finding,
    Known,
    Report,
    check_late,
    check_prompt,
    check_replacements,
    check_rules,
    check_test,
)
from metier.workflow.checks_flow import (
    check_agent,
    check_called,
    check_model,
    check_triggers,
    check_wait,
    gathered,
    items_of,
    template_schema,
)
from metier.workflow.definition import embedded
from metier.workflow.inference import give
from metier.workflow.schema_types import types_of, words
from metier.workflow.shape import Branch, Mark, Step, Workflow
from metier.workflow.view import Reason, Schema, Seen, View, known_after
from metier.workflow.yaml_source import placed

__all__ = ["Finding", "Known", "lint", "unread"]

_RUN: Schema = {
    "type": "object",
    "properties": {"id": {"type": "string"}},
    "required": ["id"],
    "additionalProperties": False,
}
_INDEX: Schema = {"type": "integer"}
_NOTHING: frozenset[str] = frozenset()
_TURN: Schema = {
    "type": "object",
    "properties": {"turn": {"type": "integer"}, "max": {"type": "integer"}},
    "required": ["turn", "max"],
    "additionalProperties": False,
}


def lint(workflow: Workflow, known: Known | None = None) -> tuple[Finding, ...]:
    """Check a workflow without running it; findings come in the order of the file, errors among warnings."""
    report = Report(workflow, known or Known(), frozenset(step.id for step in workflow.walk()))
    _Walk(report, {}).run()
    unique = dict.fromkeys(report.findings)
    return tuple(sorted(unique, key=lambda finding: (finding.file, finding.line, finding.column)))


def unread(wrong: Invalid) -> tuple[Finding, ...]:
    """Give what made a workflow unreadable as findings, one for each mistake that has a place."""
    found = [place for line in wrong.message.splitlines() if (place := placed(line))]
    return tuple(
        Finding(mark.file, mark.line, mark.column, "unreadable", message, suggestion, "error")
        for mark, message, suggestion in found
    )


@dataclass(slots=True)
class _Walk:
    report: Report
    gave: dict[str, Schema]
    """What each called workflow gives, by its hash, once it has been checked; shared by all that are checked."""
    called: dict[str, Workflow] = field(default_factory=dict)
    output: Schema = field(default_factory=dict)

    @property
    def workflow(self) -> Workflow:
        return self.report.workflow

    def run(self) -> None:
        first = View({"inputs": self.workflow.inputs, "run": _RUN, "loop": {"type": "null"}}, {}, self.report.all_ids)
        view, ended = self.sequence(self.workflow.steps, first)
        if not ended:
            self.report.template(self.workflow.output, view, self.workflow.marks, "output", self.mark())
        if not any(step.kind == "end" for step in self.workflow.walk()):
            self.output = template_schema(self.workflow.output, view)
        check_triggers(self.report)
        for test in self.workflow.tests:
            check_test(self.report, test, view)

    def mark(self) -> Mark:
        return self.workflow.marks.get("flow", self.workflow.steps[0].mark if self.workflow.steps else Mark("", 1, 1))

    def sequence(self, steps: Sequence[Step], view: View) -> tuple[View, bool]:
        """Check steps in order; give what is visible after them, and whether the run always ends within them."""
        ended = False
        for step in steps:
            if ended:
                self.report.say(
                    step.mark,
                    "unreachable",
                    f"step {step.id!r} is never reached: the run has ended before it",
                    "remove it, or put a 'when' on the end",
                )
                break
            view, ended = self.step(step, view)
        return view, ended

    def step(self, step: Step, view: View) -> tuple[View, bool]:
        inner, asked, failed = view, _NOTHING, _NOTHING
        if step.when is not None:
            self.report.condition(step.when, view, step.marks.get("when", step.mark))
            asked, failed = known_after(parse(step.when), view)
            inner = view.knowing(asked)
        check_replacements(self.report, step)
        for key, template in step.with_.items():
            # What `retrieve` asks stands under its kind key, and is checked there.
            if not (step.kind == "retrieve" and f"with/{key}" not in step.marks):
                self.report.template(template, inner, step.marks, f"with/{key}", step.mark)
        ended = False
        match step.kind:
            case "loop":
                inner = self.loop(step, inner)
            case "foreach":
                inner = self.foreach(step, inner)
            case "parallel":
                inner, ended = self.parallel(step, inner)
            case "switch":
                inner, ended = self.switch(step, inner)
            case "human":
                self.human(step, inner)
            case "end":
                self.end(step, inner)
                return view.knowing(failed), step.when is None
            case _:
                self.work(step, inner)
        known = inner.facts if step.kind == "switch" and step.when is None else view.facts
        if ended:
            known |= failed
        return replace(self.seen(view, inner, step, asked), facts=known), ended and step.when is None

    def loop(self, step: Step, view: View) -> View:
        config = step.config if isinstance(step.config, dict) else {}
        later = Reason(f"turn {step.id}", f"it has not run yet in the first turn of loop {step.id!r}")
        body: dict[str, Seen] = {}
        for child in (inner for outer in step.steps for inner in outer.walk()):
            own = (Reason(f"when {child.id}", f"{child.id!r} has a 'when'"),) if child.when is not None else ()
            body[child.id] = Seen(self.report.gives(child), (later, *own), mark=child.mark)
        inside = replace(view, variables={**view.variables, "loop": _TURN}, steps={**view.steps, **body})
        after, ended = self.sequence(step.steps, inside)
        until, keep = config.get("until"), config.get("keep")
        if isinstance(until, str):
            self.report.condition(until, after, step.marks.get("loop/until", step.mark))
        if isinstance(keep, str):
            schema = self.report.expression(keep, after, step.marks.get("loop/keep", step.mark))
            types = types_of(schema)
            if types and not types & {"integer", "number"}:
                self.report.say(
                    step.marks.get("loop/keep", step.mark),
                    "not-a-score",
                    f"keep of loop {step.id!r} gives {words(types)}; it must give a number",
                    "the turn with the greatest number is kept",
                )
        elif config.get("max") != 1:
            self.report.say(
                step.mark,
                "no-keep",
                f"loop {step.id!r} keeps its last turn, which may be worse than an earlier one",
                "add keep: with a score, such as steps.grade.score",
                "warning",
            )
        if ended:
            self.report.say(
                step.mark,
                "unreachable",
                f"loop {step.id!r} always ends the run in its first turn",
                "put a 'when' on the end",
            )
        return replace(after, variables=view.variables)

    def switch(self, step: Step, view: View) -> tuple[View, bool]:
        """Check every branch with what its condition proves; afterwards its steps may be null."""
        steps, other = dict(view.steps), view
        all_end = has_else = any(branch.when is None for branch in step.branches)
        ways: list[frozenset[str]] = []
        for number, branch in enumerate(step.branches):
            inner = other
            if branch.when is not None:
                self.report.condition(branch.when, other, step.marks.get(f"switch/{number}/when", branch.mark))
                holds, fails = known_after(parse(branch.when), other)
                inner, other = other.knowing(holds), other.knowing(fails)
            after, ended = self.sequence(branch.steps, inner)
            all_end = all_end and ended
            ways.extend(() if ended else (after.facts,))
            steps.update(self.branch(step, number, branch, after, ended))
        ways.extend(() if has_else else (other.facts,))
        return replace(view, steps=steps, facts=frozenset.intersection(*ways) if ways else view.facts), all_end

    def branch(self, step: Step, number: int, branch: Branch, after: View, ended: bool) -> Iterator[tuple[str, Seen]]:
        reason = Reason(f"branch {step.id}/{number}", f"it is in branch {number + 1} of switch {step.id!r}")
        never = f"the branch of switch {step.id!r} it is in ends the run" if ended else None
        for child in (inner for outer in branch.steps for inner in outer.walk()):
            seen = after.steps.get(child.id)
            if seen is not None:
                reasons, proves = (reason, *seen.reasons), seen.proves | after.facts
                yield child.id, replace(seen, reasons=reasons, proves=proves, never=seen.never or never)

    def foreach(self, step: Step, view: View) -> View:
        """Check the body as one item sees it; outside of it its steps are null."""
        config = step.config if isinstance(step.config, dict) else {}
        named = {"item": items_of(self.report, step, view), "index": _INDEX}
        after, ended = self.sequence(step.steps, view.naming(named))
        last = step.steps[-1]
        if "each" in config and not ended:
            self.report.template(config["each"], after, step.marks, "foreach/each", step.mark)
            each = template_schema(config["each"], after)
        else:
            each = self.report.gives(last)
        if any(inner.kind == "end" for inner in step.walk()):
            each = {}
        found = gathered(each, config.get("on_item_error") == "collect")
        if "give" in config:
            around = replace(view, variables={**view.variables, **{key: _schema(found[key]) for key in found}})
            self.report.template(config["give"], around, step.marks, "foreach/give", step.mark)
            self.report.given[step.id] = template_schema(config["give"], around)
        else:
            counts: dict[str, JSON] = {"count": {"type": "integer"}, "failed": {"type": "integer"}}
            self.report.given[step.id] = {
                "type": "object",
                "properties": {**found, **counts},
                "required": [*found, *counts],
                "additionalProperties": False,
            }
        never = f"it is in the body of foreach {step.id!r}, whose steps exist only there; read steps.{step.id}"
        hidden = {
            inner.id: Seen(self.report.gives(inner), never=never, mark=inner.mark)
            for outer in step.steps
            for inner in outer.walk()
        }
        return replace(view, steps={**view.steps, **hidden})

    def parallel(self, step: Step, view: View) -> tuple[View, bool]:
        """Check every section without what the others do at the same time; after it, all of them are there."""
        own = [{inner.id for outer in branch.steps for inner in outer.walk()} for branch in step.branches]
        steps = dict(view.steps)
        any_end = False
        for number, branch in enumerate(step.branches):
            others = {id: step.id for position, ids in enumerate(own) if position != number for id in ids}
            after, ended = self.sequence(branch.steps, replace(view, racing={**view.racing, **others}))
            any_end = any_end or ended
            steps.update({id: after.steps[id] for id in own[number] if id in after.steps})
        return replace(view, steps=steps), any_end

    def call(self, step: Step, view: View) -> None:
        """Check what goes into a called workflow, and that workflow itself, once."""
        path = called_path(step)
        called = None if path is None else self.whole(path)
        check_called(self.report, step, view, called)
        if called is not None:
            self.report.given.setdefault(step.id, step.output if step.output is not None else self.gave[called.hash])

    def whole(self, path: str) -> Workflow:
        """Check a workflow that is called from this one, once however often it is."""
        if path not in self.called:
            self.called[path] = embedded(self.workflow, path)
        called = self.called[path]
        if called.hash not in self.gave:
            inner = _Walk(Report(called, self.report.known, frozenset(one.id for one in called.walk())), self.gave)
            inner.run()
            self.gave[called.hash] = inner.output
            folder = PurePosixPath(path).parent
            for finding in inner.report.findings:
                file = finding.file if finding.file == path else str(folder / finding.file)
                self.report.findings.append(replace(finding, file=file))
        return called

    def human(self, step: Step, view: View) -> None:
        config = step.config if isinstance(step.config, dict) else {}
        for key in ("title", "assign", "on_timeout", "not", "escalate"):
            self.report.template(config.get(key), view, step.marks, f"human/{key}", step.mark)
        check_late(self.report, step, config)
        if config.get("second_reading") and str(config.get("assign", "")).startswith("user:"):
            self.report.say(
                step.marks.get("human/second_reading", step.mark),
                "one-reader",
                f"second_reading of human step {step.id!r} finds no second reader: {config['assign']!r} is one person",
                "assign it to a group, or remove second_reading",
                "warning",
            )
        show, edit = config.get("show"), config.get("edit")
        for number, shown in enumerate(show if isinstance(show, list) else []):
            if isinstance(shown, str):
                self.report.expression(shown, view, step.marks.get(f"human/show/{number}", step.mark))
        if isinstance(edit, str):
            self.report.expression(edit, view, step.marks.get("human/edit", step.mark))
        properties = step.output.get("properties") if step.output is not None else None
        mark = step.marks.get("output", step.mark)
        if not isinstance(properties, dict) or "decision" not in properties:
            self.report.say(
                mark,
                "no-decision",
                f"the output of human step {step.id!r} has no 'decision'",
                "add decision: {enum: [approve, reject]}",
            )
        elif isinstance(edit, str) and "edited" not in properties:
            self.report.say(
                mark,
                "no-edited",
                f"human step {step.id!r} lets a person edit {edit!r}, but its output has no 'edited'",
                "add edited: object",
            )

    def end(self, step: Step, view: View) -> None:
        config = step.config if isinstance(step.config, dict) else {}
        if "index" in view.variables and config.get("output") is None:
            return  # it ends an item, which gives what `each` says
        if config.get("output") is not None:
            self.report.template(config["output"], view, step.marks, "end/output", step.mark)
            return
        for path, expr in expressions_in(self.workflow.output):
            _, remarks = give(parse(expr), _rest_null(view, self.report.all_ids))
            for remark in remarks:
                if remark.code == "always-null":
                    self.report.say(
                        step.mark,
                        "end-output",
                        "ending here gives the output of the workflow, whose "
                        f"{path.removeprefix('/')!r} cannot be made: {remark.message}",
                        "write end: {status: …, output: {…}}",
                    )

    def work(self, step: Step, view: View) -> None:
        config = step.config if isinstance(step.config, dict) else {}
        match step.kind:
            case "llm":
                check_model(self.report, step, "llm/model", str(config.get("model")))
                check_prompt(self.report, step)
            case "agent":
                check_prompt(self.report, step)
                check_agent(self.report, step, view)
                for _, path in calls_of(step):
                    self.whole(path)
            case "wait" | "emit":
                check_wait(self.report, step, view)
            case "call":
                self.call(step, view)
            case "retrieve":
                self.report.reference(
                    step,
                    "retrieve/collection",
                    str(config.get("collection")),
                    self.report.known.collections,
                    "collection",
                )
                self.report.template(config.get("query"), view, step.marks, "retrieve/query", step.mark)
            case "rules":
                check_rules(self.report, step, view)
            case "tool":
                self.report.reference(step, "tool", str(step.config), self.report.known.tools, "tool")
            case "code":
                self.report.reference(step, "code", str(step.config), self.report.known.code, "function")
            case "model":
                self.report.reference(step, "model", str(step.config), self.report.known.classifiers, "classifier")

    def seen(self, before: View, after: View, step: Step, asked: frozenset[str]) -> View:
        """Add a step, and what it holds, to what can be read after it."""
        own: tuple[Reason, ...] = ()
        if step.when is not None:
            own = (Reason(f"when {step.id}", f"step {step.id!r} has a 'when'"),)
        if step.on_error is not None and step.on_error.then == "continue" and step.on_error.output is None:
            own = (*own, Reason(f"error {step.id}", f"the run goes on without it when step {step.id!r} fails"))
        steps = dict(after.steps)
        for child in step.walk():
            if child.id in steps and child is not step:
                held = steps[child.id]
                steps[child.id] = replace(held, reasons=(*own, *held.reasons), proves=held.proves | asked)
        steps[step.id] = Seen(self.report.gives(step), own, mark=step.mark, proves=asked)
        return replace(before, steps=steps)


def _rest_null(view: View, all_ids: Collection[str]) -> View:
    """See the workflow from an end: whatever has not run by then never will."""
    why = "the run ends before it"
    rest = {id: Seen({}, (Reason(f"end {id}", why),), never=why) for id in all_ids if id not in view.steps}
    return replace(view, steps={**view.steps, **rest})


def _schema(value: JSON) -> Schema:
    return value if isinstance(value, dict) else {}
