"""Steps that do something: attempts and retries, the steps of functions, questions to people, waits, events, calls."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from metier.calls import JSON
from metier.errors import Invalid, MetierError, NonDeterministicReplay
from metier.workflow.commands import (
    BEGAN,
    CHILD,
    Await,
    Call,
    Emit,
    Entry,
    Note,
    Park,
    RunStep,
    Sleep,
    Under,
    WaitUntil,
    Work,
    assignee,
)
from metier.workflow.definition import Retry, Step, seconds
from metier.workflow.ground import Ground, Scope, described, failure_of, field_of
from metier.workflow.strands import Way

__all__ = ["attempted", "call", "emit", "human", "wait", "work"]

_LONGEST_WAIT_S = 3600.0


def work(ground: Ground, step: Step, path: str, scope: Scope) -> Way:
    """Call the function of the step."""
    return attempted(
        ground, step, path, scope, lambda attempt: RunStep(path, attempt, step, ground.filled(step, scope))
    )


def attempted(ground: Ground, step: Step, path: str, scope: Scope, make: Callable[[int], Work]) -> Way:
    """Try a step until it gives something, or has failed for good."""
    while True:
        attempt, last, failed = 1, None, None
        while (entry := ground.entry(path, attempt)) is not None:
            if entry.kind in ("result", "decision"):
                if ground.shown is not None:
                    ground.shown[path] = ground.filled(step, scope)
                scope.values[step.id] = entry.value
                return None
            if entry.kind != "error":
                raise NonDeterministicReplay(f"the journal has {entry.kind!r} at {path!r}, which is a {step.kind}")
            if ground.entry(path, attempt + 1) is None and not _again(ground, step, path, attempt, entry):
                failed = entry
                break
            attempt, last = attempt + 1, entry
        command: Work | None = None
        if failed is None:
            try:
                command = make(attempt)
            except MetierError as error:
                failed = ground.note(path, "error", described(error, "what it is given"), attempt)
        if failed is not None or command is None:
            assert failed is not None
            found = ground.policy(step, path, failure_of(failed, path, attempt), scope, attempt)
            if not isinstance(found, Park):
                return found
            yield found
        elif isinstance(command, Sleep | Under):
            yield command
        elif isinstance(last, Entry) and step.retry is not None and not ground.decided(path, attempt - 1):
            yield WaitUntil(last.at + _pause(step.retry, attempt - 1), command)
        else:
            yield command


def human(ground: Ground, step: Step, path: str, scope: Scope) -> Way:
    """Ask a person."""
    while (decided := ground.entry(path)) is None:
        try:
            park = Park(path, 1, "", step, _question(ground, step, scope), step.output)
        except MetierError as error:
            return (yield from ground.failed(step, path, error, "the task", scope))
        yield park
    scope.values[step.id] = decided.value
    return None


def wait(ground: Ground, step: Step, path: str, scope: Scope) -> Way:
    """Wait for a length of time, a time, or an event."""

    def make(attempt: int) -> Work:
        config = step.config if isinstance(step.config, dict) else {}
        names = scope.names()
        event = config.get("event")
        began = ground.entry(path, attempt, BEGAN)
        key = "" if event is None else _key(ground.expressions.render(config.get("key"), names))
        if began is not None:
            at = field_of(began, "at", path)
            told = None if event is None else str(event)
            return Sleep(path, attempt, step, None if at is None else _time(at, path), told, key)
        if event is not None:
            return Await(path, attempt, step, str(event), key, step.timeout_s)
        if "until" in config:
            return Await(path, attempt, step, until=_time(ground.expressions.render(config["until"], names), path))
        length = ground.expressions.render(config.get("for"), names)
        return Await(path, attempt, step, for_s=float(length) if isinstance(length, int | float) else seconds(length))

    return attempted(ground, step, path, scope, make)


def emit(ground: Ground, step: Step, path: str, scope: Scope) -> Way:
    """Tell an event."""

    def make(attempt: int) -> Work:
        config = step.config if isinstance(step.config, dict) else {}
        key = _key(ground.expressions.render(config.get("key"), scope.names()))
        return Emit(path, attempt, step, str(config.get("event")), key, ground.filled(step, scope))

    return attempted(ground, step, path, scope, make)


def call(ground: Ground, step: Step, path: str, scope: Scope) -> Way:
    """Run another flow as a run of its own."""

    def make(attempt: int) -> Work:
        if ground.entry(path, attempt, CHILD) is not None:
            return Under(path, attempt, step)
        config = step.config if isinstance(step.config, dict) else {}
        again = attempt > 1 and ground.decided(path, attempt - 1) == "retry"
        return Call(path, attempt, step, str(config.get("flow")), ground.filled(step, scope), again=again)

    return attempted(ground, step, path, scope, make)


def _question(ground: Ground, step: Step, scope: Scope) -> dict[str, JSON]:
    names = scope.names()
    config = dict(step.config) if isinstance(step.config, dict) else {}
    task = {key: value for key, value in config.items() if key not in ("show", "edit")}
    for key in ("title", "assign", *(config.keys() & {"on_timeout", "not", "escalate"})):
        task[key] = ground.expressions.render(config.get(key), names)
    # A name that was computed may be none: told here, the run ends with a reason instead of killing workers.
    late = task.get("on_timeout")
    levels = task.get("escalate")
    climbs = [level.get("to") for level in levels if isinstance(level, dict)] if isinstance(levels, list) else []
    for who in (task["assign"], late.get("reassign") if isinstance(late, dict) else None, *climbs):
        assignee(who)
    shown = config.get("show")
    exprs = [expr for expr in shown if isinstance(expr, str)] if isinstance(shown, list) else []
    task["show"] = {expr: ground.expressions.evaluate(expr, names) for expr in exprs}
    edit = config.get("edit")
    if isinstance(edit, str):
        task["edit"] = ground.expressions.evaluate(edit, names)
    return task


def _again(ground: Ground, step: Step, path: str, attempt: int, entry: Entry | Note) -> bool:
    """Is a failed attempt followed by another: by the retry policy, or because a person said so."""
    decision = ground.decided(path, attempt)
    if decision is not None:
        return decision == "retry"
    most = step.retry.max if step.retry is not None else 0
    if attempt > most or field_of(entry, "retry", path) is not True:
        return False
    return step.budget_eur is None or ground.purse.spent(path) < step.budget_eur


def _pause(retry: Retry, failed: int) -> timedelta:
    # Past this many doublings the longest wait holds anyway; the power itself would overflow.
    doubled = 2 ** min(failed - 1, 32) if retry.backoff == "exponential" else 1
    return timedelta(seconds=min(retry.first_s * doubled, _LONGEST_WAIT_S))


def _key(written: JSON) -> str:
    if written is None:
        return ""
    if not isinstance(written, str | int | float | bool):
        raise Invalid("cannot use a list or a map as the key of an event: give a text")
    return str(written)


def _time(written: JSON, path: str) -> datetime:
    """Read a time; one without a zone is in UTC."""
    try:
        at = datetime.fromisoformat(str(written))
    except ValueError as wrong:
        raise Invalid(f"{path!r} cannot wait until {str(written)[:80]!r}: write it like 2026-12-24T18:00Z") from wrong
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
