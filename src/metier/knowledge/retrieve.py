"""Finds the chunks that answer a question among those its reader may read: words, meaning and exact codes together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from metier.errors import Invalid, NotFound
from metier.knowledge.analyser import Analyser
from metier.knowledge.blocks import Anchor
from metier.knowledge.embedding import Embedder, embed, literal
from metier.knowledge.ingest import Listed, listed
from metier.store import Row, Store

__all__ = ["Arm", "Extract", "Hit", "Retrieve"]

Arm = Literal["both", "words", "meaning"]

_DEPTH = 50
_LONGEST = 20_000
"""Characters of a question that are looked at; a whole e-mail fits."""


@dataclass(frozen=True, slots=True)
class Extract:
    """A chunk the reader may read, with the place where it stands."""

    id: str
    """The citation id, unique in its collection."""
    document: str
    title: str | None
    version: str | None
    text: str
    anchor: Anchor
    section: str = ""
    """The whole section around it, when it was asked for by its id."""

    @property
    def path(self) -> str:
        """Title and headings above it, from the widest to the nearest."""
        title = [self.title] if self.title and self.title not in self.anchor.headings else []
        return " › ".join([*title, *self.anchor.headings])


@dataclass(frozen=True, slots=True)
class Hit(Extract):
    """An extract found for a question."""

    score: float = 0.0
    """From 0 to 1, the same for the same question and text whatever else was found."""
    words: float = 0.0
    """Share of the highest BM25 score the question could reach."""
    cosine: float | None = None
    """Cosine of question and chunk; None without an embedding of the model in use."""
    exact: float = 0.0
    """0.5 when all codes of the question stand in the chunk, 0.25 when they only begin codes in it."""


class Retrieve:
    """Searches collections with the rights of the reader, organisation and groups, inside every query."""

    def __init__(
        self, store: Store, embedder: Embedder | None = None, *, organisation: str = "main", dense: float = 0.6
    ) -> None:
        self._queries = store.queries("retrieve")
        self._embedder = embedder
        self._organisation = organisation
        self._dense = dense

    async def search(
        self,
        collection: str,
        question: str,
        groups: frozenset[str],
        top_k: int = 8,
        min_score: float | None = None,
        arm: Arm = "both",
    ) -> tuple[Hit, ...]:
        """Give the best extracts the groups may read, best first; fewer than `top_k` when fewer are good enough."""
        if not 1 <= top_k <= _DEPTH:
            raise Invalid(f"Searching {collection!r} failed: top_k {top_k!r}, give 1 to {_DEPTH}.", param="top_k")
        here = {"organisation": self._organisation, "collection": collection}
        found = await self._queries.one("collection", here)
        if found is None:
            raise NotFound(f"Searching {collection!r} failed: no such collection; create it first.", param="collection")
        question = question[:_LONGEST].replace("\x00", " ")
        analysis = Analyser(found["language"])(question)
        vector = await self._vector(question) if arm != "words" else None
        codes = list(analysis.codes) if arm == "both" else []
        rows = await self._queries.all(
            "search",
            {
                **here,
                "groups": sorted(groups),
                "terms": sorted(set(analysis.terms)) if arm != "meaning" else [],
                "codes": codes,
                "vector": vector,
                "model": self._embedder.model if self._embedder and vector else None,
                "floor": self._embedder.floor if self._embedder else 0.0,
                "ceiling": self._embedder.ceiling if self._embedder else 1.0,
                "dense": self._dense if arm == "both" else 1.0,
                "depth": _DEPTH,
                "min_score": min_score or 0.0,
                "top_k": top_k,
            },
        )
        return tuple(
            Hit(*_place(row), score=row["score"], words=row["lexical"], cosine=row["cosine"], exact=float(row["exact"]))
            for row in rows
        )

    async def extracts(self, collection: str, ids: Sequence[str], groups: frozenset[str]) -> tuple[Extract, ...]:
        """Give the cited chunks that exist and that the groups may read, in the order asked, sections included."""
        rights = {"organisation": self._organisation, "groups": sorted(groups)}
        rows = await self._queries.all("extracts", {"collection": collection, "ids": list(ids), **rights})
        return tuple(Extract(*_place(row), row["section"]) for row in rows)

    async def documents(self, collection: str, groups: frozenset[str]) -> tuple[Listed, ...]:
        """List the documents of a collection that the groups may read; others are not even counted."""
        rights = {"organisation": self._organisation, "groups": sorted(groups)}
        rows = await self._queries.all("documents", {"collection": collection, **rights})
        return tuple(listed(row) for row in rows)

    async def _vector(self, question: str) -> str | None:
        if self._embedder is None or not question.strip():
            return None
        return literal((await embed(self._embedder, [question], "query"))[0])


def _place(row: Row) -> tuple[str, str, str | None, str | None, str, Anchor]:
    rows = (row["row_first"], row["row_last"]) if row["row_first"] is not None else None
    headings = tuple(row["headings"])
    anchor = Anchor(row["char_start"], row["char_end"], headings, row["page"], row["sheet"], rows)
    return row["id"], row["document"], row["title"], row["version"], row["text"], anchor
