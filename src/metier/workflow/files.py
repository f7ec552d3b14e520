"""The files a workflow names: read from its own folder and from nowhere else, or given with a pinned copy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Protocol

from metier.errors import Invalid
from metier.workflow.yaml_source import Node, decode

__all__ = ["FILE_MAX", "Below", "Files", "Folder", "Given", "inside_folder", "language_of", "rules_paths"]

FILE_MAX = 128 * 1024
"""Bytes of one prompt or rules file."""
_PATH = re.compile(r"[A-Za-z0-9_@][A-Za-z0-9_.@-]*(?:/[A-Za-z0-9_@][A-Za-z0-9_.@-]*){0,5}\Z", re.ASCII)
_LANGUAGE = re.compile(r"[a-z]{2}\Z", re.ASCII)


class Files(Protocol):
    """Where the text of a named file comes from."""

    def text(self, path: str) -> str | None:
        """Give the text of a file by its path relative to the workflow, or None when there is none."""
        ...

    def beside(self, path: str) -> tuple[str, ...]:
        """Name the variants of a file by language: `draft.fr.md` for `draft.md`."""
        ...


class Folder:
    """The folder a workflow file lies in; nothing outside it is ever read."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def text(self, path: str) -> str | None:
        """Read a file of the folder, or None when there is none."""
        found = (self._root / path).resolve()
        if not found.is_relative_to(self._root):
            raise Invalid(f"cannot read {path!r}: it leads out of the folder of the workflow; copy the file into it")
        try:
            if not found.is_file():
                return None
            if found.stat().st_size > FILE_MAX:
                raise Invalid(f"cannot read {path!r}: more than {FILE_MAX} bytes; shorten it")
            return decode(found.read_bytes(), path).replace("\r\n", "\n")
        except OSError as wrong:
            raise Invalid(f"cannot read {path!r}: {wrong.strerror}") from wrong

    def beside(self, path: str) -> tuple[str, ...]:
        """Name the variants by language that lie in the same folder."""
        pure = PurePosixPath(path)
        parent = (self._root / pure.parent).resolve()
        if not parent.is_relative_to(self._root) or not parent.is_dir():
            return ()
        names = sorted(found.name for found in parent.glob(f"{pure.stem}.*{pure.suffix}"))
        return tuple(str(pure.with_name(name)) for name in names if language_of(path, name) is not None)


class Given:
    """Files handed over with the text of a workflow."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files

    def text(self, path: str) -> str | None:
        """Give a file that was handed over, or None."""
        return self._files.get(path)

    def beside(self, path: str) -> tuple[str, ...]:
        """Name the variants by language among the files handed over."""
        parent = PurePosixPath(path).parent
        return tuple(
            sorted(
                name
                for name in self._files
                if PurePosixPath(name).parent == parent and language_of(path, PurePosixPath(name).name) is not None
            )
        )


class Below:
    """A folder among other files, seen as a workflow that lies in it sees them."""

    def __init__(self, files: Files, folder: PurePosixPath) -> None:
        self._files = files
        self._folder = folder

    def text(self, path: str) -> str | None:
        """Give a file of the folder, or None."""
        return self._files.text(str(self._folder / path))

    def beside(self, path: str) -> tuple[str, ...]:
        """Name the variants by language as paths from the folder."""
        found = self._files.beside(str(self._folder / path))
        return tuple(str(PurePosixPath(name).relative_to(self._folder)) for name in found)


def language_of(path: str, name: str) -> str | None:
    """Tell the language of a variant: "fr" for `draft.fr.md` beside `prompts/draft.md`, None for anything else."""
    pure = PurePosixPath(path)
    start, end = f"{pure.stem}.", pure.suffix
    if not (name.startswith(start) and name.endswith(end) and len(name) > len(start) + len(end)):
        return None
    middle = name[len(start) : len(name) - len(end)]
    return middle if _LANGUAGE.match(middle) else None


def inside_folder(node: Node, what: str) -> str:
    """Read a relative path that stays inside the folder of the workflow."""
    path = node.text(what)
    if not _PATH.match(path):
        node.fail(
            f"{what} is {path[:80]!r}; it must be a relative path inside the folder of the workflow, "
            "of letters, digits, '.', '_' and '-', such as prompts/draft.md"
        )
    return path


def rules_paths(reference: str) -> tuple[str, str]:
    """Say where the decision table of a pinned reference may lie, relative to the workflow that names it."""
    return f"rules/{reference}.yaml", f"sample/rules/{reference}.yaml"
