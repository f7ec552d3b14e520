"""What means are measured on: candidates from a small file, labelled rows, and the answers already given."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

import orjson

from metier.calls import JSON
from metier.errors import Invalid, NotFound
from metier.workflow import means_csv
from metier.workflow.definition import Workflow
from metier.workflow.files import Folder, rules_paths
from metier.workflow.kinds import READERS
from metier.workflow.shape import Step
from metier.workflow.yaml_source import decode, suggest
from metier.workflow.yaml_source import read as read_yaml

__all__ = ["Candidate", "Given", "How", "Item", "Kept", "MeansKind", "answer_of", "candidates", "rows", "unheard"]

MeansKind: TypeAlias = Literal["code", "rules", "model", "llm"]

_KINDS: tuple[MeansKind, ...] = ("code", "rules", "model", "llm")
_LINES_MAX = 100_000
_SUCH = '{"text": "Bonjour", "label": "other"}'


@dataclass(frozen=True, slots=True)
class Candidate:
    """One means to do the work of a step."""

    name: str
    kind: MeansKind
    config: JSON
    """As under the kind key of a step."""
    files: Mapping[str, str]
    """Prompts and rules tables it names, by path."""
    output: Mapping[str, JSON] | None
    """JSON Schema of what it gives, as the step says."""

    @property
    def fingerprint(self) -> str:
        """Changes with everything its answers depend on here."""
        text = json.dumps([self.kind, self.config, dict(self.files), self.output], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled case."""

    with_: Mapping[str, JSON]
    """What the step is given."""
    label: str
    digest: str


@dataclass(frozen=True, slots=True)
class Given:
    """One answer of a means, with what it used."""

    answer: str | None
    failed: str | None
    """Code of the error, where there was no answer."""
    calls: int
    cost_eur: float
    wh: float | None
    wall_ms: float
    cpu_ms: float


class Kept:
    """Answers in a file of lines: written as they come, so that an interrupted measure pays for none twice.

    The file holds answers and figures, and of the data digests only.
    """

    def __init__(self, path: pathlib.Path, answer: str) -> None:
        self._path = path
        self._answer = answer
        self._known: dict[tuple[str, str], Given] = {}
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        self._cut = text != "" and not text.endswith("\n")
        """The last line was cut off by a crash; what is added begins a line of its own."""
        for line in text.splitlines():
            self._read(line)

    def _read(self, line: str) -> None:
        try:
            row = orjson.loads(line)
            how, key = row.pop("how"), (row.pop("candidate"), row.pop("item"))
            given = Given(**row)
        except (ValueError, KeyError, TypeError, AttributeError):
            return  # a line cut off by a crash: that answer is asked for again
        if how == self._answer and (given.failed is None or given.calls):  # what failed unpaid is tried again
            self._known[key] = given

    def has(self, candidate: Candidate, item: Item) -> bool:
        """Say whether a candidate has answered a case."""
        return (candidate.fingerprint, item.digest) in self._known

    def get(self, candidate: Candidate, item: Item) -> Given:
        """Give the answer of a candidate to a case."""
        return self._known[candidate.fingerprint, item.digest]

    def add(self, candidate: Candidate, item: Item, given: Given) -> None:
        """Keep an answer at once."""
        key = (candidate.fingerprint, item.digest)
        row = {"candidate": key[0], "item": key[1], "how": self._answer, **asdict(given)}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write((b"\n" if self._cut else b"") + orjson.dumps(row) + b"\n")
        self._cut = False
        self._known[key] = given


def candidates(workflow: Workflow, step: Step, path: pathlib.Path | None) -> tuple[Candidate, ...]:
    """Give the step as it is, where it is one of the four means, and the candidates of a file beside it."""
    found: dict[str, Candidate] = {}
    if path is not None:
        found = {one.name: one for one in _written(workflow, step, path)}
    if step.kind in _KINDS and not any((one.kind, one.config) == (step.kind, step.config) for one in found.values()):
        name = step.kind if step.kind not in found else f"{step.id}-now"
        own = Candidate(name, step.kind, step.config, workflow.files, step.output)
        found = {name: own, **found}
    if not found:
        raise Invalid(f"step {step.id!r} is {step.kind!r} and no means are given: write means/{step.id}.yaml")
    return tuple(found.values())


