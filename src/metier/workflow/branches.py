"""Steps that go on in several branches at once: the sections of a parallel, the items of a foreach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from metier.calls import JSON
from metier.errors import Invalid, MetierError, NonDeterministicReplay
from metier.workflow.commands import CHILD, GATHERED, Failure, Finish, Items, Park, Under
from metier.workflow.definition import Step
from metier.workflow.ground import Ground, Scope, failure_of, field_of
from metier.workflow.strands import Nursery, Way

__all__ = ["PATHS_MAX", "WIDTH", "foreach", "parallel"]

PATHS_MAX = 50
"""Items a foreach goes through as paths of its own run; more become runs of their own."""
WIDTH = 10
"""Items under way at once where the definition does not say."""


def parallel(ground: Ground, step: Step, path: str, scope: Scope) -> Way:
    """Go through every section at once; when all have ended, go on, or fail as the first that failed."""
    config = step.config if isinstance(step.config, dict) else {}
    written = config.get("concurrency")
    width = written if isinstance(written, int) else len(step.branches)
    nursery = Nursery(ground.strands)
    scopes = [scope.fork() for _ in step.branches]
    ends: dict[int, Finish] = {}
    started = 0
    while True:
        while started < len(step.branches) and len(nursery.children) < width:
            branch = step.branches[started]
            nursery.begin(started, ground.sequence(branch.steps, f"{path}.{branch.name}.", scopes[started]))
            started += 1
        if not nursery.children:
            break
        yield nursery
        ends.update((number, end) for number, end in nursery.collect() if end is not None)
    for branch, inner in zip(step.branches, scopes, strict=True):
        scope.values.update({child.id: inner.values[child.id] for one in branch.steps for child in one.walk()})
    failed = next((ends[number] for number in sorted(ends) if ends[number].failure is not None), None)
    if failed is not None and failed.failure is not None:
        return (yield from ground.recover(step, path, failed.failure, scope))
    if ends:
        return ends[min(ends)]
    scope.values[step.id] = {branch.name: True for branch in step.branches}
    return None


@dataclass(slots=True)
class _Plan:
    """What a foreach goes through, and how."""

    items: list[JSON]
    width: int
    collect: bool
    runs: bool
    attempt: int = 1
    """How often those that failed were gone through, where they are runs."""
    settled: bool = False
    """Whether the definition or a person has said what becomes of its failure."""


def foreach(ground: Ground, step: Step, path: str, scope: Scope) -> Way:
    """Go through the body once for each item, some at a time, and gather what they give."""
    try:
        plan = _plan(ground, step, path, scope)
    except MetierError as error:
        return (yield from ground.failed(step, path, error, "its items", scope))
    given: dict[int, JSON] = {}
    failures: dict[int, Failure] = {}
    if plan.runs and plan.items:
        stopped = yield from _runs(ground, step, path, scope, plan, given, failures)
        if stopped is not None or plan.settled:
            return stopped
    else:
        yield from _paths(ground, step, path, scope, plan, given, failures)
    if failures and not plan.collect:
        return (yield from ground.recover(step, path, failures[min(failures)], scope))
    items: list[JSON] = [given.get(index) for index in range(len(plan.items))]
    errors: list[JSON] = [
        {"index": index, "code": failures[index].code, "message": failures[index].message} for index in sorted(failures)
    ]
    config = step.config if isinstance(step.config, dict) else {}
    value: JSON = {"items": items, "errors": errors, "count": len(items), "failed": len(errors)}
    if "give" in config:
        try:
            value = ground.expressions.render(config["give"], {**scope.names(), "items": items, "errors": errors})
        except MetierError as error:
            return (yield from ground.failed(step, path, error, "what it gives", scope))
    scope.values[step.id] = value
    return None


def _plan(ground: Ground, step: Step, path: str, scope: Scope) -> _Plan:
    config = step.config if isinstance(step.config, dict) else {}
    times, most, width = config.get("times"), config.get("max"), config.get("concurrency")
    if times is not None:
        number = ground.expressions.render(times, scope.names())
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise Invalid(f"{path!r} cannot be repeated {str(number)[:80]!r} times: give a whole number")
        items: JSON = list(range(number))
    else:
        items = ground.expressions.render(config.get("over"), scope.names())
    if not isinstance(items, list):
        raise Invalid(f"{path!r} needs a list to go through, not {type(items).__name__}")
    if isinstance(most, int) and len(items) > most:
        raise Invalid(f"{path!r} has {len(items)} items, more than its max of {most}: raise it, or give fewer")
    written = config.get("as")
    return _Plan(
        items=items,
        width=width if isinstance(width, int) and width > 0 else WIDTH,
        collect=config.get("on_item_error") == "collect",
        runs=not ground.inline and (written == "runs" or (written != "paths" and len(items) > PATHS_MAX)),
    )


def _paths(
    ground: Ground,
    step: Step,
    path: str,
    scope: Scope,
    plan: _Plan,
    given: dict[int, JSON],
    failures: dict[int, Failure],
) -> Way:
    """Go through the items as branches of this run.

    When an item fails that must not, those less than a width behind it still end: so which ones run
    follows from the journal alone, in whatever order its lines came.
    """
    nursery = Nursery(ground.strands)
    started, bound = 0, len(plan.items)
    while True:
        while started < bound and len(nursery.children) < plan.width:
            inner = scope.fork(item=plan.items[started], index=started)
            nursery.begin(started, _item(ground, step, f"{path}[{started}]", inner, given, failures))
            started += 1
        if not nursery.children:
            return None
        yield nursery
        nursery.collect()
        if failures and not plan.collect and min(failures) + plan.width < bound:
            bound = min(failures) + plan.width
            for number in range(bound, started):
                nursery.drop(number)


def _item(
    ground: Ground, step: Step, path: str, scope: Scope, given: dict[int, JSON], failures: dict[int, Failure]
) -> Way:
    index = scope.named["index"]
    assert isinstance(index, int)
    over = yield from ground.sequence(step.steps, f"{path}.", scope)
    if over is not None and over.failure is not None:
        failures[index] = over.failure
    elif over is not None and over.output is not None:
        given[index] = over.output
    else:
        config = step.config if isinstance(step.config, dict) else {}
        try:
            given[index] = ground.expressions.render(_each(step, config.get("each")), scope.names())
        except MetierError as error:
            failures[index] = Failure(error.code, f"what {path!r} gives could not be made: {error.message}", path, 1)
    return None


def _each(step: Step, written: JSON) -> JSON:
    return f"{{{{ steps.{step.steps[-1].id} }}}}" if written is None and step.steps else written


def _runs(
    ground: Ground,
    step: Step,
    path: str,
    scope: Scope,
    plan: _Plan,
    given: dict[int, JSON],
    failures: dict[int, Failure],
) -> Way:
    """Let the items be runs of their own, and those that failed once more, each time somebody says so."""
    numbers = tuple(range(len(plan.items)))
    while True:
        stopped = yield from _gathering(ground, step, path, scope, plan, numbers)
        if stopped is not None or plan.settled:
            return stopped
        failures.clear()
        _read(ground, path, plan.attempt, numbers, given, failures)
        if not failures or plan.collect:
            return None
        numbers = tuple(sorted(failures))
        # Whoever resumes a run decides about the item it has failed at.
        if not any(ground.decided(f"{path}[{number}]", plan.attempt) == "retry" for number in numbers):
            while ground.decided(path, plan.attempt) != "retry":
                found = ground.policy(step, path, failures[numbers[0]], scope, plan.attempt)
                if not isinstance(found, Park):
                    plan.settled = True
                    return found
                yield replace(found, schema=_again(found.schema))
        plan.attempt += 1


def _gathering(ground: Ground, step: Step, path: str, scope: Scope, plan: _Plan, numbers: tuple[int, ...]) -> Way:
    """Start the runs of some items, and wait until all are over."""
    attempt = plan.attempt
    while ground.entry(path, attempt, GATHERED) is None:
        failed = ground.entry(path, attempt)
        if failed is not None and failed.kind == "error":
            found = ground.policy(step, path, failure_of(failed, path, attempt), scope, attempt)
            if not isinstance(found, Park):
                plan.settled = True
                return found
            yield found
        elif ground.entry(path, attempt, CHILD) is not None:
            yield Under(path, attempt, step, many=True)
        else:
            names = scope.names()
            around = {key: names[key] for key in names if key not in ("item", "index")}
            only = None if attempt == 1 else numbers
            yield Items(path, attempt, step, tuple(plan.items), around, plan.width, plan.collect, only=only)
    return None


def _again(schema: Mapping[str, JSON] | None) -> Mapping[str, JSON]:
    """Let a person say that the items that failed are to be gone through once more."""
    found = dict(schema or {})
    properties = found.get("properties")
    choices: JSON = {"enum": ["retry", "output", "fail"]}
    found["properties"] = {**(properties if isinstance(properties, dict) else {}), "decision": choices}
    return found


def _read(
    ground: Ground,
    path: str,
    attempt: int,
    numbers: tuple[int, ...],
    given: dict[int, JSON],
    failures: dict[int, Failure],
) -> None:
    gathered = ground.entry(path, attempt, GATHERED)
    assert gathered is not None
    outcomes = field_of(gathered, "outcomes", path)
    if not isinstance(outcomes, list) or len(outcomes) != len(numbers):
        raise NonDeterministicReplay(f"the journal has not the outcomes of the items of {path!r}")
    for index, outcome in zip(numbers, outcomes, strict=True):
        if not isinstance(outcome, dict):
            continue
        if "code" in outcome:
            code, message = str(outcome["code"]), str(outcome.get("message"))
            failures[index] = Failure(code, message, f"{path}[{index}]", attempt)
        else:
            given[index] = outcome.get("value")
