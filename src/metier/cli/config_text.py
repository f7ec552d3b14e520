"""Changes one entry of metier.yaml in its text: comments, order and spaces around it stay as people wrote them."""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node

__all__ = ["change", "changed"]


def change(file: pathlib.Path, place: Sequence[str], value: object) -> None:
    """Write a value at a place of a file, or take it out when it is None; the file is written whole or not at all."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    made = changed(text, place, value)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(file.name + ".new")
    temporary.write_text(made, encoding="utf-8")
    with contextlib.suppress(FileNotFoundError):
        shutil.copymode(file, temporary)
    temporary.replace(file)


def changed(text: str, place: Sequence[str], value: object) -> str:
    """Give the text with a value at a place; where the text cannot be kept, its meaning is."""
    wanted = _set(yaml.safe_load(text) or {}, place, value)
    made = _edited(text, place, value, wanted)
    try:
        return made if yaml.safe_load(made) == wanted else _block(wanted)
    except yaml.YAMLError:
        return _block(wanted)


def _set(whole: Mapping[str, Any], place: Sequence[str], value: object) -> dict[str, Any]:
    head, *rest = place
    made = dict(whole)
    new = _set(made.get(head) or {}, rest, value) if rest else value
    if new is None:
        made.pop(head, None)
    else:
        made[head] = new
    return made


def _edited(text: str, place: Sequence[str], value: object, wanted: Mapping[str, Any]) -> str:
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    lines = text.splitlines(keepends=True)
    for depth, name in enumerate(place):
        pair = _pair(node, name)
        if node is None:
            return "".join([*_ended(lines), _block(wanted)])
        gone = value is None and depth == len(place) - 1
        if not isinstance(node, MappingNode) or node.flow_style or len(node.value) <= gone:
            # An empty section, one in braces, or one that would be left empty: it is written anew.
            above = place[:depth]
            return _edited(text, above, _at(wanted, above), wanted) if depth else _block(wanted)
        column = node.value[0][0].start_mark.column
        if pair is None:
            at = _end(lines, column, node.value[-1])
            return "".join([*_ended(lines[:at]), _block(_nested(place[depth:], value), column), *lines[at:]])
        if depth == len(place) - 1:
            new = [] if value is None else [_block({name: value}, column)]
            return "".join([*lines[: pair[0].start_mark.line], *new, *lines[_end(lines, column, pair) :]])
        node = pair[1]
    return text


def _pair(node: Node | None, name: str) -> tuple[Node, Node] | None:
    if not isinstance(node, MappingNode):
        return None
    return next(((key, value) for key, value in node.value if key.value == name), None)


def _end(lines: Sequence[str], column: int, pair: tuple[Node, Node]) -> int:
    """The line after an entry: what stands further to the left, or is blank, belongs to what follows."""
    first = pair[0].start_mark.line
    end = first + 1
    for number in range(first + 1, len(lines)):
        bare = lines[number].lstrip(" ")
        if bare.strip():
            if len(lines[number]) - len(bare) <= column:
                break
            end = number + 1
    return end


def _ended(lines: Sequence[str]) -> list[str]:
    return [*lines[:-1], lines[-1] + "\n"] if lines and not lines[-1].endswith("\n") else [*lines]


def _nested(place: Sequence[str], value: object) -> dict[str, object]:
    head, *rest = place
    return {head: _nested(rest, value) if rest else value}


def _at(whole: Mapping[str, Any], place: Sequence[str]) -> Any:
    for name in place:
        whole = whole[name]
    return whole


def _block(value: object, column: int = 0) -> str:
    # Through JSON, so that equal parts are written out and not as YAML references to each other.
    plain = yaml.safe_dump(json.loads(json.dumps(value)), allow_unicode=True, sort_keys=False)
    return "".join(" " * column + line if line.strip() else line for line in plain.splitlines(keepends=True))
