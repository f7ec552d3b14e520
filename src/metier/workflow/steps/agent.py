"""`agent:` steps: a model that chooses its next step itself, with tools, approvals, hand-offs and a memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metier.calls import JSON
from metier.errors import StepFailed
from metier.workflow.commands import FALLBACK
from metier.workflow.engine import StepContext
from metier.workflow.steps import agent_sdk
from metier.workflow.steps.agent_memory import Exchange, Memory
from metier.workflow.steps.agent_persona import Team, team
from metier.workflow.steps.agent_sdk import Player
from metier.workflow.steps.agent_tools import CallFlow, Toolbox
from metier.workflow.steps.agent_turns import Turns
from metier.workflow.steps.functions import FUNCTIONS
from metier.workflow.steps.handed import Ask
from metier.workflow.steps.llm import read_answer
from metier.workflow.steps.tool import Tool

__all__ = ["AgentParts", "AgentSteps"]

_REPAIR = {
    "fr": "Ta réponse ne convient pas : {problem}. Réponds de nouveau, et seulement par la réponse demandée.",
    "en": "Your answer does not fit: {problem}. Answer again, with the answer asked for and nothing else.",
}


@dataclass(frozen=True, slots=True)
class AgentParts:
    """What agents have beyond models and tools, where the application has it."""

    memory: Memory | None = None
    """Without one, no conversation is remembered."""
    call_flow: CallFlow | None = None
    """Without one, other workflows cannot be tools."""


class AgentSteps:
    """Runs `agent:` steps on the loop of the OpenAI Agents SDK, every model call of which takes the one road."""

    def __init__(self, ask: Ask, roles: Mapping[str, str], toolbox: Toolbox, memory: Memory | None = None) -> None:
        self._ask = ask
        self._roles = roles
        self._toolbox = toolbox
        self._memory = memory
        self._ready = False

    @classmethod
    def built(
        cls, ask: Ask, roles: Mapping[str, str], tools: Mapping[str, Tool], parts: AgentParts | None = None
    ) -> AgentSteps:
        """Make them from a table of tools, beside which agents have the functions of code steps."""
        given = parts or AgentParts()
        return cls(ask, roles, Toolbox(tools, FUNCTIONS, given.call_flow), given.memory)

    async def __call__(self, context: StepContext, with_: dict[str, JSON]) -> JSON:
        """Let the agent work until it has an answer that fits, a person must approve a tool call, or it may not go on.

        A step that is run again goes through what the journal has of it without asking or doing any of it again.
        """
        if not self._ready:
            # The SDK takes two seconds to load: not on the loop that others wait for.
            await asyncio.to_thread(agent_sdk.ready)
            self._ready = True
        made = team(context, with_)
        players = {id: await self._player(context, made, id) for id in made.members}
        config = context.step.config if isinstance(context.step.config, dict) else {}
        turns = Turns(
            context,
            self._ask,
            made.max_turns,
            person=made.person,
            conversation=None if self._memory is None else self._memory.name(context.principal, made.conversation),
            assign=str(config.get("assign") or FALLBACK),
        )
        told: dict[str, Any] = {"role": "user", "content": made.message}
        items = [*await self._remembered(context, made), told]
        value, agent, text = await self._asked(context, made, players, turns, items)
        if self._memory is not None and made.conversation is not None:
            exchange = Exchange(agent, made.message, text)
            await self._memory.keep(context, made.conversation, made.person, exchange)
        return value

    async def _player(self, context: StepContext, made: Team, id: str) -> Player:
        persona = made.members[id]
        model = self._roles.get(persona.model, persona.model)
        return Player(persona, model, await self._toolbox.offers(context, persona))

    async def _asked(
        self, context: StepContext, made: Team, players: Mapping[str, Player], turns: Turns, items: list[Any]
    ) -> tuple[JSON, str, str]:
        """Give the answer with who gave it and in which words; one that does not fit is asked for once more."""
        agents = agent_sdk.gather(players, turns, context.step.output)
        ended = await agent_sdk.converse(agents[made.first], items, turns)
        value, problem = _answer(ended.text, ended.agent, context.step.output)
        if problem is not None:
            again = {"role": "user", "content": _REPAIR[made.language].format(problem=problem)}
            ended = await agent_sdk.converse(agents[ended.agent], [*ended.items, again], turns)
            value, problem = _answer(ended.text, ended.agent, context.step.output)
        if problem is not None:
            raise StepFailed(
                f"the agent {ended.agent!r} did not give what {context.path!r} asks for, "
                f"even after one repair: {problem}"
            )
        return value, ended.agent, ended.text

    async def _remembered(self, context: StepContext, made: Team) -> list[Any]:
        """Read what was said before, once: a run that goes on later sees what it saw at first."""
        memory, key = self._memory, made.conversation
        if memory is None or key is None:
            return []

        async def read() -> JSON:
            return await memory.before(context.principal, key)

        before = await context.once("conversation", read)
        found: list[Any] = []
        for exchange in before if isinstance(before, list) else ():
            assert isinstance(exchange, dict)
            agent, text = exchange["agent"], exchange["answer"]
            found.append({"role": "user", "content": exchange["message"]})
            found.append({"role": "assistant", "content": text if agent == made.first else f"[{agent}] {text}"})
        return found


def _answer(text: str, agent: str, schema: Mapping[str, JSON] | None) -> tuple[JSON, str | None]:
    if not text.strip():
        return None, "it is empty"
    value, problem = read_answer(text, schema)
    return ({"text": text.strip(), "agent": agent}, None) if schema is None else (value, problem)
