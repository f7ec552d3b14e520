"""What a definition bounds by itself: tries, turns, items, and how many of them go on side by side."""

from __future__ import annotations

from metier.workflow.branches import PATHS_MAX, WIDTH
from metier.workflow.shape import Step

__all__ = ["as_runs", "items", "lanes", "pauses", "sections", "tries", "turns"]

_LONGEST_WAIT_S = 3600.0
_TURNS, _LIST = 8, 20


def tries(step: Step) -> int:
    """Say how often a step may be tried before somebody is asked."""
    return 1 + (step.retry.max if step.retry is not None else 0)


def pauses(step: Step) -> float:
    """Give the seconds that lie between all tries of a step."""
    retry = step.retry
    if retry is None:
        return 0.0
    grows = retry.backoff == "exponential"
    return sum(min(retry.first_s * (2.0**turn if grows else 1), _LONGEST_WAIT_S) for turn in range(retry.max))


def turns(step: Step) -> tuple[int, int]:
    """Give the fewest and the most turns of a loop that ends well."""
    config = step.config if isinstance(step.config, dict) else {}
    most = config.get("max")
    highest = most if isinstance(most, int) else _TURNS
    return (1 if config.get("until") is not None else highest), highest


def items(step: Step) -> tuple[int, int]:
    """Give the fewest and the most items of a foreach."""
    config = step.config if isinstance(step.config, dict) else {}
    times, most = config.get("times"), config.get("max")
    if isinstance(times, int):
        return times, times
    return 0, most if isinstance(most, int) else _LIST


def lanes(step: Step, number: int) -> int:
    """Say how many items go on side by side, where there are so many."""
    config = step.config if isinstance(step.config, dict) else {}
    written = config.get("concurrency")
    return max(1, min(number, written if isinstance(written, int) and written > 0 else WIDTH))


def sections(step: Step) -> int:
    """Say how many sections of a parallel go on side by side."""
    config = step.config if isinstance(step.config, dict) else {}
    written = config.get("concurrency")
    return max(1, written if isinstance(written, int) else len(step.branches))


def as_runs(step: Step, number: int) -> bool:
    """Say whether items may be runs of their own, which wait in line for workers."""
    written = step.config.get("as") if isinstance(step.config, dict) else None
    return written == "runs" or (written != "paths" and number > PATHS_MAX)
