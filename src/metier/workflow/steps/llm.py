"""`llm:` steps: one prompt, one answer that fits the output schema, with one attempt at repair."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

from metier.calls import JSON, Answer, Call, ConversationId, Message, Origin, OutputSchema
from metier.deferred import deferred
from metier.errors import BudgetExceeded, Invalid, StepFailed
from metier.workflow.engine import StepContext
from metier.workflow.steps.handed import Ask

if TYPE_CHECKING:
    import jsonschema

    from metier.workflow import prompts
else:
    jsonschema = deferred("jsonschema")
    prompts = deferred("metier.workflow.prompts")

__all__ = ["LlmSteps", "read_answer"]

_REPAIR = {
    "fr": "Ta réponse ne convient pas : {problem}. Réponds de nouveau, en JSON conforme au schéma, sans rien d'autre.",
    "en": "Your answer does not fit: {problem}. Answer again, as JSON that fits the schema, and nothing else.",
}


class LlmSteps:
    """Runs `llm:` steps; every call takes the one road and is journalled before its answer is used."""

    def __init__(self, ask: Ask, roles: Mapping[str, str]) -> None:
        self._ask = ask
        self._roles = roles
        """What writer, judge and so on mean here and now: role → public model name."""

    async def __call__(self, context: StepContext, with_: dict[str, JSON]) -> JSON:
        """Render the prompt, ask, check the answer, repair once."""
        if context.budget_left_eur is not None and context.budget_left_eur <= Decimal(0):
            raise BudgetExceeded(f"step {context.path!r} has no money left in the budget of its run")
        call = self._call(context, with_)
        first = await context.once("answer", lambda: self._answer(context, call))
        value, problem = read_answer(_text(first), context.step.output)
        if problem is None:
            return value
        language = "en" if with_.get("language") == "en" else "fr"
        again = _replaced(
            call,
            (
                *call.messages,
                Message("assistant", _text(first)),
                Message("user", _REPAIR[language].format(problem=problem)),
            ),
        )
        second = await context.once("repair", lambda: self._answer(context, again))
        value, problem = read_answer(_text(second), context.step.output)
        if problem is not None:
            raise StepFailed(f"the model did not give what {context.path!r} asks for, even after one repair: {problem}")
        return value

    def _call(self, context: StepContext, with_: dict[str, JSON]) -> Call:
        config = context.step.config if isinstance(context.step.config, dict) else {}
        role = str(config.get("model"))
        messages = prompts.messages(context.workflow, config, with_)
        schema = context.step.output
        return Call(
            principal=context.principal,
            model=self._roles.get(role, role),
            messages=messages,
            output=OutputSchema(context.step.id, dict(schema)) if schema is not None else None,
            temperature=_number(config.get("temperature")),
            max_output_tokens=_whole(config.get("max_output_tokens")),
            conversation=ConversationId(context.run),
            origin=Origin(context.run, context.path, context.attempt),
        )

    async def _answer(self, context: StepContext, call: Call) -> JSON:
        answer = await self._ask(call)
        receipt = answer.receipt
        if receipt is not None:
            context.spend(receipt.cost_eur)
        return _journalled(answer)


def _journalled(answer: Answer) -> dict[str, JSON]:
    """What is kept of an answer: the text, and the call it came from."""
    return {
        "text": answer.text,
        "finish": answer.finish,
        "call": answer.receipt.call_id if answer.receipt else None,
        "input_tokens": answer.usage.input_tokens,
        "output_tokens": answer.usage.output_tokens,
    }


def _text(kept: JSON) -> str:
    return str(kept.get("text", "")) if isinstance(kept, dict) else ""


def read_answer(text: str, schema: Mapping[str, JSON] | None) -> tuple[JSON, str | None]:
    """Read an answer as the schema asks, and say in a few words what does not fit."""
    if schema is None:
        return {"text": text.strip()}, None
    try:
        value: JSON = orjson.loads(_json_part(text))
    except orjson.JSONDecodeError as error:
        return None, f"it is not JSON ({error})"
    problem = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(dict(schema)).iter_errors(value))
    if problem is None:
        return value, None
    place = "/".join(str(part) for part in problem.absolute_path) or "the whole"
    return None, f"{place}: {problem.validator} {json.dumps(problem.validator_value, ensure_ascii=False)[:200]}"


def _json_part(text: str) -> str:
    """Models without grammar like to wrap JSON in prose or a code fence: keep what lies between the outer braces."""
    begin, end = text.find("{"), text.rfind("}")
    return text[begin : end + 1] if 0 <= begin < end else text


def _replaced(call: Call, messages: tuple[Message, ...]) -> Call:
    values: dict[str, Any] = {
        name: getattr(call, name)
        for name in ("principal", "model", "output", "temperature", "max_output_tokens", "conversation", "origin")
    }
    return Call(**values, messages=messages)


def _number(value: JSON) -> float | None:
    """None leaves it to the deployment: some providers refuse any temperature."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Invalid(f"a temperature is a number, not {value!r}")
    return float(value)


def _whole(value: JSON) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise Invalid(f"max_output_tokens is a whole number, not {value!r}")
