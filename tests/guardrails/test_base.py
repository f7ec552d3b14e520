"""Several guardrails in a row: none of them can fail open."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from metier.calls import Call, Chunk, KeyId, Message, Principal, ProjectId, SystemId
from metier.errors import Broken, GuardrailBlocked
from metier.guardrails import Chain, Checked, Verdict

CALL = Call(Principal(KeyId("k"), ProjectId("p"), SystemId("s")), "model", messages=(Message("user", "x"),))


class Upper:
    """An output filter that holds every first chunk back and shouts the rest."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.held = ""

    def feed(self, chunk: Chunk) -> Chunk | None:
        if not self.held:
            self.held = chunk.text
            return None
        shown, self.held = self.held + self.mark, chunk.text
        return replace(chunk, text=shown)

    def flush(self) -> Chunk | None:
        held, self.held = self.held, ""
        return Chunk(text=held + self.mark) if held else None


class Marks:
    def __init__(self, mark: str, verdict: Verdict = Verdict.MASK) -> None:
        self.name = mark
        self.revision = "1"
        self.verdict = verdict

    async def check_input(self, call: Call) -> Checked:
        marked = replace(call, messages=(Message("user", call.messages[0].content + self.name),))
        return Checked(marked, self.verdict, {self.name: 1}, Upper(self.name), reason="no")


class Fails:
    name = "fails"
    revision = "1"

    async def check_input(self, call: Call) -> Checked:
        raise ValueError("secret value")


class Hangs:
    name = "hangs"
    revision = "1"

    async def check_input(self, call: Call) -> Checked:
        await asyncio.Event().wait()
        raise AssertionError


async def test_each_guardrail_sees_what_the_one_before_it_left() -> None:
    checked = await Chain([Marks("a", Verdict.FLAG), Marks("b")]).check_input(CALL)
    assert checked.call.messages[0].content == "xab"
    assert checked.counts == {"a": 1, "b": 1}
    assert checked.verdict is Verdict.MASK
    assert checked.output is not None
    shown = [checked.output.feed(Chunk(text=text)) for text in "123"]
    rest = checked.output.flush()
    assert "".join(chunk.text for chunk in [*shown, rest] if chunk) == "1ba2ba3ba"


async def test_a_block_ends_the_call() -> None:
    with pytest.raises(GuardrailBlocked, match="no"):
        await Chain([Marks("a", Verdict.BLOCK)]).check_input(CALL)


async def test_an_error_closes_the_road_and_says_no_value() -> None:
    with pytest.raises(Broken, match="'fails' failed") as raised:
        await Chain([Fails()]).check_input(CALL)
    assert "secret value" not in str(raised.value)


async def test_a_guardrail_that_does_not_answer_closes_the_road() -> None:
    with pytest.raises(Broken, match="did not answer"):
        await Chain([Hangs()], timeout_s=0).check_input(CALL)


async def test_no_guardrail_means_pass() -> None:
    checked = await Chain([]).check_input(CALL)
    assert checked.call is CALL
    assert checked.verdict is Verdict.PASS
    assert checked.output is None
