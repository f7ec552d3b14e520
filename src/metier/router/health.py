"""What one worker has seen of each deployment: how fast, how loaded, who rests and until when; memory fades."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from metier.deployment import Deployment

__all__ = ["Flight", "Health", "Standing"]

_FIRST_REST_S = 1.0
_LONGEST_REST_S = 60.0
_FORGIVEN_S = 120.0
_MEMORY_S = 10.0
"""How fast a peak is forgotten while calls are made."""
_FADE_S = 30.0
"""How fast what was seen stops counting when no call is made."""
_SLOW_START_S = 30.0
_LEAST_RAMP = 0.1
_PROMPT_UNIT = 1000.0
"""Input tokens that about double the time to first token."""
_TYPICAL_OUTPUT = 200
_ANSWER_TOKENS = 1_000
"""What writing a typical answer occupies a server with, as tokens of input it could have read."""
_MINUTE_S = 60.0
_QUICKEST_S = 1e-3


@dataclass(frozen=True, slots=True)
class Standing:
    """How a deployment stands in the eyes of this worker, for pages and metrics."""

    in_flight: int
    unread_tokens: int
    """Input tokens of those that have given no content yet."""
    first_token_s: float
    """Peak for a prompt of no length at a server without others; 0.0 when unknown."""
    token_s: float
    """Seconds for each output token; 0.0 when unknown."""
    failures: int
    rests_until: float


class Flight:
    """One try of a call at one deployment, from its beginning to its end."""

    __slots__ = ("ahead", "began", "deployment", "first_at", "tokens")

    def __init__(self, deployment: Deployment, tokens: int, ahead: int, began: float) -> None:
        self.deployment = deployment
        self.tokens = tokens
        self.ahead = ahead
        """Tokens to be read before its first word: its own and those of the calls before it."""
        self.began = began
        self.first_at: float | None = None


class _Peak:
    """An average that rises at once to what is worse and falls slowly to what is better."""

    __slots__ = ("at", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.at = 0.0

    def see(self, value: float, now: float) -> None:
        if value >= self.value:
            self.value = value
        else:
            kept = math.exp(-max(0.0, now - self.at) / _MEMORY_S)
            # Even at a great rate of calls each good answer counts a little.
            kept = min(kept, 0.95)
            self.value = self.value * kept + value * (1.0 - kept)
        self.at = now


class _Meter:
    """Counts what was asked in the last minute, by two windows of which the older one fades out."""

    __slots__ = ("before", "current", "window")

    def __init__(self) -> None:
        self.window = 0
        self.current = 0.0
        self.before = 0.0

    def used(self, now: float) -> float:
        window, into = divmod(now, _MINUTE_S)
        passed = int(window) - self.window
        if passed:
            self.before = self.current if passed == 1 else 0.0
            self.current = 0.0
            self.window = int(window)
        return self.current + self.before * (1.0 - into / _MINUTE_S)

    def add(self, amount: float, now: float) -> None:
        self.used(now)
        self.current += amount


class _Seen:
    """Everything seen of one deployment."""

    __slots__ = (
        "back_at",
        "calls",
        "failures",
        "first",
        "probe",
        "ramp_s",
        "requests",
        "since",
        "spoke_at",
        "token",
        "tokens",
        "unread",
        "until",
    )

    def __init__(self) -> None:
        self.calls = 0
        self.unread = 0
        """Tokens of the calls under way that have given no content yet."""
        self.first = _Peak()
        self.token = _Peak()
        self.failures = 0
        self.since = -math.inf
        self.spoke_at = -math.inf
        self.until = 0.0
        self.probe: Flight | None = None
        self.back_at = -math.inf
        self.ramp_s = _SLOW_START_S
        self.requests: _Meter | None = None
        self.tokens: _Meter | None = None


class Health:
    """What this worker has seen of each deployment; every call tells it how it began and how it ended."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def began(self, deployment: Deployment, tokens: int, now: float) -> Flight:
        """Note that a call of so many input tokens goes to a deployment; end the flight with one of the next three."""
        seen = self._of(deployment)
        seen.calls += 1
        seen.unread += tokens
        flight = Flight(deployment, tokens, seen.unread, now)
        if seen.failures and seen.probe is None and seen.until <= now:
            seen.probe = flight
        if seen.requests is not None:
            seen.requests.add(1, now)
        if seen.tokens is not None:
            seen.tokens.add(tokens, now)
        return flight

    def first(self, flight: Flight, now: float) -> None:
        """Note the first piece of content: how long it took says most about a deployment."""
        flight.first_at = now
        seen = self._of(flight.deployment)
        seen.unread -= flight.tokens
        seen.spoke_at = now
        seen.first.see((now - flight.began) / _prompt(flight.ahead), now)

    def answered(self, flight: Flight, output_tokens: int, now: float) -> None:
        """Note a whole answer: the deployment is well, and comes back slowly if it had failed."""
        seen = self._land(flight)
        if flight.first_at is not None and output_tokens > 1:
            seen.token.see((now - flight.first_at) / output_tokens, now)
        if seen.tokens is not None:
            seen.tokens.add(output_tokens, now)
        # An answer that began before the failure says nothing about the time since.
        if seen.failures and flight.began >= seen.since:
            seen.failures = 0
            seen.back_at = now

    def failed(self, flight: Flight, now: float, wait_s: float | None = None, *, silent: bool = False) -> None:
        """Let the deployment rest, twice as long at each failure in a row, or as long as it asked.

        One that was silent for this call but spoke to others meanwhile is not down, only slow: taking its place
        away would press on the others, until all of them were taken away.
        """
        seen = self._land(flight)
        if silent and seen.spoke_at >= flight.began:
            seen.first.see((now - flight.began) / _prompt(flight.ahead), now)
            return
        known = flight.began < seen.since and seen.until > now
        if known:
            # The calls under way when it failed fail with it: they are one failure, not many.
            if wait_s is not None:
                seen.until = max(seen.until, now + wait_s)
            return
        seen.failures = 1 if now - seen.since > _FORGIVEN_S else seen.failures + 1
        rest = min(_FIRST_REST_S * 2 ** min(seen.failures - 1, 16), _LONGEST_REST_S) if wait_s is None else wait_s
        seen.since = now
        seen.until = now + rest
        seen.ramp_s = min(_SLOW_START_S, 4 * rest)

    def left(self, flight: Flight, now: float) -> None:
        """Note that nobody waits for this answer any more; a silence until then still says how slow it is."""
        seen = self._land(flight)
        waited = (now - flight.began) / _prompt(flight.ahead)
        if flight.first_at is None and waited > seen.first.value > 0.0:
            seen.first.see(waited, now)

    def rests_until(self, deployment: Deployment, now: float, tokens: int = 0) -> float:
        """Tell when the deployment can take a call of so many tokens; 0.0 when it can now."""
        seen = self._seen.get(deployment.id)
        if seen is None:
            return 0.0
        if seen.failures or seen.until > now:
            if seen.until > now:
                return seen.until
            if seen.probe is not None:
                # Half open: one call finds out for all.
                return now + _FIRST_REST_S
        if seen.requests is not None and deployment.rpm and seen.requests.used(now) + 1 > deployment.rpm:
            return now + _MINUTE_S / deployment.rpm
        if seen.tokens is not None and deployment.tpm:
            used = seen.tokens.used(now)
            if used > 0 and used + tokens > deployment.tpm:
                return now + min(_MINUTE_S, _MINUTE_S * tokens / deployment.tpm)
        return 0.0

    def down(self, deployments: Iterable[Deployment], now: float) -> list[str]:
        """Name those of them that fail, with how often in a row and since when, for messages."""
        told = []
        for deployment in deployments:
            seen = self._seen.get(deployment.id)
            if seen is not None and seen.failures:
                ago = f"{max(0.0, now - seen.since):.0f} s ago"
                told.append(f"{deployment.id!r} (failed {seen.failures} times in a row, last {ago})")
        return told

    def load(self, deployment: Deployment) -> int:
        """Work under way at a deployment, in tokens of input; an answer to come counts as so many."""
        seen = self._seen.get(deployment.id)
        return seen.unread + seen.calls * _ANSWER_TOKENS if seen is not None else 0

    def margin(self, one: Deployment, other: Deployment, tokens: int, now: float) -> float:
        """Tell how much worse `one` is for a call than `other`: expected time x load; 1.0 when they are alike."""
        mine, theirs = self._seen.get(one.id), self._seen.get(other.id)
        if mine is None or theirs is None:
            return (_busy(mine, one, tokens, now)) / (_busy(theirs, other, tokens, now))
        here, there = _pace(mine, tokens), _pace(theirs, tokens)
        ratio = 1.0
        if here > 0.0 and there > 0.0:
            # An old impression fades: what was slow is tried again, one call at a time.
            if here > there:
                here = there + (here - there) * _fresh(mine, now)
            else:
                there = here + (there - here) * _fresh(theirs, now)
            ratio = max(here, _QUICKEST_S) / max(there, _QUICKEST_S)
        return ratio * _busy(mine, one, tokens, now) / _busy(theirs, other, tokens, now)

    def standing(self, now: float) -> Mapping[str, Standing]:
        """Show how each deployment seen so far stands."""
        return {
            name: Standing(
                seen.calls, seen.unread, seen.first.value, seen.token.value, seen.failures,
                seen.until if seen.until > now else 0.0,
            )
            for name, seen in self._seen.items()
        }  # fmt: skip

    def _of(self, deployment: Deployment) -> _Seen:
        seen = self._seen.get(deployment.id)
        if seen is None:
            seen = self._seen[deployment.id] = _Seen()
            seen.requests = _Meter() if deployment.rpm else None
            seen.tokens = _Meter() if deployment.tpm else None
        return seen

    def _land(self, flight: Flight) -> _Seen:
        seen = self._of(flight.deployment)
        seen.calls -= 1
        if flight.first_at is None:
            seen.unread -= flight.tokens
        if seen.probe is flight:
            seen.probe = None
        return seen


def _prompt(tokens: int) -> float:
    return 1.0 + tokens / _PROMPT_UNIT


def _pace(seen: _Seen, tokens: int) -> float:
    """Seconds a call would take there if it were alone; 0.0 when nothing is known."""
    return seen.first.value * _prompt(tokens) + seen.token.value * _TYPICAL_OUTPUT


def _fresh(seen: _Seen, now: float) -> float:
    return math.exp(-max(0.0, now - max(seen.first.at, seen.token.at)) / _FADE_S)


def _busy(seen: _Seen | None, deployment: Deployment, tokens: int, now: float) -> float:
    """Load with this call on it, larger while the deployment comes back from a rest."""
    if seen is None:
        return float(tokens + _ANSWER_TOKENS)
    ramp = 1.0
    back = now - seen.back_at
    if back < seen.ramp_s:
        ramp = max(_LEAST_RAMP, back / seen.ramp_s)
    # At rest all weights are alike, the draw has already followed them; under load the stronger one is less busy.
    return ((seen.unread + seen.calls * _ANSWER_TOKENS) / deployment.weight + tokens + _ANSWER_TOKENS) / ramp
