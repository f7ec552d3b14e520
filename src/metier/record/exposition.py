"""Metrics as values, as text for Prometheus, and as JSON between the workers of a node."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import orjson

__all__ = ["CONTENT_TYPE", "Family", "Kind", "Sample", "packed", "text", "unpacked"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""What `text` writes."""

Kind = Literal["counter", "gauge", "histogram"]


class Sample(NamedTuple):
    """One figure of a family."""

    labels: Mapping[str, str]
    value: float
    suffix: str = ""
    """Such as _bucket, for a histogram."""


@dataclass(frozen=True, slots=True)
class Family:
    """Every figure of one name."""

    name: str
    kind: Kind
    help: str
    samples: Sequence[Sample]


def text(snapshots: Mapping[str, Iterable[Family]]) -> bytes:
    """Write what several workers count, by the name of each worker, which becomes a label of every figure.

    Figures of workers are not added up: a worker that starts anew begins at zero, which a sum would hide and a label
    says. Whoever reads them adds them.
    """
    heads: dict[str, Family] = {}
    lines: dict[str, list[str]] = {}
    for worker, families in snapshots.items():
        for family in families:
            heads.setdefault(family.name, family)
            lines.setdefault(family.name, []).extend(_line(family.name, sample, worker) for sample in family.samples)
    written: list[str] = []
    for name, family in heads.items():
        written.append(f"# HELP {name} {_escaped(family.help)}")
        written.append(f"# TYPE {name} {family.kind}")
        written.extend(lines[name])
    return ("\n".join(written) + "\n").encode()


def packed(families: Iterable[Family]) -> bytes:
    """Write families for another worker of this node."""
    return orjson.dumps(
        [[f.name, f.kind, f.help, [[s.labels, s.value, s.suffix] for s in f.samples]] for f in families]
    )


def unpacked(data: bytes) -> list[Family]:
    """Read what `packed` wrote."""
    return [
        Family(name, kind, about, [Sample(labels, value, suffix) for labels, value, suffix in samples])
        for name, kind, about, samples in orjson.loads(data)
    ]


def _line(name: str, sample: Sample, worker: str) -> str:
    labels = ",".join(f'{key}="{_escaped(value, quoted=True)}"' for key, value in sample.labels.items())
    comma = "," if labels else ""
    return f'{name}{sample.suffix}{{{labels}{comma}worker="{worker}"}} {_number(sample.value)}'


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def _escaped(value: str, *, quoted: bool = False) -> str:
    plain = value.replace("\\", "\\\\").replace("\n", "\\n")
    return plain.replace('"', '\\"') if quoted else plain
