"""The definition of a workflow: read from a folder or from a pinned copy, always whole and checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from metier.calls import JSON
from metier.errors import Invalid, NotFound
from metier.workflow.files import Files, Folder, Given, rules_paths
from metier.workflow.kinds import template
from metier.workflow.pinned import from_data, hashed, to_data
from metier.workflow.quantities import euros, seconds
from metier.workflow.reader import Reader
from metier.workflow.shape import (
    Branch,
    Expectation,
    FlowTest,
    Kind,
    Mark,
    OnError,
    Retry,
    RunBudget,
    Step,
    Workflow,
)
from metier.workflow.shorthand import conform
from metier.workflow.yaml_source import SOURCE_MAX, Node, decode
from metier.workflow.yaml_source import read as read_yaml

__all__ = [
    "Branch",
    "Expectation",
    "FlowTest",
    "Kind",
    "Mark",
    "OnError",
    "Retry",
    "RunBudget",
    "Step",
    "Workflow",
    "accept",
    "conform",
    "euros",
    "from_data",
    "load",
    "parse",
    "seconds",
    "to_data",
]


def load(path: Path) -> Workflow:
    """Read a workflow file and the files it names from its folder; Invalid lists what is wrong and where."""
    try:
        if path.stat().st_size > SOURCE_MAX:
            raise Invalid(f"{path.name}:1:1: cannot read the workflow: more than {SOURCE_MAX} bytes; split it")
        data = path.read_bytes()
    except FileNotFoundError as wrong:
        raise NotFound(f"cannot read the workflow {str(path)!r}: there is no such file") from wrong
    except (OSError, ValueError) as wrong:
        raise Invalid(f"cannot read the workflow {str(path)!r}: {wrong}") from wrong
    return _read(decode(data, path.name), Folder(path.parent), path.name)


def parse(text: str, files: Mapping[str, str], file: str = "flow.yaml") -> Workflow:
    """Read a workflow from its text and the texts of the files it names, as a pinned copy or an editor has them."""
    return _read(text, Given(files), file)


def accept(workflow: Workflow, inputs: JSON) -> dict[str, JSON]:
    """Check the inputs of a run against what the workflow declares, and fill in defaults."""
    accepted = conform(inputs, workflow.inputs, "inputs")
    if not isinstance(accepted, dict):
        raise Invalid("cannot accept inputs: they must be named values")
    return accepted


def _read(text: str, files: Files, file: str) -> Workflow:
    root = read_yaml(text, file)
    reader = Reader()
    name = reader.name(root)
    inputs = reader.collect(lambda: reader.inputs(root))
    budget = reader.collect(lambda: reader.budget(root))
    steps = reader.collect(lambda: reader.steps(root.entries["steps"], "steps")) or ()
    output = reader.collect(lambda: template(root.entries["output"]) if "output" in root.entries else None)
    tests = reader.collect(lambda: reader.tests(root)) or ()
    named = _files(reader, (inner for step in steps for inner in step.walk()), files)
    reader.conclude()
    workflow = Workflow(
        name=name,
        inputs=inputs or {},
        steps=steps,
        output=output,
        budget=budget,
        tests=tests,
        files=named,
        hash="",
        source=text,
        marks=_marks(root),
    )
    return replace(workflow, hash=hashed(workflow))


def _marks(root: Node) -> dict[str, Mark]:
    """Keep the places of what stands outside the steps; each step keeps its own."""
    found: dict[str, Mark] = {}
    for key, value in root.entries.items():
        if key != "steps":
            found.update(value.marks(key))
    return found


def _files(reader: Reader, steps: Iterable[Step], files: Files) -> dict[str, str]:
    found: dict[str, str] = {}
    for step in steps:
        if step.kind == "llm" and isinstance(step.config, dict):
            for key in ("prompt", "system"):
                path = step.config.get(key)
                if isinstance(path, str):
                    reader.collect(lambda path=path, key=key, step=step: _prompt(path, step, key, files, found))  # type: ignore[misc]  # mypy cannot infer a lambda with defaults
        elif step.kind == "rules" and isinstance(step.config, str):
            reader.collect(lambda step=step: _rules(step, files, found))  # type: ignore[misc]  # same
    return found


def _prompt(path: str, step: Step, key: str, files: Files, found: dict[str, str]) -> None:
    """Take a prompt with its variants by language; one of them at least must be there."""
    mark = step.marks.get(f"llm/{key}", step.mark)
    try:
        texts = {name: files.text(name) for name in (path, *files.beside(path))}
        present = {name: text for name, text in texts.items() if text is not None}
        if not present:
            raise Invalid(f"there is no file {path!r} beside the workflow, nor one for a language such as fr")
    except Invalid as wrong:
        raise Invalid(f"{mark}: step {step.id!r}: {wrong.message}", param=str(mark)) from None
    found.update(present)


def _rules(step: Step, files: Files, found: dict[str, str]) -> None:
    """Take the decision table when it lies beside the workflow; otherwise it must be known to the platform."""
    mark = step.marks.get("rules", step.mark)
    for path in rules_paths(str(step.config)):
        try:
            text = files.text(path)
        except Invalid as wrong:
            raise Invalid(f"{mark}: step {step.id!r}: {wrong.message}", param=str(mark)) from None
        if text is not None:
            found[path] = text
            return
