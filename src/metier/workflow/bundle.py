"""The files a workflow needs to run, gathered with it: prompts, instructions, decision tables, workflows it calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Protocol

from metier.errors import Invalid
from metier.workflow.files import Below, Files, rules_paths
from metier.workflow.shape import Mark, Step

__all__ = [
    "CALLED_MAX",
    "DEPTH_MAX",
    "OFFERED",
    "Bundle",
    "Called",
    "called_path",
    "calls_of",
    "offered_path",
    "prompts_of",
]

CALLED_MAX = 30
"""Workflows one workflow may call, those that they call included."""
DEPTH_MAX = 5
"""Calls inside one another."""
OFFERED = "flows."
"""Begins the names under which agents are offered other workflows."""


class Called(Protocol):
    """Reads a called workflow: gives its steps, and writes down what is wrong with it."""

    def __call__(self, text: str, file: str) -> tuple[Step, ...]:
        """Read the text of a workflow that lies at a path."""
        ...


@dataclass(slots=True)
class Bundle:
    """Gathers files while a workflow is read; a called workflow brings its own, by their path from the first one."""

    files: Files
    collect: Callable[[Callable[[], None]], object]
    """Runs one part and keeps its mistake, so that one missing file does not hide the next."""
    called: Called
    found: dict[str, str] = field(default_factory=dict)
    calls: int = 0

    def gather(self, steps: Iterable[Step], chain: tuple[str, ...]) -> None:
        """Take every file these steps name; `chain` are the workflows that led here, this one last."""
        folder = PurePosixPath(chain[-1]).parent if len(chain) > 1 else PurePosixPath()
        for step in steps:
            for key, path in prompts_of(step):
                mark = step.marks.get(key, step.mark)
                self.collect(lambda step=step, path=path, mark=mark: self._prompt(path, step, mark, folder))  # type: ignore[misc]  # mypy cannot infer a lambda with defaults
            if step.kind == "rules" and isinstance(step.config, str):
                self.collect(lambda step=step: self._rules(step, folder))  # type: ignore[misc]  # same
            for key, called in calls_of(step):
                mark = step.marks.get(key, step.mark)
                self.collect(lambda step=step, called=called, mark=mark: self._call(called, step, mark, folder, chain))  # type: ignore[misc]  # same

    def _prompt(self, path: str, step: Step, mark: Mark, folder: PurePosixPath) -> None:
        """Take a prompt with its variants by language; one of them at least must be there."""
        files = Below(self.files, folder)
        try:
            texts = {name: files.text(name) for name in (path, *files.beside(path))}
        except Invalid as wrong:
            raise _at(mark, step, wrong.message) from None
        present = {str(folder / name): text for name, text in texts.items() if text is not None}
        if not present:
            raise _at(mark, step, f"there is no file {path!r} beside the workflow, nor one for a language such as fr")
        self.found.update(present)

    def _rules(self, step: Step, folder: PurePosixPath) -> None:
        """Take the decision table when it lies beside the workflow; otherwise it must be known to the platform."""
        files = Below(self.files, folder)
        for path in rules_paths(str(step.config)):
            try:
                text = files.text(path)
            except Invalid as wrong:
                raise _at(step.marks.get("rules", step.mark), step, wrong.message) from None
            if text is not None:
                self.found[str(folder / path)] = text
                return

    def _call(self, path: str, step: Step, mark: Mark, folder: PurePosixPath, chain: tuple[str, ...]) -> None:
        """Take a called workflow and everything it names, refusing calls that come round to themselves."""
        place = str(folder / path)
        if place in chain:
            round_ = " → ".join((*chain[chain.index(place) :], place))
            raise _at(mark, step, f"these workflows call one another without end: {round_}; remove one of the calls")
        if place in self.found:
            return
        self.calls += 1
        if self.calls > CALLED_MAX:
            raise _at(mark, step, f"more than {CALLED_MAX} workflows are called; split the work")
        if len(chain) > DEPTH_MAX:
            raise _at(mark, step, f"more than {DEPTH_MAX} calls inside one another: {' → '.join((*chain, place))}")
        try:
            text = self.files.text(place)
        except Invalid as wrong:
            raise _at(mark, step, wrong.message) from None
        if text is None:
            raise _at(mark, step, f"there is no workflow {path!r} beside this one")
        self.found[place] = text
        self.gather((inner for outer in self.called(text, place) for inner in outer.walk()), (*chain, place))


def prompts_of(step: Step) -> Iterator[tuple[str, str]]:
    """Name the prompt files of a step with the path of the value that names each."""
    if not isinstance(step.config, Mapping):
        return
    keys = {"llm": ("prompt", "system"), "agent": ("instructions",)}.get(step.kind, ())
    for key in keys:
        path = step.config.get(key)
        if isinstance(path, str):
            yield f"{step.kind}/{key}", path
    others = step.config.get("handoffs") if step.kind == "agent" else None
    for id, other in others.items() if isinstance(others, Mapping) else ():
        path = other.get("instructions") if isinstance(other, Mapping) else None
        if isinstance(path, str):
            yield f"agent/handoffs/{id}/instructions", path


def called_path(step: Step) -> str | None:
    """Give the file of the workflow a step calls, or None when it calls none or a released one."""
    flow = step.config.get("flow") if step.kind == "call" and isinstance(step.config, Mapping) else None
    return flow if isinstance(flow, str) and flow.endswith((".yaml", ".yml")) else None


def offered_path(name: str) -> str:
    """Give the file of a workflow that an agent is offered by name, without the `flows.` before it."""
    return f"flows/{name}.yaml"


def calls_of(step: Step, *, released: bool = False) -> Iterator[tuple[str, str]]:
    """Name the files of the workflows a step may call, and released ones, with the path of what names each."""
    path = called_path(step)
    if path is not None:
        yield "call/flow", path
    config = step.config if step.kind == "agent" and isinstance(step.config, Mapping) else {}
    others = config.get("handoffs")
    named = others.items() if isinstance(others, Mapping) else ()
    team = {"agent": config, **{f"agent/handoffs/{id}": other for id, other in named}}
    for place, agent in team.items():
        tools = agent.get("tools") if isinstance(agent, Mapping) else None
        for number, tool in enumerate(tools if isinstance(tools, list) else ()):
            if not isinstance(tool, str) or not tool.startswith(OFFERED):
                continue
            name = tool.removeprefix(OFFERED)
            if "@" not in name:
                yield f"{place}/tools/{number}", offered_path(name)
            elif released:
                yield f"{place}/tools/{number}", name


def _at(mark: Mark, step: Step, message: str) -> Invalid:
    return Invalid(f"{mark}: step {step.id!r}: {message}", param=str(mark))
