"""Takes documents into a collection, replaces and removes them, each in one transaction with its rights and counts."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath
from typing import Literal

from metier.calls import new_id
from metier.errors import Conflict, Invalid, NotFound
from metier.knowledge.analyser import Analyser, Analysis, Language, fold
from metier.knowledge.blocks import Parsed
from metier.knowledge.chunk import Piece, Sizes, cut
from metier.knowledge.embedding import Embedder, embed, literal
from metier.knowledge.office import Office
from metier.knowledge.parse import Html, Limits, Markdown, Parser, PlainText, parse
from metier.store import Queries, Row, Store, Tx

__all__ = ["Collection", "DocumentReport", "Ingest", "Listed", "listed", "parsers"]

_REVISION = "1"
"""Changes with the parsers, the chunker or the analyser, so that documents made by older ones are made anew."""

_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,500}")
_COLLECTION = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True)
class DocumentReport:
    """What became of one document that was given to a collection."""

    name: str
    status: Literal["added", "replaced", "unchanged", "rights changed"]
    chunks: int
    embedded: int
    """Chunks embedded now; those whose text was already embedded are not paid again."""
    title: str | None
    warnings: tuple[str, ...]
    """What the parser left out or doubted."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One document of a collection, as lists show it."""

    name: str
    title: str | None
    version: str | None
    language: str | None
    groups: frozenset[str]
    chunks: int
    warnings: tuple[str, ...]
    ingested_at: datetime