def _written(workflow: Workflow, step: Step, path: pathlib.Path) -> list[Candidate]:
    try:
        data = path.read_bytes()
    except FileNotFoundError as wrong:
        raise NotFound(f"cannot read the means {str(path)!r}: there is no such file") from wrong
    except OSError as wrong:
        raise Invalid(f"cannot read the means {str(path)!r}: {wrong.strerror}") from wrong
    root = read_yaml(decode(data, path.name), path.name)
    root.only("a file of means", ("means",))
    if "means" not in root.entries:
        root.fail("a file of means needs 'means'")
    found = []
    for name, node in root.entries["means"].mapping("means").items():
        written: Any = node.data()
        if name not in _KINDS:
            kinds = [kind for kind in _KINDS if isinstance(written, dict) and kind in written]
            if len(kinds) != 1 or len(written) != 1:
                node.fail(f"the means {name!r} needs exactly one of {', '.join(_KINDS)}")
            kind, config, inner = kinds[0], written[kinds[0]], node.entries[kinds[0]]
        else:
            kind, config, inner = name, written, node
        wanted = dict if kind == "llm" else str
        if not isinstance(config, wanted):
            node.fail(f"the means {name!r} is written like the {kind!r} step it stands for")
        if isinstance(config, dict) and not {"model", "prompt"} <= config.keys():
            node.fail(f"the means {name!r} needs 'model' and 'prompt'")
        if kind != "model":  # of a classifier the newest may be measured, which a step may not take
            READERS[kind](inner, f"{kind} of the means {name!r}")
        files = {**workflow.files, **_files(kind, config, Folder(path.parent))}
        found.append(Candidate(name, kind, config, files, step.output))
    return found


def _files(kind: MeansKind, config: Any, folder: Folder) -> dict[str, str]:
    if kind == "rules":
        paths: Sequence[str] = rules_paths(config)
    elif kind == "llm":
        named = [str(config[key]) for key in ("prompt", "system") if isinstance(config.get(key), str)]
        paths = [path for one in named for path in (one, *folder.beside(one))]
    else:
        return {}
    read = {path: folder.text(path) for path in paths}
    return {path: text for path, text in read.items() if text is not None}


def answer_of(step: Step, given: str | None = None) -> str:
    """Say as CEL which field of the output is compared with the label: `given`, or the only one with an enum."""
    schema = step.output or {}
    fields = schema.get("properties")
    if given is not None:
        name = given.removeprefix("output.")
        if isinstance(fields, dict) and given != name and name.isidentifier() and name not in fields:
            raise Invalid(f"the output of {step.id!r} has no {name!r}: it has {', '.join(sorted(fields))}")
        return given
    named = (
        [name for name, one in fields.items() if isinstance(one, dict) and "enum" in one]
        if isinstance(fields, dict)
        else []
    )
    if len(named) != 1:
        raise Invalid(
            f"which field of the output of {step.id!r} is the answer? Say it, such as --answer output.category"
        )
    return f"output.{named[0]}"


def unheard(step: Step, answer: str, items: Sequence[Item]) -> str | None:
    """Say which labels the step never gives, so that no means can be right there; None where there is none."""
    fields = (step.output or {}).get("properties")
    field = fields.get(answer.removeprefix("output.")) if isinstance(fields, dict) else None
    values = field.get("enum") if isinstance(field, dict) else None
    if not isinstance(values, list):
        return None
    known = {str(value) for value in values}
    wrong = [item.label for item in items if item.label not in known]
    if not wrong:
        return None
    named = ", ".join(repr(label) for label in sorted(set(wrong))[:5])
    return (
        f"{len(wrong)} of {len(items)} rows have a label that the step never gives, {named}: no means can be right "
        f"there; it gives {', '.join(sorted(known))}"
    )


