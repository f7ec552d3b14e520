"""Counts every call in memory when it ends, in few enough series, for whoever watches this worker."""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from metier.calls import CallId
from metier.record.entry import Entry
from metier.record.exposition import Family, Kind, Sample
from metier.record.genai import Names, names

__all__ = ["OTHER", "Metrics"]

OTHER = "other"
"""Label of what is not known here, or came after as many series as are kept."""

_DURATIONS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_PER_TOKEN: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS: Final = tuple(4.0**power for power in range(14))
_MOST_TALLIES = 2_000
_MOST_TIMINGS = 300

_Place = tuple[str, str, str, str, str]
"""Project, system, model, deployment, outcome."""


class _Histogram:
    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def see(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def samples(self, labels: Mapping[str, str]) -> Iterator[Sample]:
        total = 0
        if not any(self.counts):
            return
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            yield Sample({**labels, "le": bound}, total, "_bucket")
        yield Sample(labels, self.sum, "_sum")
        yield Sample(labels, total, "_count")


class _Tally:
    """What the calls of one place came to."""

    __slots__ = (
        "answered_by",
        "cached",
        "calls",
        "carbon",
        "cost",
        "energy",
        "hits",
        "input",
        "masked",
        "not_estimated",
        "output",
        "provider",
        "reasoning",
        "retries",
        "saved",
        "unpriced",
    )  # fmt: skip

    def __init__(self, provider: str, answered_by: str) -> None:
        self.provider = provider
        self.answered_by = answered_by
        self.calls = self.input = self.output = self.cached = self.reasoning = 0
        self.retries = self.masked = self.unpriced = self.not_estimated = 0
        self.hits = {"exact": 0, "semantic": 0}
        self.cost = self.saved = 0.0
        self.energy = [0.0, 0.0]
        self.carbon = [0.0, 0.0]


class _Timing:
    """How long the calls of one model at one deployment took."""

    __slots__ = ("first", "input", "output", "per_token", "whole")

    def __init__(self) -> None:
        self.whole: dict[str, _Histogram] = {}
        """By what went wrong; "" for an answer."""
        self.first = _Histogram(_FIRST)
        self.per_token = _Histogram(_PER_TOKEN)
        self.input = _Histogram(_TOKENS)
        self.output = _Histogram(_TOKENS)


class Metrics:
    """Told of each call when it begins and ends; `families` gives everything counted so far."""

    def __init__(self, known: Callable[[str], bool] = lambda _: True) -> None:
        self._known = known
        """Whether a name is that of a model here: what clients invent must not become a series."""
        self._names: Names = names()
        self._flying: dict[CallId, str] = {}
        self._tallies: dict[_Place, _Tally] = {}
        self._timings: dict[tuple[str, str, str, str, str], _Timing] = {}
        self._sources: list[Callable[[], Sequence[Family]]] = []

    def add(self, *sources: Callable[[], Sequence[Family]]) -> None:
        """Ask `sources` for further families whenever somebody looks."""
        self._sources += sources

    def began(self, entry: Entry) -> None:
        """Note that a call is under way."""
        model = entry.call.model
        self._flying[entry.call.id] = model if self._known(model) else OTHER

    def ended(self, entry: Entry) -> None:
        """Count a call that is over: the one place where a call costs its metrics."""
        call, deployment, usage = entry.call, entry.deployment, entry.usage
        model = self._flying.pop(call.id, OTHER)
        who, outcome = call.principal, entry.outcome or "failed"
        place = (who.project, who.system, model, deployment.id if deployment else "", outcome)
        tally = self._tallies.get(place) or self._tally(place, entry)
        tally.calls += 1
        tally.retries += entry.tries - 1
        if entry.masked:
            tally.masked += sum(entry.masked.values())
        if entry.kept is not None and entry.kept.hit is not None:
            tally.hits[entry.kept.hit] += 1
            tally.saved += float(entry.kept.saved_eur)
        if deployment is None:
            return
        tally.cost += float(entry.cost)
        tally.unpriced += deployment.price is None
        if entry.impact.energy_kwh is None:
            tally.not_estimated += 1
        else:
            tally.energy[0] += entry.impact.energy_kwh.low
            tally.energy[1] += entry.impact.energy_kwh.high
        if entry.impact.carbon_g is not None:
            tally.carbon[0] += entry.impact.carbon_g.low
            tally.carbon[1] += entry.impact.carbon_g.high
        timing = self._timing((call.operation, deployment.provider, model, deployment.model_id, deployment.id))
        error = "" if outcome == "answered" else entry.error_code or outcome
        whole = timing.whole.get(error) or timing.whole.setdefault(error, _Histogram(_DURATIONS))
        whole.see(entry.duration_s)
        if usage is not None:
            tally.input += usage.input_tokens
            tally.output += usage.output_tokens
            tally.cached += usage.cached_tokens
            tally.reasoning += usage.reasoning_tokens
            timing.input.see(usage.input_tokens)
            timing.output.see(usage.output_tokens)
            if entry.first_token_s is not None and not error:
                timing.first.see(entry.first_token_s)
                if usage.output_tokens > 1:
                    timing.per_token.see((entry.duration_s - entry.first_token_s) / (usage.output_tokens - 1))

    def families(self) -> list[Family]:
        """Give every family this worker has, those of its other parts included."""
        found = [*self._counted(), *self._timed(), *self._aliases()]
        under_way = Counter(self._flying.values())
        flying = [Sample({"model": model}, number) for model, number in sorted(under_way.items())]
        found.append(Family("metier_calls_in_flight", "gauge", "Calls under way.", flying or [Sample({}, 0)]))
        for source in self._sources:
            found += source()
        return found

    def _tally(self, place: _Place, entry: Entry) -> _Tally:
        if len(self._tallies) >= _MOST_TALLIES:
            place = (OTHER, OTHER, OTHER, OTHER, place[4])
            if place in self._tallies:
                return self._tallies[place]
        deployment = entry.deployment
        provider, model = (deployment.provider, deployment.model_id) if deployment else ("", "")
        tally = self._tallies[place] = _Tally(self._names.provider(provider), model)
        return tally

    def _timing(self, key: tuple[str, str, str, str, str]) -> _Timing:
        timing = self._timings.get(key)
        if timing is None:
            if len(self._timings) >= _MOST_TIMINGS:
                key = (key[0], key[1], OTHER, OTHER, OTHER)
            timing = self._timings.setdefault(key, _Timing())
        return timing

    def _counted(self) -> Iterator[Family]:
        def of(name: str, about: str, value: Callable[[_Tally], float]) -> Family:
            samples = [Sample(_labels(place), value(tally)) for place, tally in self._tallies.items()]
            return Family(name, "counter", about, samples)

        def ranged(name: str, about: str, value: Callable[[_Tally], Sequence[float]]) -> Family:
            samples = [
                Sample({**_labels(place), "bound": bound}, value(tally)[number])
                for place, tally in self._tallies.items() for number, bound in enumerate(("low", "high"))
            ]  # fmt: skip
            return Family(name, "counter", about, samples)

        yield of("metier_calls_total", "Calls that ended, by outcome.", lambda t: t.calls)
        yield of("metier_cost_euros_total", "What calls cost, in euros.", lambda t: t.cost)
        yield of("metier_input_tokens_total", "Tokens read.", lambda t: t.input)
        yield of("metier_output_tokens_total", "Tokens written, thoughts included.", lambda t: t.output)
        yield of("metier_cached_tokens_total", "Tokens read out of the providers' caches.", lambda t: t.cached)
        yield of("metier_reasoning_tokens_total", "Tokens of thoughts.", lambda t: t.reasoning)
        for kind in ("exact", "semantic"):
            about = f"Calls answered out of kept answers, {kind}."
            yield of(f"metier_cache_{kind}_hits_total", about, functools.partial(_hits, kind))
        yield of("metier_cache_saved_euros_total", "What kept answers had cost the first time.", lambda t: t.saved)
        yield of("metier_retries_total", "Further deployments asked after the first.", lambda t: t.retries)
        yield of("metier_masked_values_total", "Personal values masked before a call.", lambda t: t.masked)
        yield of("metier_calls_unpriced_total", "Calls whose price is unknown; they cost 0 here.", lambda t: t.unpriced)
        yield of("metier_calls_not_estimated_total", "Calls without an estimate of energy.", lambda t: t.not_estimated)
        yield ranged("metier_energy_kwh_total", "Energy of calls, estimated, as a range.", lambda t: t.energy)
        yield ranged("metier_carbon_grams_total", "Carbon of calls, estimated, as a range.", lambda t: t.carbon)

    def _timed(self) -> Iterator[Family]:
        known = self._names
        wholes: list[Sample] = []
        firsts: list[Sample] = []
        paces: list[Sample] = []
        tokens: list[Sample] = []
        for key, timing in self._timings.items():
            labels = self._served(key)
            for error, whole in timing.whole.items():
                named = {**labels, known.label("error"): error} if error else labels
                wholes += whole.samples(named)
            firsts += timing.first.samples(labels)
            paces += timing.per_token.samples(labels)
            for kind, histogram in (("input", timing.input), ("output", timing.output)):
                tokens += histogram.samples({**labels, known.label("token_type"): kind})
        since = "from when Métier took the call, waits and retries included"
        yield _histogram(known.metrics["token_usage"], "Tokens of each call.", tokens)
        yield _histogram(
            known.metrics["request_duration"], f"Seconds of calls that reached a deployment, {since}.", wholes
        )
        yield _histogram(known.metrics["operation_duration"], "The same, as the client of a provider names it.", wholes)
        yield _histogram(known.metrics["first_token"], f"Seconds until the first piece of an answer, {since}.", firsts)
        yield _histogram(
            known.metrics["per_token"], "Seconds for each token of an answer after the first piece.", paces
        )

    def _served(self, key: tuple[str, str, str, str, str]) -> dict[str, str]:
        operation, provider, asked, answered, deployment = key
        return {
            self._names.label("operation"): self._names.operation(operation),
            self._names.label("provider"): self._names.provider(provider),
            self._names.label("asked"): asked,
            self._names.label("answered"): answered,
            "deployment": deployment,
        }

    def _aliases(self) -> Iterator[Family]:
        """The figures that dashboards made for LiteLLM read, by the labels they read them with."""
        alias = self._names.aliases

        def of(name: str, about: str, value: Callable[[_Tally, str], float]) -> Family:
            sums: dict[tuple[str, str, str, str], float] = {}
            for (project, _, model, _, outcome), tally in self._tallies.items():
                place = (project, model, tally.answered_by, tally.provider)
                sums[place] = sums.get(place, 0) + value(tally, outcome)
            keys = ("team", "requested_model", "model", "api_provider")
            samples = [Sample(dict(zip(keys, place, strict=True)), total) for place, total in sums.items()]
            return Family(f"{alias[name]}_total", "counter", about, samples)

        yield of("calls", "As metier_calls_total.", lambda t, _: t.calls)
        yield of("failed", "Calls that were not answered.", lambda t, o: 0 if o == "answered" else t.calls)
        yield of("spend", "As metier_cost_euros_total: in euros, not in dollars.", lambda t, _: t.cost)
        yield of("tokens", "Tokens read and written.", lambda t, _: t.input + t.output)
        yield of("input", "As metier_input_tokens_total.", lambda t, _: t.input)
        yield of("output", "As metier_output_tokens_total.", lambda t, _: t.output)
        yield of("cached", "As metier_cached_tokens_total.", lambda t, _: t.cached)
        told = (("duration", "Seconds of each answered call."), ("first_token", "Seconds until its first piece."))
        for name, about in told:
            samples: list[Sample] = []
            for (_, provider, asked, answered, deployment), timing in self._timings.items():
                histogram = timing.first if name == "first_token" else timing.whole.get("")
                if histogram is not None:
                    labels = {"requested_model": asked, "model": answered, "model_id": deployment}
                    samples += histogram.samples({**labels, "api_provider": self._names.provider(provider)})
            yield _histogram(alias[name], about, samples)


def _hits(kind: str, tally: _Tally) -> int:
    return tally.hits[kind]


def _labels(place: _Place) -> dict[str, str]:
    return dict(zip(("project", "system", "model", "deployment", "outcome"), place, strict=True))


def _histogram(name: str, about: str, samples: list[Sample]) -> Family:
    kind: Kind = "histogram"
    return Family(name, kind, about, samples)