@dataclass(frozen=True, slots=True)
class Collection:
    """A set of documents that is searched together."""

    name: str
    language: Language
    documents: int
    chunks: int


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A document read, cut, analysed and embedded, ready to be written."""

    parsed: Parsed
    pieces: tuple[Piece, ...]
    analyses: tuple[Analysis, ...]
    hashes: tuple[str, ...]
    vectors: Mapping[str, str]
    """Vector literals by hash of the searched text."""
    embedded: int


def parsers(limits: Limits) -> tuple[Parser, ...]:
    """Give the parsers of the formats Métier reads, in the order they are asked."""
    return (PlainText(), Markdown(), Html(), Office(limits))


def listed(row: Row) -> Listed:
    """Make a listed document of its row."""
    fields = {**row, "groups": frozenset(row["groups"]), "warnings": tuple(row["warnings"])}
    return Listed(**fields)


class Ingest:
    """Writes the collections of one organisation; searching them is the business of Retrieve."""

    def __init__(
        self,
        store: Store,
        embedder: Embedder | None = None,
        *,
        organisation: str = "main",
        limits: Limits | None = None,
        sizes: Sizes | None = None,
    ) -> None:
        self._store = store
        self._queries = store.queries("ingest")
        self._embedder = embedder
        self._organisation = organisation
        self._limits = limits or Limits()
        self._sizes = sizes or Sizes()
        self._parsers = parsers(self._limits)

    async def create(self, name: str, language: Language = "fr") -> None:
        """Make an empty collection whose texts and questions are analysed in that language."""
        if not _COLLECTION.fullmatch(name):
            raise Invalid(f"Creating collection {name!r} failed: use small letters, digits, - and _.", param="name")
        row = {"id": new_id("collection"), **self._named(name), "language": language}
        if await self._queries.one("create_collection", row) is None:
            raise Conflict(f"Creating collection {name!r} failed: it exists already; choose another name.")

    async def drop(self, name: str) -> None:
        """Remove a collection with its documents, chunks and words."""
        if await self._queries.run("delete_collection", self._named(name)) == 0:
            raise _no_collection(name)

    async def collections(self) -> tuple[Collection, ...]:
        """List the collections of the organisation by name."""
        rows = await self._queries.all("all_collections", {"organisation": self._organisation})
        return tuple(Collection(**row) for row in rows)

    async def list(self, collection: str) -> tuple[Listed, ...]:
        """List every document for the administrators of a collection; readers ask Retrieve.documents."""
        found = await self._collection(collection)
        return tuple(listed(row) for row in await self._queries.all("all_documents", {"collection": found["id"]}))

    async def add(self, collection: str, name: str, data: bytes, groups: frozenset[str]) -> DocumentReport:
        """Add a document or replace the one of that name; its text, rights and vectors change in one transaction."""
        _check(name, groups)
        here = await self._collection(collection)
        language, key = here["language"], {"collection": here["id"], "name": name}
        model = self._embedder.model if self._embedder else None
        digest, made_with = hashlib.sha256(data).hexdigest(), f"{_REVISION}/{language}"
        found = await self._queries.one("document", {**key, "model": model})
        same = found is not None and (found["hash"], found["made_with"]) == (digest, made_with)
        if found is not None and same and (self._embedder is None or found["embedded"] == found["chunks"]):
            return await self._unchanged(key, found, groups)
        prepared = await self._prepare(name, data, Analyser(language), found)
        document = {"name": name, "groups": sorted(groups), "hash": digest, "made_with": made_with}
        async with self._store.transaction() as tx:
            document["collection"] = await self._lock(tx, collection)
            replaced = await self._write(tx, document, prepared)
        return DocumentReport(
            name,
            "replaced" if replaced else "added",
            len(prepared.pieces),
            prepared.embedded,
            prepared.parsed.title,
            prepared.parsed.warnings,
        )

    async def remove(self, collection: str, name: str) -> None:
        """Remove a document with its chunks, vectors and the words only it had; nothing of it is found any more."""
        async with self._store.transaction() as tx:
            here = await self._lock(tx, collection)
            found = await self._queries.one("document", {"collection": here, "name": name, "model": None}, tx)
            if found is None:
                raise NotFound(f"Removing {name!r} from collection {collection!r} failed: no such document.")
            await self._clear(tx, here, found["id"])
            await self._queries.run("delete_document", {"document": found["id"]}, tx)
            await self._recount(tx, here, found["id"])

    def _named(self, name: str) -> dict[str, object]:
        return {"organisation": self._organisation, "name": name}

    async def _collection(self, name: str) -> Row:
        row = await self._queries.one("collection", self._named(name))
        if row is None:
            raise _no_collection(name)
        return row

    async def _unchanged(self, key: Mapping[str, object], found: Row, groups: frozenset[str]) -> DocumentReport:
        same = frozenset(found["groups"]) == groups
        if not same:
            await self._queries.run("set_groups", {**key, "groups": sorted(groups)})
        status: Literal["unchanged", "rights changed"] = "unchanged" if same else "rights changed"
        return DocumentReport(str(key["name"]), status, found["chunks"], 0, found["title"], tuple(found["warnings"]))

    async def _prepare(self, name: str, data: bytes, analyser: Analyser, found: Row | None) -> _Prepared:
        """Do everything that takes time before the transaction, reusing the vectors of texts that did not change."""
        parsed, pieces = await self._read(name, data)
        texts = [piece.indexed(parsed.title) for piece in pieces]
        analyses = await asyncio.to_thread(lambda: tuple(analyser(text) for text in texts))
        hashes = tuple(hashlib.sha256(text.encode()).hexdigest() for text in texts)
        vectors = dict[str, str]()
        if self._embedder is None:
            return _Prepared(parsed, pieces, analyses, hashes, vectors, 0)
        for row in await self._queries.all("kept_chunks", {"document": found["id"]}) if found else ():
            if row["model"] == self._embedder.model:
                vectors[row["hash"]] = row["embedding"]
        missing = {digest: text for digest, text in zip(hashes, texts, strict=True) if digest not in vectors}
        made = await embed(self._embedder, list(missing.values()), "passage")
        vectors.update(zip(missing, map(literal, made), strict=True))
        return _Prepared(parsed, pieces, analyses, hashes, vectors, len(missing))

    async def _read(self, name: str, data: bytes) -> tuple[Parsed, tuple[Piece, ...]]:
        """Parse and cut in a thread, given up after the time limit."""

        def read() -> tuple[Parsed, tuple[Piece, ...]]:
            parsed = parse(name, data, self._parsers, self._limits)
            return parsed, cut(parsed, self._sizes)

        try:
            return await asyncio.wait_for(asyncio.to_thread(read), self._limits.seconds)
        except TimeoutError as error:
            raise Invalid(
                f"Reading {name!r} failed: it took longer than {self._limits.seconds!r} s; split the document."
            ) from error

    async def _write(self, tx: Tx, document: Mapping[str, object], prepared: _Prepared) -> bool:
        """Put the new version in place of the old one; True when there was an old one."""
        collection = str(document["collection"])
        key = {"collection": collection, "name": document["name"], "model": None}
        found = await self._queries.one("document", key, tx)
        if found is None:
            row: dict[str, object] = {
                "id": new_id("doc"),
                "slug": await self._slug(tx, collection, str(document["name"])),
            }
            kept, number = defaultdict[str, list[str]](list), 1
        else:
            row = {"id": found["id"], "slug": found["slug"]}
            kept, number = await _kept_ids(self._queries, tx, found["id"]), int(found["next_number"])
            await self._clear(tx, collection, found["id"])
        ids: list[str] = []
        for digest in prepared.hashes:
            if kept[digest]:
                ids.append(kept[digest].pop(0))
            else:
                ids.append(f"{row['slug']}-{number}")
                number += 1
        parsed = prepared.parsed
        row |= {"title": parsed.title, "language": parsed.language, "version": parsed.version, "text": parsed.text}
        row |= {"warnings": list(parsed.warnings), "next_number": number}
        await self._queries.run("put_document", {**document, **row}, tx)
        await self._put_chunks(tx, {"collection": collection, "document": row["id"]}, ids, prepared)
        await self._recount(tx, collection, str(row["id"]))
        return found is not None

    async def _put_chunks(self, tx: Tx, owner: Mapping[str, object], ids: Sequence[str], prepared: _Prepared) -> None:
        frequencies = Counter(term for analysis in prepared.analyses for term in set(analysis.terms))
        counted = {"terms": list(frequencies), "chunks": list(frequencies.values())}
        numbers = {
            row["term"]: row["id"]
            for row in await self._queries.all("count_terms", {"collection": owner["collection"], **counted}, tx)
        }
        rows = [
            {**owner, **_chunk(place, ids[place - 1], piece, analysis, numbers)}
            | {"hash": digest, "embedding": prepared.vectors.get(digest)}
            | {"model": self._embedder.model if self._embedder and digest in prepared.vectors else None}
            for place, (piece, analysis, digest) in enumerate(
                zip(prepared.pieces, prepared.analyses, prepared.hashes, strict=True), 1
            )
        ]
        await self._queries.many("put_chunk", rows, tx)
        length = sum(len(analysis.terms) for analysis in prepared.analyses)
        await self._queries.run(
            "count_collection", {"collection": owner["collection"], "chunks": len(rows), "length": length}, tx
        )

    async def _lock(self, tx: Tx, name: str) -> str:
        row = await self._queries.one("lock_collection", self._named(name), tx)
        if row is None:
            raise _no_collection(name)
        return str(row["id"])

    async def _clear(self, tx: Tx, collection: str, document: str) -> None:
        """Take the chunks of a document out of the index and out of the counts."""
        for query in ("discount_terms", "discount_collection", "delete_chunks"):
            await self._queries.run(query, {"collection": collection, "document": document}, tx)

    async def _recount(self, tx: Tx, collection: str, document: str) -> None:
        """Drop words nobody has any more, then weigh the new chunks, or all when the mean length has moved."""
        await self._queries.run("forget_terms", {"collection": collection}, tx)
        moved = await self._queries.one("pin_length", {"collection": collection}, tx)
        await self._queries.run("weigh", {"collection": collection, "document": None if moved else document}, tx)

    async def _slug(self, tx: Tx, collection: str, name: str) -> str:
        base = re.sub(r"[^a-z0-9]+", "-", fold(PurePath(name).stem)).strip("-")[:40].strip("-") or "document"
        slug, number = base, 2
        while await self._queries.one("slug_taken", {"collection": collection, "slug": slug}, tx) is not None:
            slug, number = f"{base}-{number}", number + 1
        return slug


async def _kept_ids(queries: Queries, tx: Tx, document: str) -> defaultdict[str, list[str]]:
    """Give the ids of the present chunks by the text that is searched, so that equal text keeps its id."""
    kept = defaultdict[str, list[str]](list)
    for row in await queries.all("kept_chunks", {"document": document}, tx):
        kept[row["hash"]].append(row["id"])
    return kept


def _check(name: str, groups: frozenset[str]) -> None:
    if not _NAME.fullmatch(name):
        raise Invalid(f"Adding {name[:80]!r} failed: a name has 1 to 500 visible characters.", param="name")
    if not groups or not all(_NAME.fullmatch(group) for group in groups):
        raise Invalid(
            f"Adding {name!r} failed: groups {sorted(groups)!r}; name at least one group that may read it.",
            param="groups",
        )


def _no_collection(name: str) -> NotFound:
    return NotFound(f"Collection {name!r} does not exist; create it first.", param="collection")


def _chunk(
    place: int, citation: str, piece: Piece, analysis: Analysis, numbers: Mapping[str, int]
) -> dict[str, object]:
    counts = Counter(analysis.terms)
    first, last = piece.anchor.rows or (None, None)
    return {
        "id": citation,
        "place": place,
        "text": piece.text,
        "headings": list(piece.anchor.headings),
        "char_start": piece.anchor.start,
        "char_end": piece.anchor.end,
        "parent_start": piece.parent[0],
        "parent_end": piece.parent[1],
        "page": piece.anchor.page,
        "sheet": piece.anchor.sheet,
        "row_first": first,
        "row_last": last,
        "terms": [numbers[term] for term in counts],
        "counts": list(counts.values()),
        "length": len(analysis.terms),
        "codes": list(analysis.codes),
    }
