"""Steps that decide where a run goes on: the branches of a switch, the turns of a loop, its end."""

from __future__ import annotations

from collections.abc import Mapping

from metier.calls import JSON
from metier.errors import MetierError, NonDeterministicReplay
from metier.workflow.commands import Entry, Finish, Note
from metier.workflow.definition import Step
from metier.workflow.ground import Ground, Scope, described, failure_of, field_of
from metier.workflow.strands import Way

__all__ = ["end", "loop", "switch"]


def switch(ground: Ground, step: Step, path: str, scope: Scope) -> Way:
    """Take the first branch whose condition holds, and keep to it."""
    choice = ground.entry(path)
    if choice is None:
        names = scope.names()
        try:
            chosen = next(
                (
                    number
                    for number, branch in enumerate(step.branches)
                    if branch.when is None or ground.expressions.holds(branch.when, names)
                ),
                None,
            )
        except MetierError as error:
            return (yield from ground.failed(step, path, error, "a branch", scope))
        choice = ground.note(path, "choice", {"branch": chosen})
    taken = field_of(choice, "branch", path)
    scope.values[step.id] = {"branch": taken}
    if taken is None:
        return None
    if not isinstance(taken, int) or taken >= len(step.branches):
        raise NonDeterministicReplay(f"the journal took branch {taken!r} of {path!r}, which does not exist")
    return (yield from ground.sequence(step.branches[taken].steps, path + ".", scope))


def loop(ground: Ground, step: Step, path: str, scope: Scope) -> Way:
    """Repeat the body until its condition holds or the turns are used up; leave the values of the best turn."""
    config = step.config if isinstance(step.config, dict) else {}
    most, outer = config.get("max"), scope.loop
    if not isinstance(most, int):
        raise NonDeterministicReplay(f"the loop {path!r} has no number of turns: {most!r}")
    inner = [child.id for body in step.steps for child in body.walk()]
    kept: tuple[int, float | None, dict[str, JSON]] = (0, None, {})
    met = False
    turn = 0
    while turn < most and not met:
        turn += 1
        scope.loop = {"turn": turn, "max": most}
        over = yield from ground.sequence(step.steps, f"{path}#{turn}.", scope)
        if over is not None:
            return over
        choice = _turned(ground, path, turn, config, scope)
        if choice.kind == "error":
            scope.loop = outer
            return (yield from ground.recover(step, path, failure_of(choice, path, 1), scope))
        met = field_of(choice, "met", path) is True
        score = field_of(choice, "score", path)
        number = float(score) if isinstance(score, int | float) else None
        if met or kept[1] is None or number is None or number > kept[1]:
            kept = (turn, number, {id: scope.values[id] for id in inner})
    scope.loop = outer
    scope.values.update(kept[2])
    scope.values[step.id] = {"turns": turn, "kept": kept[0], "met": met, "score": kept[1]}
    return None


def _turned(ground: Ground, path: str, turn: int, config: Mapping[str, JSON], scope: Scope) -> Entry | Note:
    """Judge a finished turn once: does the condition hold, and how good was it."""
    known = ground.entry(f"{path}#{turn}")
    if known is not None:
        return known
    until, keep, names = config.get("until"), config.get("keep"), scope.names()
    try:
        met = isinstance(until, str) and ground.expressions.holds(until, names)
        score = ground.expressions.evaluate(keep, names) if isinstance(keep, str) else None
    except MetierError as error:
        return ground.note(path, "error", described(error, f"the end of turn {turn}"))
    return ground.note(f"{path}#{turn}", "choice", {"met": met, "score": score})


def end(ground: Ground, step: Step, path: str, scope: Scope) -> Way:
    """End the run here; inside a foreach, end the item."""
    config = step.config if isinstance(step.config, dict) else {}
    output, status = config.get("output"), str(config.get("status") or "done")
    yield from ()
    if output is None and "index" in scope.named:
        return Finish(None, status)  # what the item gives then is what its foreach says it gives
    return ground.end(ground.workflow.output if output is None else output, scope, status)
