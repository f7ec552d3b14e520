"""The definition of a workflow: read from a folder or from a pinned copy, always whole and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from metier.calls import JSON
from metier.errors import Invalid, NotFound
from metier.workflow.bundle import Bundle
from metier.workflow.files import Files, Folder, Given
from metier.workflow.forms import template
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
    Trigger,
    Workflow,
)
from metier.workflow.shorthand import conform
from metier.workflow.starts import triggers
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
    "Trigger",
    "Workflow",
    "accept",
    "conform",
    "embedded",
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


def embedded(workflow: Workflow, path: str) -> Workflow:
    """Give a workflow this one calls, read from the copy that is pinned with it."""
    text = workflow.files.get(path)
    if text is None:
        raise NotFound(f"cannot call {path!r}: the workflow {workflow.name!r} has no such file")
    folder = str(PurePosixPath(path).parent)
    before = "" if folder == "." else f"{folder}/"
    files = {name.removeprefix(before): text for name, text in workflow.files.items() if name.startswith(before)}
    return _read(text, Given(files), path)


def _read(text: str, files: Files, file: str) -> Workflow:
    reader = Reader()
    bundle = Bundle(files, reader.collect, partial(_called, reader))
    workflow = _parts(reader, read_yaml(text, file), text)
    bundle.gather(workflow.walk(), (PurePosixPath(file).name,))
    reader.conclude()
    workflow = replace(workflow, files=bundle.found)
    return replace(workflow, hash=hashed(workflow))


def _called(reader: Reader, text: str, file: str) -> tuple[Step, ...]:
    """Read a called workflow whole, for its mistakes and for the files its steps name."""
    inner = Reader()
    try:
        return _parts(inner, read_yaml(text, file), text).steps
    finally:
        reader.problems.extend(inner.problems)


def _parts(reader: Reader, root: Node, text: str) -> Workflow:
    """Read everything that stands in the file itself; its files and its hash are added by who gathers them."""
    name = reader.name(root)
    inputs = reader.collect(lambda: reader.inputs(root))
    budget = reader.collect(lambda: reader.budget(root))
    steps = reader.collect(lambda: reader.steps(root.entries["steps"], "steps")) or ()
    output = reader.collect(lambda: template(root.entries["output"]) if "output" in root.entries else None)
    tests = reader.collect(lambda: reader.tests(root)) or ()
    return Workflow(
        name=name,
        inputs=inputs or {},
        steps=steps,
        output=output,
        budget=budget,
        tests=tests,
        files={},
        hash="",
        source=text,
        triggers=reader.collect(lambda: triggers(root)) or (),
        marks=_marks(root),
    )


def _marks(root: Node) -> dict[str, Mark]:
    """Keep the places of what stands outside the steps; each step keeps its own."""
    found: dict[str, Mark] = {}
    for key, value in root.entries.items():
        if key != "steps":
            found.update(value.marks(key))
    return found
