"""How each family of models on Amazon Bedrock is told to think: Converse itself has no word for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from metier.calls import JSON, Call, Effort
from metier.catalog import Deployment
from metier.errors import Invalid

__all__ = ["thinking_fields"]

_CLAUDE = re.compile(r"claude-(?:[a-z]+-)?(\d+)(?:-(\d{1,2})(?!\d))?")
_ADAPTIVE_SINCE: Final = (4, 6)
"""From this version on Claude decides how much to think; after it, it takes no number of tokens."""
_LEAST: Final = 1024
_TOKENS: Mapping[Effort, int] = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384}
# The three words these models have; "minimal" is nearest to the first.
_WORDS: Mapping[Effort, str] = {"minimal": "low", "low": "low", "medium": "medium", "high": "high"}


def thinking_fields(call: Call, deployment: Deployment, max_tokens: int) -> dict[str, JSON]:
    """Write the model's own fields for the thinking a call asks for, or refuse by name what the model has not."""
    if call.effort is None and call.thinking_tokens is None:
        return {}
    if call.effort is not None and call.thinking_tokens is not None:
        raise _cannot(deployment, "'reasoning_effort' and a number of thinking tokens at once", "give one of them")
    if "claude" in deployment.model_id:
        return _claude(call, deployment, max_tokens)
    if call.thinking_tokens:
        raise _cannot(deployment, "a number of thinking tokens", "give 'reasoning_effort', or leave it out")
    effort = call.effort or "none"
    if "amazon.nova-2" in deployment.model_id:
        config: JSON = {"type": "disabled"} if effort == "none" else _nova(effort)
        return {"reasoningConfig": config}
    if "openai.gpt-oss" in deployment.model_id and effort != "none":
        return {"reasoning_effort": _WORDS[effort]}
    raise _cannot(deployment, f"'reasoning_effort': {effort!r} for {deployment.model_id!r}", "leave it out")


def _nova(effort: Effort) -> JSON:
    return {"type": "enabled", "maxReasoningEffort": _WORDS[effort]}


def _claude(call: Call, deployment: Deployment, max_tokens: int) -> dict[str, JSON]:
    if call.thinking_tokens == 0 or call.effort == "none":
        return {"thinking": {"type": "disabled"}}
    version = _version(deployment.model_id)
    if call.effort is not None and version >= _ADAPTIVE_SINCE:
        # Without the word, some models keep what they thought to themselves.
        thinking: JSON = {"type": "adaptive", "display": "summarized"}
        return {"thinking": thinking, "output_config": {"effort": _WORDS[call.effort]}}
    if version > _ADAPTIVE_SINCE:
        raise _cannot(deployment, f"a number of thinking tokens for {deployment.model_id!r}", "give 'reasoning_effort'")
    # An effort is a wish: half of what may be written stays for the answer.
    tokens = call.thinking_tokens or min(_TOKENS[call.effort or "low"], max_tokens // 2)
    if not _LEAST <= tokens < max_tokens:
        way = f"allow at least {_LEAST} for thinking and more than that for the whole answer (it may have {max_tokens})"
        raise _cannot(deployment, f"{tokens} thinking tokens", way)
    return {"thinking": {"type": "enabled", "budget_tokens": tokens}}


def _version(model_id: str) -> tuple[int, int]:
    """Read the version in a Claude's name; one without a number is newer than those with."""
    found = _CLAUDE.search(model_id)
    return (int(found[1]), int(found[2] or 0)) if found else (99, 0)


def _cannot(deployment: Deployment, what: str, way: str) -> Invalid:
    return Invalid(f"deployment {deployment.id!r} (Amazon Bedrock) cannot take {what}: {way}", param="reasoning_effort")
