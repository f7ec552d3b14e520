"""Who takes part in an `agent:` step: instructions filled in, model, tools, and to whom each may hand over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson

from metier.calls import JSON
from metier.deferred import deferred
from metier.errors import Invalid
from metier.workflow.engine import StepContext

if TYPE_CHECKING:
    from metier.workflow import prompts
else:
    prompts = deferred("metier.workflow.prompts")

__all__ = ["ASIDE", "TURNS_DEFAULT", "Persona", "Team", "team"]

TURNS_DEFAULT: Final = 10
_TURNS_MAX: Final = 50

ASIDE: Final = ("conversation", "language", "person")
"""Keys of `with` that steer the step and are no part of what the agent is told."""


@dataclass(frozen=True, slots=True)
class Persona:
    """One agent of a step."""

    id: str
    instructions: str
    model: str
    """A role, such as writer, or a public model name."""
    tools: tuple[str, ...]
    """Names, or prefixes such as `crm.*`."""
    approve: tuple[str, ...]
    """Those of them that wait for a person, written the same way."""
    handoffs: tuple[str, ...]
    """Ids of the agents it may hand over to."""
    description: str
    """What it is for, in the words the others read."""


@dataclass(frozen=True, slots=True)
class Team:
    """The agents of a step, the first of them, and what it is told."""

    first: str
    members: Mapping[str, Persona]
    message: str
    max_turns: int
    conversation: str | None
    """Key of what several steps, runs and agents remember together; None keeps nothing."""
    person: str | None
    """Whom it speaks with, in the words of the client; what is remembered is erased with them."""
    language: str


def team(context: StepContext, with_: Mapping[str, JSON]) -> Team:
    """Read the configuration of a step and fill in its instruction files from `with`."""
    config = context.step.config if isinstance(context.step.config, dict) else {}
    step, others = context.step.id, config.get("handoffs")
    named: dict[str, JSON] = dict(others) if isinstance(others, dict) else {}
    if step in named:
        raise Invalid(f"step {context.path!r} has two agents named {step!r}: give the one it hands over to another id")
    written = _written(context, config, with_)
    model = str(config.get("model"))
    members = {step: _persona(step, config, written, model, tuple(named))}
    for id, other in named.items():
        if not isinstance(other, dict):
            raise Invalid(f"the agent {id!r} of step {context.path!r} is no agent: give it instructions")
        passed_on = tuple(one for one in _words(other.get("handoffs")) if one in named and one != id)
        members[id] = _persona(id, other, _written(context, other, with_), model, passed_on)
    turns = config.get("max_turns", TURNS_DEFAULT)
    if isinstance(turns, bool) or not isinstance(turns, int) or not 1 <= turns <= _TURNS_MAX:
        raise Invalid(f"step {context.path!r} allows {turns!r} turns: give a number from 1 to {_TURNS_MAX}")
    return Team(
        first=step,
        members=members,
        message=written.user if written.system is not None else _told(with_),
        max_turns=turns,
        conversation=_key(context, config, with_),
        person=_text(with_.get("person")),
        language="en" if with_.get("language") == "en" else "fr",
    )


def _persona(
    id: str, config: Mapping[str, JSON], written: prompts.Prompt, model: str, handoffs: tuple[str, ...]
) -> Persona:
    return Persona(
        id=id,
        instructions=written.user if written.system is None else written.system,
        model=str(config.get("model") or model),
        tools=_words(config.get("tools")),
        approve=_words(config.get("approve")),
        handoffs=handoffs,
        description=str(config.get("description") or ""),
    )


def _written(context: StepContext, config: Mapping[str, JSON], with_: Mapping[str, JSON]) -> prompts.Prompt:
    """An instruction file is for the system message; what stands below a line `---` is the first message."""
    files, language = context.workflow.files, with_.get("language")
    file = prompts.choose(files, str(config.get("instructions")), language if isinstance(language, str) else None)
    return prompts.prompt(files[file], file, with_)


def _told(with_: Mapping[str, JSON]) -> str:
    """The key `message` is what the agent is told, or the only text there is; else all values are told as JSON."""
    values = {key: value for key, value in with_.items() if key not in ASIDE}
    only = next(iter(values.values())) if len(values) == 1 else values.get("message")
    return only if isinstance(only, str) else orjson.dumps(values, option=orjson.OPT_INDENT_2).decode()


def _key(context: StepContext, config: Mapping[str, JSON], with_: Mapping[str, JSON]) -> str | None:
    if "conversation" not in config:
        return None
    key = with_.get("conversation", config["conversation"])
    if not isinstance(key, str) or not key.strip() or "{{" in key or len(key) > 500:
        raise Invalid(f"step {context.path!r} needs a conversation key that is text of 1 to 500 characters")
    return key


def _text(value: JSON) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _words(value: JSON) -> tuple[str, ...]:
    found: Sequence[JSON] = value if isinstance(value, list) else ()
    return tuple(str(one) for one in found)