@dataclass(frozen=True, slots=True)
class How:
    """How rows become what the step is given, where the names are not the same, and who is told of it."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Column or field of a row, by the name the step is given; those not here are named alike."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """Types other than text that cells of a CSV file are read as, by the name the step is given."""
    tell: Callable[[str], None] | None = None


_PLAIN = How()


def rows(
    path: pathlib.Path, step: Step, label: str, split: str | None, limit: int | None, how: How = _PLAIN
) -> tuple[Item, ...]:
    """Read labelled cases from JSON lines or CSV; where they say their split, those of `split` alone, else test."""
    for name in how.columns:
        if name not in step.with_:
            raise Invalid(f"--column names {name[:80]!r}, which the step is not given{suggest(name, step.with_)}")
    try:
        data = path.read_bytes()
    except OSError as wrong:
        raise Invalid(f"cannot read the data {str(path)!r}: {wrong.strerror}") from wrong
    read = _sheet if means_csv.is_sheet(path.name) else _lines
    found = read(data, path.name, step, label, how)
    if len(found) > _LINES_MAX:
        raise Invalid(f"{path.name!r} has {len(found):,} rows, more than {_LINES_MAX:,}: give a part of them")
    if not found:
        raise Invalid(
            f"{path.name!r} is empty: write a row a line, such as {_SUCH}, or CSV in a file that ends in .csv"
        )
    wanted = split or ("test" if any(of == "test" for of, _ in found) else None)
    said = sorted({of for of, _ in found if of is not None})
    if wanted is None and said:
        raise Invalid(
            f"{path.name!r} has rows of the split {', '.join(said)} and none of test: a means is not measured on what "
            "it was made from; name the split with --split, or give rows without one"
        )
    taken = [item for of, item in found if wanted in (None, of)]
    kept = {item.digest: item for item in taken}
    if len(kept) < len(taken) and how.tell is not None:
        how.tell(f"{path.name}: {len(taken) - len(kept)} rows are there again with the same label, and count once")
    if not kept:
        raise Invalid(f"no row of {path.name!r} is of the split {wanted!r}: give another one, or rows without a split")
    return tuple(kept.values())[:limit]


def _lines(data: bytes, name: str, step: Step, label: str, how: How) -> list[tuple[str | None, Item]]:
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as wrong:
        raise Invalid(f"{name!r} is not UTF-8 (byte {wrong.start}): save it as UTF-8") from wrong
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            found.append(_row(line, f"{name}:{number}", step, label, how))
    return found


def _row(line: str, place: str, step: Step, label: str, how: How) -> tuple[str | None, Item]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as wrong:
        raise Invalid(
            f"{place}: this row is not JSON ({wrong}): write a row a line, such as {_SUCH}; a file of CSV ends in .csv"
        ) from wrong
    if not isinstance(row, dict) or label not in row:
        raise Invalid(f"{place}: a row needs its label under {label!r}: name the field with --label")
    if row[label] is None or isinstance(row[label], dict | list) or not str(row[label]).strip():
        raise Invalid(
            f"{place}: the label under {label!r} is {str(row[label])[:40]!r}: give the right answer as a text"
        )
    source = row["with"] if isinstance(row.get("with"), dict) else row
    named = {name: how.columns.get(name, name) for name in step.with_}
    missing = [column for column in named.values() if column not in source]
    if missing:
        raise Invalid(f"{place}: the step is given {sorted(step.with_)} and this row has no {missing[0]!r}")
    split = row.get("split")
    with_ = {name: source[column] for name, column in named.items()}
    return (split if isinstance(split, str) else None), _item(with_, str(row[label]))


def _sheet(data: bytes, name: str, step: Step, label: str, how: How) -> list[tuple[str | None, Item]]:
    named = {one: how.columns.get(one, one) for one in step.with_}
    sheet = means_csv.read(data, name, (label, *named.values()))
    for one, column in {"": label, **named}.items():
        if column not in sheet.columns:
            given = f"the step is given {one!r}: say --column {one}=COLUMN" if one else "the right answer: say --label"
            raise Invalid(f"{name} has no column {column!r}{suggest(column, sheet.columns)}; {given}")
    found: list[tuple[str | None, Item]] = []
    for line, row in sheet.rows:
        place = f"{name}:{line}"
        answer = row[label].strip()
        if not answer:
            raise Invalid(
                f"{place}: the label in the column {label!r} is empty: give the right answer, or drop the row"
            )
        with_ = {one: means_csv.cell(row[column], how.kinds.get(one), place, column) for one, column in named.items()}
        found.append((row.get("split", "").strip() or None, _item(with_, answer)))
    if how.tell is not None:
        if sheet.doubt is not None:
            how.tell(sheet.doubt)
        how.tell(f"{name}: {sheet.told}; {_mapping(sheet.columns, named, label)}")
    return found


def _mapping(columns: Sequence[str], named: Mapping[str, str], label: str) -> str:
    """Say which column became what, and which became nothing."""
    taken = ", ".join(f"{name} from {column!r}" for name, column in named.items())
    unused = [one for one in columns if one not in (label, "split", *named.values())]
    rest = f"; not used: {', '.join(map(repr, unused))}" if unused else ""
    return f"label from {label!r}, {taken}{rest}"


def _item(with_: Mapping[str, JSON], label: str) -> Item:
    digest = hashlib.sha256(orjson.dumps([with_, label], option=orjson.OPT_SORT_KEYS)).hexdigest()[:24]
    return Item(with_, label, digest)
