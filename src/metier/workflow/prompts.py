"""Prompt files: a system part, a user part, variables from `with`, in a template language that cannot run away."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jinja2 import TemplateError, meta, nodes

from metier.calls import JSON, Message
from metier.errors import Invalid
from metier.workflow.files import language_of
from metier.workflow.prompt_language import FILTERS, PROMPT_MAX, TESTS, Environment, counted
from metier.workflow.shape import Workflow

__all__ = ["Prompt", "check", "choose", "messages", "prompt", "variables"]

_DEPTH_MAX = 50
_NESTED_LOOPS = 2
_ALLOWED = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.For,
    nodes.If,
    nodes.Name,
    nodes.NSRef,
    nodes.Const,
    nodes.List,
    nodes.Tuple,
    nodes.Getattr,
    nodes.Getitem,
    nodes.Filter,
    nodes.Test,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.CondExpr,
    nodes.Concat,
    nodes.Add,
    nodes.Sub,
    nodes.Neg,
    nodes.Keyword,
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What one call to a model says, with every variable filled in."""

    system: str | None
    user: str


def check(text: str, file: str) -> None:
    """Refuse a prompt file that is not a template of the small language prompts are written in."""
    for part in _parts(text):
        _tree(part, file, Environment())
    if not _parts(text)[-1].strip():
        raise Invalid(f"{file}:1:1: cannot read the prompt: its user part is empty")


def variables(text: str, file: str) -> frozenset[str]:
    """Name the variables a prompt file uses, all of which must come from `with`."""
    found: set[str] = set()
    for part in _parts(text):
        found |= meta.find_undeclared_variables(_tree(part, file, Environment()))
    return frozenset(found)


def choose(files: Iterable[str], path: str, language: str | None) -> str:
    """Pick the file of a prompt: its variant in the language, else the file itself, else its English or first one."""
    known = set(files)
    folder = path.rpartition("/")[0]
    variants: dict[str, str] = {}
    for file in sorted(known):
        if file.rpartition("/")[0] == folder and (found := language_of(path, file.rpartition("/")[2])):
            variants[found] = file
    if language in variants:
        return variants[language]
    if path in known:
        return path
    if not variants:
        raise Invalid(f"cannot find the prompt {path!r} among the files of the workflow")
    return variants.get("en") or next(iter(variants.values()))


def prompt(text: str, file: str, with_: Mapping[str, JSON], system: str | None = None) -> Prompt:
    """Fill in a prompt file from the values of `with`; `system` is the text of a file for the system part alone."""
    *before, user = _parts(text)
    parts = [system] if system is not None else []
    parts.extend(before)
    environment = Environment()
    *filled, last = [_filled(part, file, with_, environment).strip() for part in (*parts, user)]
    return Prompt("\n\n".join(part for part in filled if part) or None, last)


def messages(workflow: Workflow, config: Mapping[str, JSON], with_: Mapping[str, JSON]) -> tuple[Message, ...]:
    """Write the messages of an `llm:` step: system, examples, then the prompt, in the language that `with` names."""
    language = with_.get("language")
    chosen = language if isinstance(language, str) else None
    file = choose(workflow.files, str(config.get("prompt")), chosen)
    system = config.get("system")
    alone = workflow.files[choose(workflow.files, system, chosen)] if isinstance(system, str) else None
    filled = prompt(workflow.files[file], file, with_, alone)
    found = [Message("system", filled.system)] if filled.system else []
    examples = config.get("examples")
    for example in examples if isinstance(examples, list) else ():
        if isinstance(example, dict):
            found.append(Message("user", str(example.get("user"))))
            found.append(Message("assistant", str(example.get("assistant"))))
    return (*found, Message("user", filled.user))


def _parts(text: str) -> tuple[str, ...]:
    """Cut a file at its first line that is only `---`: what is above is for the system message."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if line.rstrip() == "---":
            # The empty lines keep the line numbers of the user part those of the file.
            return "\n".join(lines[:number]), "\n" * (number + 1) + "\n".join(lines[number + 1 :])
    return (text,)


def _tree(text: str, file: str, environment: Environment) -> nodes.Template:
    try:
        tree = environment.parse(text)
    except TemplateError as wrong:
        line = getattr(wrong, "lineno", 1)
        raise Invalid(f"{file}:{line}:1: cannot read the prompt: {wrong.message}") from None
    except (RecursionError, ValueError, OverflowError) as wrong:
        raise Invalid(f"{file}:1:1: cannot read the prompt: {wrong}") from None
    _restrict(tree, file, 0, 0)
    return tree


def _restrict(node: nodes.Node, file: str, loops: int, depth: int) -> None:
    """Allow what only reads: no assignment, call, macro or import, and loops at most two deep."""
    loops += isinstance(node, nodes.For)
    at = f"{file}:{node.lineno or 1}:1"
    if depth > _DEPTH_MAX:
        raise Invalid(f"{at}: cannot put more than {_DEPTH_MAX} things inside one another in a prompt")
    if isinstance(node, nodes.Name) and node.name == "self":
        raise Invalid(f"{at}: cannot use 'self' in a prompt: to Jinja it is the template; give the value another name")
    if not isinstance(node, _ALLOWED) or (isinstance(node, nodes.For) and node.recursive):
        raise Invalid(
            f"{at}: cannot use {type(node).__name__.lower()} in a prompt; prepare the value in `with` or in a code step"
        )
    if loops > _NESTED_LOOPS:
        raise Invalid(f"{at}: cannot put more than {_NESTED_LOOPS} loops inside one another in a prompt")
    if isinstance(node, nodes.Filter) and node.name not in FILTERS:
        raise Invalid(f"{at}: there is no filter {node.name!r} in prompts; there are {', '.join(FILTERS)}")
    if isinstance(node, nodes.Test) and node.name not in TESTS:
        raise Invalid(f"{at}: there is no test {node.name!r} in prompts; there are {', '.join(TESTS)}")
    for child in node.iter_child_nodes():
        _restrict(child, file, loops, depth + 1)


def _filled(text: str, file: str, with_: Mapping[str, JSON], environment: Environment) -> str:
    tree = _tree(text, file, environment)
    counted(tree)
    tree.set_environment(environment)
    pieces: list[str] = []
    size = 0
    try:
        for piece in environment.from_string(tree).generate(dict(with_)):
            pieces.append(piece)
            size += len(piece)
            if size > PROMPT_MAX:
                raise Invalid(
                    f"cannot fill in the prompt {file!r}: more than {PROMPT_MAX} characters; give it less in `with`"
                )
    except TemplateError as wrong:
        raise Invalid(f"cannot fill in the prompt {file!r}: {wrong.message}; it was given {sorted(with_)}") from None
    except (
        TypeError,
        ValueError,
        ArithmeticError,
        LookupError,
        AttributeError,
        AssertionError,
        RecursionError,
    ) as wrong:
        raise Invalid(f"cannot fill in the prompt {file!r}: {wrong}") from None
    return "".join(pieces)
