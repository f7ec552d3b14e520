"""What is counted of calls, in how many series, and how Prometheus reads it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from metier.calls import Call, Chunk, KeyId, Message, Principal, ProjectId, SystemId, Usage
from metier.catalog import Catalog, Deployment
from metier.errors import ProviderUnavailable
from metier.record.entry import Entry
from metier.record.exposition import Family, Sample, packed, text, unpacked
from metier.record.metrics import OTHER, Metrics

CATALOG = Catalog.from_yaml(
    {
        "writer": {"deployments": [{"id": "d1", "provider": "openai", "base_url": "http://127.0.0.1:1/v1",
                                    "model_id": "m-1", "price": {"input": 1, "output": 4}}]},
    }
)  # fmt: skip
DEPLOYMENT: Deployment = CATALOG.model("writer").deployments[0]
PRINCIPAL = Principal(KeyId("k"), ProjectId("p1"), SystemId("s1"))


class Bin:
    """Keeps nothing."""

    def opened(self, *_: object, **__: object) -> None:
        """Let it go."""

    def ended(self, *_: object, **__: object) -> None:
        """Let it go."""


async def call(
    metrics: Metrics, model: str = "writer", usage: Usage | None = None, error: Exception | None = None,
    principal: Principal = PRINCIPAL,
) -> None:  # fmt: skip
    """Make one call, as far as metrics can tell."""
    made = Call(principal, model, messages=(Message("user", "Bonjour"),), end_user="alice@example.com")
    entry = Entry(made, Bin(), [metrics])
    try:
        async with entry:
            if error is None or isinstance(error, ProviderUnavailable):
                entry.deployment = DEPLOYMENT
            if error is not None:
                raise error
            entry.observe(Chunk(text="Bonsoir"))
            entry.observe(Chunk(usage=usage or Usage(input_tokens=100, output_tokens=20, cached_tokens=40)))
            entry.receipt()
    except ProviderUnavailable:
        pass


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the exposition, read back."""

    name: str
    labels: dict[str, str]
    value: float


_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
_SAMPLE = re.compile(rf"({_NAME})\{{(.*)\}} (\S+)")


def read(exposition: bytes) -> Iterator[Line]:
    """Read the text format strictly: a family is whole and in one place, every line is of a known kind."""
    data = exposition.decode()
    assert data.endswith("\n")
    seen: set[str] = set()
    family, kind = "", ""
    for line in data.splitlines():
        if line.startswith("# HELP "):
            family = line.split(" ", 3)[2]
            assert family not in seen, f"{family} stands in two places"
            seen.add(family)
        elif line.startswith("# TYPE "):
            _, _, named, kind = line.split(" ")
            assert (named, kind in ("counter", "gauge", "histogram")) == (family, True)
        else:
            found = _SAMPLE.fullmatch(line)
            assert found is not None, line
            suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
            assert found[1] in {family + suffix for suffix in suffixes}, line
            labels = {}
            rest = found[2]
            while rest:
                label = _LABEL.match(rest)
                assert label is not None, line
                labels[label[1]] = re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], label[2])
                rest = rest[label.end() :]
            yield Line(found[1], labels, float(found[3]))


def lines(metrics: Metrics) -> list[Line]:
    """What a scrape of one worker gives."""
    return list(read(text({"1": metrics.families()})))


def total(found: list[Line], name: str, **labels: str) -> float:
    """Add up what fits."""
    return sum(line.value for line in found if line.name == name and labels.items() <= line.labels.items())


