"""What an agent does, turn by turn: answers and tool results are journalled before they are used, and never redone."""

from __future__ import annotations

import asyncio
import hashlib
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from metier.calls import JSON, Call, ConversationId, Message, Origin, OutputSchema, Tool
from metier.errors import BudgetExceeded, GuardrailBlocked, MetierError, StepFailed
from metier.store import away
from metier.workflow.commands import FALLBACK
from metier.workflow.context import Asked
from metier.workflow.engine import StepContext
from metier.workflow.journal import LostRun
from metier.workflow.steps.agent_items import kept, message_id, messages, said
from metier.workflow.steps.agent_tools import Offer
from metier.workflow.steps.handed import Ask
from metier.workflow.steps.tool import Effect
from metier.workflow.tool_schema import moved, problem_of

__all__ = ["Asking", "Halt", "Turns"]

_LONGEST_RESULT = 32_000
"""Characters of a tool's result that the model is told."""


class Halt(Exception):
    """Unwinds the agents SDK; why is kept by the turns."""


@dataclass(frozen=True, slots=True)
class Asking:
    """One request of the agents SDK for the next turn, in our words."""

    agent: str
    model: str
    """A public model name."""
    system: str | None
    items: str | Sequence[Mapping[str, Any]]
    tools: tuple[Tool, ...]
    tool_choice: str | None
    output: OutputSchema | None
    parallel_tool_calls: bool | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """One tool call of a turn."""

    turn: int
    tool: int
    agent: str
    why: str
    """What the model said beside it."""
    repeats: int
    """How many calls of the same tool with the same arguments the agent has made before this one."""


