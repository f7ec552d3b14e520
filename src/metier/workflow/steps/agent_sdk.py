"""The only place that knows the OpenAI Agents SDK: its loop runs our turns, and nothing of it leaves this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metier.calls import JSON, OutputSchema, Tool
from metier.errors import ConfigError, StepFailed
from metier.workflow.steps.agent_items import message_id
from metier.workflow.steps.agent_persona import Persona
from metier.workflow.steps.agent_tools import Offer
from metier.workflow.steps.agent_turns import Asking, Halt, Turns

if TYPE_CHECKING:
    from agents import Agent, FunctionTool, Model, ModelResponse

__all__ = ["Ended", "Player", "converse", "gather", "ready"]


@dataclass(frozen=True, slots=True)
class Player:
    """One agent ready to play: what it is, the public model it speaks through, and what it may use."""

    persona: Persona
    model: str
    offers: tuple[Offer, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a conversation ended: who spoke last, what it said, and all items so far."""

    agent: str
    text: str
    items: list[Any]


def ready() -> None:
    """Load the SDK and silence it: no tracer of it is made, so that it has nothing to send and nowhere to."""
    try:
        import agents
        from agents.tracing.provider import DefaultTraceProvider
    except ImportError as missing:
        raise ConfigError(
            "cannot run agent steps without the OpenAI Agents SDK: install the extra metier[agents]"
        ) from missing
    silent = DefaultTraceProvider()
    silent.set_disabled(True)
    agents.tracing.set_trace_provider(silent)


def gather(players: Mapping[str, Player], turns: Turns, output: Mapping[str, JSON] | None) -> dict[str, Agent[Any]]:
    """Make the SDK's agents, each with its model, tools and hand-offs."""
    import agents

    schema = None if output is None else OutputSchema(turns.context.step.id, dict(output))
    made: dict[str, Agent[Any]] = {
        id: agents.Agent(
            name=id,
            instructions=player.persona.instructions or None,
            model=_model(player, turns, schema),
            tools=[_tool(offer, turns) for offer in player.offers],
            handoff_description=player.persona.description or None,
        )
        for id, player in players.items()
    }
    for id, player in players.items():
        made[id].handoffs = [
            agents.handoff(
                made[other],
                tool_name_override=f"transfer_to_{other}",
                tool_description_override=f"Hand the conversation over to {other}. "
                f"{players[other].persona.description}".strip(),
            )
            for other in player.persona.handoffs
        ]
    return made


async def converse(agent: Agent[Any], items: Sequence[Mapping[str, Any]], turns: Turns) -> Ended:
    """Let the SDK run its loop from these items to an answer, or raise why it was stopped."""
    import agents

    config = agents.RunConfig(
        tracing_disabled=True,
        trace_include_sensitive_data=False,
        model_provider=_nobody(),
        tool_not_found_behavior="return_error_to_model",
    )
    given: Any = [dict(item) for item in items]
    try:
        # The turns count themselves, over hand-offs and repairs: the bound of the SDK is never reached.
        result = await agents.Runner.run(agent, given, max_turns=turns.most + 2, run_config=config)
    except (Halt, agents.AgentsException) as error:
        if turns.stop is not None:
            # Not `from None`: it came from something that those who see it ask about, such as a database that is away.
            raise turns.stop from turns.stop.__cause__
        raise StepFailed(f"the agent of {turns.context.path!r} did what its loop cannot take: {error}") from error
    if turns.stop is not None:
        raise turns.stop
    return Ended(result.last_agent.name, str(result.final_output or ""), list(result.to_input_list()))


def _tool(offer: Offer, turns: Turns) -> FunctionTool:
    import agents
    from agents.tool_context import ToolContext

    async def invoke(context: ToolContext[Any], arguments: str) -> str:
        return await turns.tool(offer, context.tool_call_id, arguments)

    return agents.FunctionTool(
        name=offer.called,
        description=offer.description,
        params_json_schema=dict(offer.schema),
        on_invoke_tool=invoke,
        strict_json_schema=False,
    )


def _model(player: Player, turns: Turns, output: OutputSchema | None) -> Model:
    import agents

    class Road(agents.Model):
        """The SDK's model, which is a turn on our own road."""

        async def get_response(
            self,
            system_instructions: str | None,
            input: str | list[Any],
            model_settings: Any,
            tools: list[Any],
            output_schema: Any,
            handoffs: list[Any],
            *_: Any,
            **__: Any,
        ) -> ModelResponse:
            choice = model_settings.tool_choice
            asking = Asking(
                agent=player.persona.id,
                model=player.model,
                system=system_instructions,
                items=input,
                tools=(*map(_offered, tools), *map(_handed, handoffs)),
                tool_choice=choice if isinstance(choice, str) else None,
                output=output,
                parallel_tool_calls=model_settings.parallel_tool_calls,
            )
            return _response(await turns.answer(asking), turns.number)

        def stream_response(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
            raise StepFailed("agents are not streamed: a turn is journalled whole before anybody sees it")

    return Road()


def _nobody() -> Any:
    import agents

    class Nobody(agents.ModelProvider):
        """Gives no model: every agent has its own."""

        def get_model(self, model_name: str | None) -> Model:
            raise StepFailed(f"no model {model_name!r} is reached but by the road")

    return Nobody()


def _offered(tool: Any) -> Tool:
    return Tool(tool.name, tool.description, tool.params_json_schema)


def _handed(handoff: Any) -> Tool:
    schema = handoff.input_json_schema or {"type": "object", "properties": {}, "additionalProperties": False}
    return Tool(handoff.tool_name, handoff.tool_description, schema)


def _response(turn: Mapping[str, Any], number: int) -> ModelResponse:
    import agents
    from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

    output: list[Any] = [
        ResponseFunctionToolCall(
            type="function_call", call_id=one["id"], name=one["name"], arguments=one["arguments"] or "{}"
        )
        for one in turn["tool_calls"]
    ]
    if turn["text"] or not output:
        text = ResponseOutputText(type="output_text", text=turn["text"], annotations=[])
        output.insert(
            0,
            ResponseOutputMessage(
                id=message_id(number), type="message", role="assistant", status="completed", content=[text]
            ),
        )
    used = agents.Usage(requests=1, input_tokens=turn["input_tokens"], output_tokens=turn["output_tokens"])
    return agents.ModelResponse(output=output, usage=used, response_id=None)
