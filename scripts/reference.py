"""Write the parts of docs/reference that the code knows best, between `<!-- made: NAME -->` and `<!-- end -->`.

python scripts/reference.py            rewrite what has changed
python scripts/reference.py --check    change nothing; say which pages are out of date and exit with 1
"""

from __future__ import annotations

import functools
import inspect
import json
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
from starlette.routing import Route

from metier import errors, settings
from metier.api import chat_body
from metier.api.server import routes
from metier.cli import main
from metier.workflow import editor, flow_kinds, kinds
from metier.workflow.expressions import evaluate
from metier.workflow.functions import GROUPS
from metier.workflow.grammar import ALLOWED, MODIFIERS
from metier.workflow.steps.functions import FUNCTIONS

REFERENCE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "reference"
_BLOCK = re.compile(r"(<!-- made: (?P<name>[a-z-]+) -->\n)(?P<old>.*?)(<!-- end -->)", re.DOTALL)
_WIDTH = 100


class _Absent:
    """Stands for every part of a platform that is not built: paths can be listed without one."""

    def __getattr__(self, name: str) -> Any:
        return self


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Write a Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def variables() -> str:
    """List the environment variables."""
    return table(
        ("variable", "meaning", "default"),
        [
            (f"`{v.name}`", v.help + (" Secret." if v.secret else ""), f"`{v.default}`" if v.default else "none")
            for v in settings.VARIABLES
        ],
    )


def sections() -> str:
    """List the sections of metier.yaml."""
    return table(("section", "meaning"), [(f"`{s.name}`", s.help) for s in settings.SECTIONS])


def error_codes() -> str:
    """List every exception with its code, its status and whose fault it is."""
    rows = []
    for name in errors.__all__:
        kind: type[errors.MetierError] = getattr(errors, name)
        fault = next((base.__name__ for base in kind.__mro__[1:] if base.__base__ is errors.MetierError), "")
        rows.append((fault or kind.__name__, kind.status, f"`{kind.code}`", name, inspect.getdoc(kind) or ""))
    order = ["Refused", "Mistaken", "Unavailable", "Broken", "MetierError"]
    rows.sort(key=lambda row: (order.index(row[0]), row[0] != row[3], row[1], row[2]))
    return table(
        ("code", "status", "class", "family", "meaning"),
        [(code, str(status), f"`{name}`", fault, meaning) for fault, status, code, name, meaning in rows],
    )


def commands() -> str:
    """Give the help of every command and subcommand, as the terminal shows it."""
    root = click.Context(main, info_name="metier", terminal_width=_WIDTH, max_content_width=_WIDTH)
    return "".join(_helps(main, root))


def _helps(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"## {context.command_path}\n\n```\n{command.get_help(context)}\n```\n\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                below = click.Context(
                    inner, info_name=name, parent=context, terminal_width=_WIDTH, max_content_width=_WIDTH
                )
                yield from _helps(inner, below)


def endpoints() -> str:
    """List the paths for programs."""
    absent: Any = _Absent()
    found = [route for route in routes(absent) if isinstance(route, Route)]
    rows = [
        (
            ", ".join(sorted((route.methods or set()) - {"HEAD"})),
            f"`{route.path}`",
            (inspect.getdoc(getattr(route.endpoint, "answer", type(route.endpoint))) or "").splitlines()[0],
        )
        for route in found
    ]
    return table(("method", "path", "what it is"), rows)


def neutral() -> str:
    """List the parameters that are taken only where they ask for nothing."""
    rows = [
        (f"`{name}`", ", ".join(f"`{json.dumps(value)}`" for value in values))
        for name, values in sorted(chat_body.NEUTRAL.items())
    ]
    return table(("parameter", "taken only as"), rows)


def ignored() -> str:
    """List the parameters that are taken without effect."""
    return ", ".join(f"`{name}`" for name in sorted(chat_body.IGNORED)) + "\n"


def functions() -> str:
    """List the functions that `code` steps may name."""
    rows = [(f"`{name}`", (inspect.getdoc(f) or "").splitlines()[0]) for name, f in sorted(FUNCTIONS.items())]
    return table(("function", "what it does"), rows)


def expressions() -> str:
    """List the functions of expressions by what they are for, each with an example and what it gives."""
    parts = []
    for group, members in GROUPS.items():
        rows = [
            (
                f"`{one.written}`",
                one.says,
                f"`{one.example}`",
                f"`{json.dumps(evaluate(one.example, {}), ensure_ascii=False)}`",
            )
            for one in members.values()
        ]
        parts.append(f"### {group.capitalize()}\n\n" + table(("function", "what it gives", "example", "value"), rows))
    return "\n".join(parts)


_KEYS = {
    "agent": kinds.AGENT_KEYS,
    "call": flow_kinds.CALL_KEYS,
    "emit": flow_kinds.EMIT_KEYS,
    "foreach": flow_kinds.FOREACH_KEYS,
    "human": kinds.HUMAN_KEYS,
    "llm": kinds.LLM_KEYS,
    "loop": flow_kinds.LOOP_KEYS,
    "parallel": flow_kinds.PARALLEL_KEYS,
    "retrieve": kinds.RETRIEVE_KEYS,
    "wait": flow_kinds.WAIT_KEYS,
}
"""What may stand under the key of each kind that is more than one word."""


def kind(name: str) -> str:
    """List what a kind of step takes: the keys of its value, and the modifiers beside it."""
    rows = [("its keys", _KEYS[name])] if name in _KEYS else []
    rows.append(("beside it", tuple(key for key in ALLOWED[name] if key in (*MODIFIERS, "steps"))))
    return table(("", "may have"), [(what, ", ".join(f"`{key}`" for key in keys)) for what, keys in rows])


BLOCKS: dict[str, Callable[[], str]] = {
    **{f"kind-{name}": functools.partial(kind, name) for name in kinds.KIND_KEYS},
    "commands": commands,
    "endpoints": endpoints,
    "errors": error_codes,
    "expressions": expressions,
    "functions": functions,
    "ignored": ignored,
    "neutral": neutral,
    "sections": sections,
    "variables": variables,
}


def language() -> str:
    """Write the JSON Schema of the workflow language."""
    return json.dumps(editor.schema(), indent=1, ensure_ascii=False) + "\n"


FILES: dict[str, Callable[[], str]] = {"workflow.schema.json": language}


def run(check: bool) -> int:
    """Bring every page up to date, or only say which are not."""
    stale, seen = [], set()
    for name, write in FILES.items():
        file, fresh = REFERENCE / name, write()
        if not file.exists() or file.read_text(encoding="utf-8") != fresh:
            stale.append(name)
            if not check:
                file.write_text(fresh, encoding="utf-8")
    for page in sorted(REFERENCE.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        for match in _BLOCK.finditer(text):
            seen.add(match["name"])
        fresh = _BLOCK.sub(lambda m: f"{m[1]}{BLOCKS[m['name']]().rstrip()}\n{m[4]}", text)
        if fresh != text:
            stale.append(str(page.relative_to(REFERENCE)))
            if not check:
                page.write_text(fresh, encoding="utf-8")
    missing = sorted(set(BLOCKS) - seen)
    for name in missing:
        print(f"no page has the block {name}")
    for name in stale:
        print(f"docs/reference/{name} " + ("is out of date: python scripts/reference.py" if check else "written"))
    return 1 if missing or (check and stale) else 0


if __name__ == "__main__":
    sys.exit(run("--check" in sys.argv[1:]))