@dataclass(slots=True)
class Turns:
    """The turns of one step, those of before a crash or a failed attempt included."""

    context: StepContext
    ask: Ask
    most: int
    person: str | None = None
    conversation: ConversationId | None = None
    assign: str = FALLBACK
    """Who approves tool calls."""
    number: int = 0
    """Of the turn asked for last."""
    _said: dict[str, Message] = field(default_factory=dict)
    _places: dict[str, _Place] = field(default_factory=dict)
    _calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    _failed: set[str] = field(default_factory=set)
    _stops: dict[int, BaseException] = field(default_factory=dict)
    """Why the step must stop, by number of the tool call; 0 is the turn itself."""
    _first: int = 0
    """The attempt this one goes on from: a failure that may pass is no reason to pay its turns again."""

    def __post_init__(self) -> None:
        self._first = self.context.attempt
        while self._first > 1 and _passing(self.context, self._first - 1):
            self._first -= 1

    @property
    def stop(self) -> BaseException | None:
        """Why the agent was stopped, if it was: of several reasons in one turn, that of the first tool call."""
        if not self._stops:
            return None
        first, *more = (self._stops[number] for number in sorted(self._stops))
        if isinstance(first, Asked) and first.flow is not None:
            # Runs of other workflows go on side by side; people are asked one thing after the other.
            first.also = tuple(one for one in more if isinstance(one, Asked) and one.flow is not None)
        return first

    async def answer(self, asking: Asking) -> Mapping[str, Any]:
        """Give the next turn, from the journal where it is there already."""
        if self._stops:
            raise Halt
        try:
            return await self._answer(asking)
        except asyncio.CancelledError:
            raise
        except BaseException as stop:  # noqa: BLE001  # the SDK would wrap it; given back whole once it has ended
            self._stops[0] = stop
            raise Halt from None

    async def _answer(self, asking: Asking) -> Mapping[str, Any]:
        self.number += 1
        number = self.number
        if number > self.most:
            raise StepFailed(
                f"the agent of {self.context.path!r} had no answer after {self.most} turns: "
                "raise max_turns, or give it clearer instructions or fewer tools"
            )
        call = self._call(asking)
        turn = await self._once(f"turn.{number}", lambda: self._buy(call, number, asking.agent))
        assert isinstance(turn, dict)
        if turn["finish"] == "content_filter":
            raise GuardrailBlocked(f"the provider blocked turn {number} of {self.context.path!r}: look at what it read")
        self._note(turn, number)
        return turn

    def _call(self, asking: Asking) -> Call:
        context = self.context
        return Call(
            principal=context.principal,
            model=asking.model,
            messages=messages(asking.system, asking.items, self._said, frozenset(self._failed)),
            tools=asking.tools,
            tool_choice=asking.tool_choice if asking.tools else None,
            output=asking.output,
            parallel_tool_calls=asking.parallel_tool_calls,
            end_user=self.person,
            conversation=self.conversation or ConversationId(context.run),
            origin=Origin(context.run, context.path, context.attempt),
        )

    async def _buy(self, call: Call, number: int, agent: str) -> JSON:
        left = self.context.budget_left_eur
        if left is not None and self.context.spent[0] >= left:
            raise BudgetExceeded(
                f"the agent of {self.context.path!r} has spent what it may: no money is left for turn {number}"
            )
        answer = await self.ask(call)
        if answer.receipt is not None:
            self.context.spend(answer.receipt.cost_eur)
        return kept(answer, number, agent)

    def _note(self, turn: Mapping[str, Any], number: int) -> None:
        """Remember where each tool call of a turn stands."""
        message = said(turn)
        self._said[message_id(number)] = message
        for index, one in enumerate(message.tool_calls, start=1):
            self._said[one.id] = message
            known = (one.name, one.arguments)
            self._places[one.id] = _Place(number, index, str(turn["agent"]), message.text, self._calls[known])
            self._calls[known] += 1

    async def tool(self, offer: Offer, id: str, arguments: str) -> str:
        """Do a tool call of the last turn and give what the model is told of it; it never raises but to be cancelled.

        Others of the same turn go on meanwhile: an error here would cancel them in the middle of what they do.
        """
        place = self._places[id]
        try:
            return await self._tool(offer, place, id, arguments)
        except asyncio.CancelledError:
            raise
        except BaseException as stop:  # noqa: BLE001  # raised once the other calls of the turn have ended
            self._stops[place.tool] = stop
            return ""

    async def _tool(self, offer: Offer, place: _Place, id: str, arguments: str) -> str:
        given, wrong = _read(arguments, offer)
        if wrong is not None:
            return self._told(id, {"error": wrong})
        name, used = f"turn.{place.turn}.tool.{place.tool}", given
        if offer.asks:
            decision = await self._decision(offer, place, given)
            if decision.get("decision") != "approve":
                reason = str(decision.get("reason") or "no reason was given")
                return self._told(id, {"error": f"a person refused this call: {reason}"})
            edited = decision.get("edited")
            used = edited if isinstance(edited, dict) else given
        result = await self._once(name, lambda: self._done(offer, self._key(offer, place, used), used))
        assert isinstance(result, dict)
        if used != given and "error" not in result:
            result = {"changed": "a person changed the arguments", "arguments": used, "result": result["ok"]}
        return self._told(id, result)

    async def _done(self, offer: Offer, key: str, arguments: dict[str, JSON]) -> JSON:
        """Call a tool; what goes wrong is told to the model, which may know another way."""
        try:
            return {"ok": await offer.call(Effect(key, self.context), arguments)}
        except (LostRun, BudgetExceeded):
            raise
        except MetierError as error:
            if away(error):
                raise
            return {"error": error.message, "code": error.code}
        except Exception as error:  # foreign code: its trace is in the journal, not told to the model
            if away(error):
                # No fault of the tool: the step goes on from here once the database is back.
                raise
            told = f"the tool {offer.name!r} failed unexpectedly ({type(error).__name__})"
            return {"error": told, "code": "step_failed", "trace": traceback.format_exc(limit=-20)}

    def _key(self, offer: Offer, place: _Place, arguments: Mapping[str, JSON]) -> str:
        """Name an effect by what it does: another attempt that comes to do the same does not do it twice."""
        digest = hashlib.sha256(orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS)).hexdigest()[:24]
        again = f"/{place.repeats + 1}" if place.repeats else ""
        return f"{self.context.run}/{self.context.path}/{offer.name}/{digest}{again}"

    async def _decision(self, offer: Offer, place: _Place, arguments: dict[str, JSON]) -> Mapping[str, JSON]:
        name = f"approve.turn.{place.turn}.{place.tool}"
        for attempt in range(self._first, self.context.attempt):
            earlier = self.context.tried(attempt, f"!{name}")
            if earlier is not None and isinstance(earlier.value, dict):
                return earlier.value
        task: dict[str, JSON] = {
            "title": {"fr": f"Autoriser {offer.name} ?", "en": f"Allow {offer.name}?"},
            "assign": self.assign,
            "show": {
                "agent": place.agent,
                "tool": offer.name,
                "what": offer.description,
                "why": place.why,
                "arguments": dict(arguments),
            },
            "edit": dict(arguments),
        }
        decided = await self.context.ask(name, task, _decision_schema(offer))
        return decided if isinstance(decided, dict) else {}

    async def _once(self, name: str, produce: Any) -> JSON:
        """As the context does it, and what an attempt that failed for a passing reason has left is not paid again."""

        async def carried() -> JSON:
            for attempt in range(self.context.attempt - 1, self._first - 1, -1):
                earlier = self.context.tried(attempt, name)
                if earlier is not None:
                    return earlier.value
            made: JSON = await produce()
            return made

        return await self.context.once(name, carried)

    def _told(self, id: str, result: Mapping[str, JSON]) -> str:
        if "error" in result:
            self._failed.add(id)
            return _short(f"error: {result['error']}")
        value = result["ok"] if "ok" in result else dict(result)
        return _short(value if isinstance(value, str) else orjson.dumps(value).decode())


def _passing(context: StepContext, attempt: int) -> bool:
    ended = context.tried(attempt, "")
    return ended is not None and isinstance(ended.value, dict) and ended.value.get("retry") is True


def _read(arguments: str, offer: Offer) -> tuple[dict[str, JSON], str | None]:
    """Read the arguments a model wrote, and say in a few words what is wrong with them."""
    try:
        given = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError as error:
        return {}, f"the arguments are not JSON ({error}): call {offer.called} again with a JSON object"
    if not isinstance(given, dict):
        return {}, f"the arguments are no JSON object: call {offer.called} again with one"
    problem = problem_of(given, offer.schema)
    if problem is None:
        return given, None
    place, why = problem
    return given, f"the arguments do not fit the schema of {offer.called} at {place}: {why[:300]}"


def _decision_schema(offer: Offer) -> dict[str, JSON]:
    return {
        "type": "object",
        "properties": {
            "decision": {"enum": ["approve", "reject"]},
            "edited": moved(offer.schema, "#/properties/edited"),
            "reason": {"type": "string"},
        },
        "required": ["decision"],
    }


def _short(text: str) -> str:
    if len(text) <= _LONGEST_RESULT:
        return text
    return f"{text[:_LONGEST_RESULT]}\n[cut: {len(text) - _LONGEST_RESULT} more characters]"
