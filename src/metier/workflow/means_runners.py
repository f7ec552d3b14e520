"""How each kind of means does the work of a step outside a run, and what that would cost at most."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from metier.calls import JSON, Answer, Call, CallId, Message, OutputSchema, Principal, new_id
from metier.catalog import Catalog
from metier.deferred import deferred
from metier.errors import Invalid, NotFound, StepFailed
from metier.tokens import bound, likely, shape_of
from metier.tuning.classifier import Classifier
from metier.workflow import rules
from metier.workflow.definition import Workflow
from metier.workflow.means import Outcome, Runner
from metier.workflow.means_data import Candidate, Item, Kept
from metier.workflow.steps.functions import FUNCTIONS
from metier.workflow.steps.handed import Ask
from metier.workflow.steps.llm import read_answer
from metier.workflow.steps.model import named

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from metier.workflow import prompts
else:
    np = deferred("numpy")
    prompts = deferred("metier.workflow.prompts")

__all__ = ["Bill", "Runners"]

_REPAIR = "Your answer does not fit: {problem}. Answer again, as JSON that fits the schema, and nothing else."
_USUAL = 1_024


@dataclass(frozen=True, slots=True)
class Bill:
    """What measuring will ask of models, before anything is asked."""

    least_calls: int
    most_calls: int
    """Where every answer needs its repair."""
    likely_eur: Decimal
    most_eur: Decimal


@dataclass(slots=True)
class _Used:
    """Calls of one try."""

    calls: int = 0
    cost_eur: float = 0.0
    wh: float | None = 0.0

    def add(self, answer: Answer) -> None:
        self.calls += 1
        receipt = answer.receipt
        energy = None if receipt is None else receipt.impact.energy_kwh
        if receipt is not None:
            self.cost_eur += float(receipt.cost_eur)
        if energy is None or self.wh is None:
            self.wh = None
        else:
            self.wh += (energy.low + energy.high) / 2 * 1000


@dataclass(frozen=True, slots=True)
class Runners:
    """Makes a runner of each candidate; every call takes the one road, in somebody's name."""

    workflow: Workflow
    principal: Principal
    ask: Ask
    catalog: Catalog
    roles: Mapping[str, str]
    classifier: Callable[[str, int | None], Awaitable[Classifier]]

    def of(self, candidate: Candidate) -> Runner:
        """Give what does the work of a candidate; Invalid where it cannot be done here."""
        match candidate.kind:
            case "code":
                return _code(str(candidate.config))
            case "rules":
                return self._rules(candidate)
            case "model":
                return self._model(candidate)
            case "llm":
                return self._llm(candidate)

    async def check(self, candidates: Sequence[Candidate]) -> None:
        """Raise where a candidate cannot be tried here, such as a classifier that nobody has trained."""
        for candidate in candidates:
            self.of(candidate)
            if candidate.kind == "model":
                name, _, version = str(candidate.config).partition("@")
                await self.classifier(name, int(version) if version else None)

    def bill(self, candidates: Sequence[Candidate], items: Sequence[Item], kept: Kept) -> Bill:
        """Foresee what the answers still missing will cost, each prompt counted as it will be sent."""
        least, most = 0, 0
        usual, worst = Decimal(0), Decimal(0)
        for candidate in candidates:
            todo = [item for item in items if not kept.has(candidate, item)]
            if candidate.kind == "model" and self.roles.get("embedder") in self.catalog.names():
                least, most = least + len(todo), most + len(todo)
            if candidate.kind != "llm":
                continue
            repairs = 2 if candidate.output is not None else 1
            least, most = least + len(todo), most + repairs * len(todo)
            for item in todo:
                one, other = self._priced(self._call(candidate, item.with_))
                usual, worst = usual + one, worst + repairs * other
        return Bill(least, most, usual, worst)

    def _priced(self, call: Call) -> tuple[Decimal, Decimal]:
        behind = self.catalog.model(call.model).deployments
        shape, families = shape_of(call), {one.tokenizer for one in behind}
        longest = max((one.max_output_tokens for one in behind), default=_USUAL)
        out = min(call.max_output_tokens or longest, longest)
        prices = [one.price for one in behind if one.price is not None]
        usual = max((price.of(likely(shape, families), min(out, _USUAL) // 2) for price in prices), default=Decimal(0))
        # A repair also sends the first answer back.
        worst = max((price.of(bound(shape, families) + out, out) for price in prices), default=Decimal(0))
        return usual, worst

    def _rules(self, candidate: Candidate) -> Runner:
        table = rules.table(replace(self.workflow, files=candidate.files), str(candidate.config))

        async def run(with_: Mapping[str, JSON]) -> Outcome:
            return Outcome(rules.decide(table, dict(with_)))

        return run

    def _model(self, candidate: Candidate) -> Runner:
        name, _, version = str(candidate.config).partition("@")
        if version and not version.isdigit():
            raise Invalid(f"the means {candidate.name!r} asks for version {version!r}: versions are numbers")

        async def run(with_: Mapping[str, JSON]) -> Outcome:
            text, used = with_.get("text"), _Used()
            if not isinstance(text, str):
                raise Invalid(f"a classifier needs `text`, a string, and got {type(text).__name__}")

            async def embed(texts: Sequence[str], purpose: Literal["query", "passage"]) -> NDArray[np.float32]:
                inputs = tuple(f"{purpose}: {one}" for one in texts)
                answer = await self.ask(Call(self.principal, self.roles["embedder"], operation="embed", inputs=inputs))
                used.add(answer)
                return np.array(answer.vectors, dtype=np.float32)

            classifier = await self.classifier(name, int(version) if version else None)
            (found,) = await classifier.predict([text], embed)
            output = named(candidate.output, found.label, found.confidence)
            return Outcome(output, used.calls, used.cost_eur, used.wh)

        return run

    def _llm(self, candidate: Candidate) -> Runner:
        async def run(with_: Mapping[str, JSON]) -> Outcome:
            call, used = self._call(candidate, with_), _Used()
            answer = await self.ask(call)
            used.add(answer)
            value, problem = read_answer(answer.text, candidate.output)
            if problem is not None:
                again = (Message("assistant", answer.text), Message("user", _REPAIR.format(problem=problem)))
                answer = await self.ask(replace(call, messages=(*call.messages, *again), id=CallId(new_id("call"))))
                used.add(answer)
                value, problem = read_answer(answer.text, candidate.output)
            if problem is not None:
                return Outcome(None, used.calls, used.cost_eur, used.wh, failed=StepFailed.code)
            return Outcome(value, used.calls, used.cost_eur, used.wh)

        return run

    def _call(self, candidate: Candidate, with_: Mapping[str, JSON]) -> Call:
        config = candidate.config if isinstance(candidate.config, dict) else {}
        role = str(config.get("model"))
        temperature, longest = config.get("temperature"), config.get("max_output_tokens")
        schema = candidate.output
        return Call(
            principal=self.principal,
            model=self.roles.get(role, role),
            messages=prompts.messages(replace(self.workflow, files=candidate.files), config, with_),
            output=None if schema is None else OutputSchema("means", dict(schema)),
            temperature=float(temperature) if isinstance(temperature, int | float) else None,
            max_output_tokens=longest if isinstance(longest, int) else None,
        )


def _code(name: str) -> Runner:
    function = FUNCTIONS.get(name)
    if function is None:
        raise NotFound(f"the means calls the function {name!r}, which is none of {sorted(FUNCTIONS)}")

    async def run(with_: Mapping[str, JSON]) -> Outcome:
        try:
            called = inspect.signature(function).bind(**with_)
        except TypeError as error:
            raise Invalid(f"{name!r} cannot be called with {sorted(with_)}: {error}") from error
        return Outcome(function(*called.args, **called.kwargs))

    return run