async def test_a_call_is_counted_under_every_name() -> None:
    metrics = Metrics(lambda name: name in CATALOG)
    await call(metrics)
    await call(metrics, error=ProviderUnavailable("away"))
    found = lines(metrics)
    where = {"project": "p1", "system": "s1", "model": "writer", "deployment": "d1"}
    assert total(found, "metier_calls_total", **where, outcome="answered") == 1
    assert total(found, "metier_calls_total", **where, outcome="failed") == 1
    cost = float(Decimal("0.00018"))
    assert math.isclose(total(found, "metier_cost_euros_total"), cost)
    assert math.isclose(total(found, "litellm_spend_metric_total", team="p1", requested_model="writer"), cost)
    assert total(found, "metier_input_tokens_total") == total(found, "litellm_input_tokens_metric_total") == 100
    assert total(found, "metier_cached_tokens_total") == 40
    assert total(found, "litellm_proxy_failed_requests_metric_total") == 1
    served = {"gen_ai_provider_name": "openai", "gen_ai_request_model": "writer", "gen_ai_response_model": "m-1"}
    tokens = "gen_ai_client_token_usage"
    assert total(found, f"{tokens}_sum", **served, gen_ai_token_type="input", gen_ai_operation_name="chat") == 100
    assert total(found, f"{tokens}_bucket", gen_ai_token_type="input", le="64.0") == 0 + 1  # the failed call read none
    assert total(found, "gen_ai_server_request_duration_seconds_count", **served) == 2
    failed = {"error_type": "provider_unavailable"}
    assert total(found, "gen_ai_client_operation_duration_seconds_count", **served, **failed) == 1
    assert total(found, "gen_ai_server_time_to_first_token_seconds_count") == 1


async def test_buckets_of_a_histogram_only_rise_and_end_at_the_count() -> None:
    metrics = Metrics()
    for size in (1, 3, 4, 5, 64, 65, 10**9):
        await call(metrics, usage=Usage(input_tokens=size, output_tokens=2))
    found = [
        line for line in lines(metrics)
        if line.name == "gen_ai_client_token_usage_bucket" and line.labels["gen_ai_token_type"] == "input"
    ]  # fmt: skip
    counts = [line.value for line in found]
    assert counts == sorted(counts) and found[-1].labels["le"] == "+Inf" and counts[-1] == 7
    by_bound = {line.labels["le"]: line.value for line in found}
    # A value on a bound belongs below it.
    assert (by_bound["1.0"], by_bound["4.0"], by_bound["16.0"], by_bound["64.0"]) == (1, 3, 4, 5)


async def test_what_clients_invent_makes_no_series() -> None:
    metrics = Metrics(lambda name: name in CATALOG)
    for number in range(50):
        await call(metrics, f"invented-{number}", error=ProviderUnavailable("no such model"))
    found = lines(metrics)
    assert {line.labels["model"] for line in found if line.name == "metier_calls_total"} == {OTHER}
    assert "invented" not in str(found) and "alice" not in str(found)


async def test_series_are_bounded_and_no_call_is_lost_for_it() -> None:
    metrics = Metrics()
    for number in range(2_500):
        await call(metrics, principal=replace(PRINCIPAL, project=ProjectId(f"p{number}")))
    found = [line for line in lines(metrics) if line.name == "metier_calls_total"]
    assert len(found) <= 2_001
    assert sum(line.value for line in found) == 2_500
    assert total(found, "metier_calls_total", project=OTHER) == 500


async def test_calls_under_way_are_told_and_end_however_they_end() -> None:
    metrics = Metrics()
    entry = Entry(Call(PRINCIPAL, "writer", messages=(Message("user", "x"),)), Bin(), [metrics])
    async with entry:
        assert total(lines(metrics), "metier_calls_in_flight", model="writer") == 1
    assert total(lines(metrics), "metier_calls_in_flight") == 0


def test_workers_stand_side_by_side_in_one_family() -> None:
    one = Family("a_total", "counter", "About\\a\n.", [Sample({"x": 'q"\\\n'}, 1), Sample({}, 0.25)])
    two = Family("b", "gauge", "", [Sample({}, math.inf)])
    found = list(read(text({"1": [one], "2": [one, two]})))
    assert [(line.name, line.labels["worker"]) for line in found] == [
        ("a_total", "1"), ("a_total", "1"), ("a_total", "2"), ("a_total", "2"), ("b", "2"),
    ]  # fmt: skip
    assert found[0].labels["x"] == 'q"\\\n' and found[1].value == 0.25 and found[4].value == math.inf
    assert unpacked(packed([one, two]))[0].samples[0] == one.samples[0]


@given(st.text(), st.floats(allow_nan=False))
def test_any_label_and_any_number_can_be_read_back(label: str, value: float) -> None:
    clean = label.replace("\r", " ").encode("utf-8", "replace").decode()
    clean = "".join(c for c in clean if c == "\n" or (c.isprintable()))
    (line,) = read(text({"1": [Family("a", "gauge", "About.", [Sample({"x": clean}, value)])]}))
    assert (line.labels["x"], line.value) == (clean, value)
