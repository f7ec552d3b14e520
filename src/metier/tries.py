"""Asks the deployments of a way in turn until one begins to answer; from then on its answer is the answer."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace

from metier.calls import Call, Chunk
from metier.deployment import Deployment
from metier.errors import Invalid, NoDeployment, ProviderTimeout, Unavailable
from metier.providers.base import Provider, retry_after_s, told_by_deployment
from metier.providers.cause import caused
from metier.record.entry import Entry
from metier.router import Health, Retries, plan
from metier.ways import Way

__all__ = ["Tries"]

_MOST_TRIES = 5
_MOST_TOKENS = 1_000_000_000
"""No call has so many tokens: a provider that says so is not believed."""


class Tries:
    """Holds the providers, and what this worker has seen of their deployments."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        health: Health | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._providers = providers
        self.health = health or Health()
        """How each deployment stands in the eyes of this worker."""
        self._retries = Retries()
        self._clock = clock
        self._dice = dice

    async def answer(self, call: Call, way: Way, entry: Entry) -> AsyncGenerator[Chunk, None]:
        """Yield the answer of the first deployment that gives content; once it has, its failure is the call's."""
        clock, health, began = self._clock, self.health, self._clock()
        tokens = max(1, entry.input_tokens)
        self._retries.called(way.model.name, began)
        failure: Unavailable | None = None
        refusal: Invalid | None = None
        tried = 0
        for deployment in plan(way.groups, health, clock, self._dice, call, tokens):
            provider = self._providers.get(deployment.provider)
            if provider is None:
                failure = failure or _not_installed(deployment)
                continue
            if tried and not self._may_try_again(way, tried, clock() - began):
                break
            tried += 1
            entry.deployment, entry.tries = deployment, tried
            flight = health.began(deployment, tokens, clock())
            begun = landed = False
            early: list[Chunk] = []
            chunks = provider.stream(call, deployment)
            try:
                async for given in chunks:
                    chunk = given if given.usage is None else _believed(given)
                    if not begun:
                        if not _says_something(chunk):
                            early.append(chunk)
                            continue
                        begun = True
                        health.first(flight, clock())
                        for held in early:
                            entry.observe(held)
                            yield held
                    entry.observe(chunk)
                    yield chunk
                landed = True
                health.answered(flight, entry.usage.output_tokens if entry.usage else 0, clock())
                return
            except Unavailable as error:
                landed = True
                health.failed(flight, clock(), retry_after_s(error), silent=isinstance(error, ProviderTimeout))
                # Text that was shown cannot be taken back: from here on the failure is the caller's to see.
                if begun:
                    raise
                failure = error
            except Invalid as error:
                # What this deployment cannot take another may; what a deployment itself refused is the caller's.
                if begun or early or told_by_deployment(error):
                    raise
                refusal, tried = error, tried - 1
            finally:
                if not landed:
                    health.left(flight, clock())
                if isinstance(chunks, AsyncGenerator):
                    await chunks.aclose()
        if failure is not None:
            raise self._together(failure, way)
        raise refusal or NoDeployment(f"no deployment of model {way.model.name!r} can take the call")

    def _together(self, failure: Unavailable, way: Way) -> Unavailable:
        """Say of the last failure which deployments fail beside it, and since when, where there are several."""
        every = {deployment.id: deployment for group in way.groups for deployment in group.deployments}
        told = self.health.down(every.values(), self._clock())
        if len(told) < 2:
            return failure
        joined = type(failure)(
            f"{failure.message}; {len(told)} of the {len(every)} deployments of {way.model.name!r} are down: "
            f"{', '.join(told)}",
            param=failure.param,
        )
        vars(joined).update({name: value for name, value in vars(failure).items() if name not in ("message", "param")})
        joined.__cause__ = failure.__cause__
        return joined

    def _may_try_again(self, way: Way, tried: int, waited_s: float) -> bool:
        """A call tries a few times, within the patience of its first deployment and the retries its model has left."""
        patience_s = way.model.deployments[0].timeout_s
        if tried >= _MOST_TRIES or waited_s >= patience_s:
            return False
        return self._retries.allow(way.model.name, way.model.retry_percent, self._clock())


def _not_installed(deployment: Deployment) -> NoDeployment:
    missing = NoDeployment(
        f"deployment {deployment.id!r} needs the provider {deployment.provider!r}, which is not installed here: "
        "install its extra or remove the deployment"
    )
    return caused(missing, "not_installed")


def _says_something(chunk: Chunk) -> bool:
    """Tell content from what may be thrown away with a failed try: openings, keep-alives and early counts."""
    return bool(
        chunk.text
        or chunk.finish
        or chunk.tool_calls
        or chunk.reasoning
        or chunk.vectors
        or chunk.scores
        or chunk.media
    )


def _believed(chunk: Chunk) -> Chunk:
    """Leave out a count that cannot be true: it would spoil the money of the house, and ours is better than none."""
    usage = chunk.usage
    assert usage is not None
    counts = (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.cache_write_tokens)
    if min(counts) < 0 or max(counts) >= _MOST_TOKENS or not (max(counts) or usage.audio_s):
        return replace(chunk, usage=None)
    return chunk
