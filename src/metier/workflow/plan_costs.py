"""What one try of each kind of step may take: prompts counted, prices and windows of the models there are now."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from metier.calls import JSON, Impact, Usage
from metier.catalog import Catalog
from metier.deferred import deferred
from metier.deployment import Deployment
from metier.errors import MetierError, NotFound
from metier.tokens import Shape, features, likely
from metier.workflow.bundle import calls_of
from metier.workflow.expressions import Expressions
from metier.workflow.plan import Attempt
from metier.workflow.plan_amount import NOTHING, Amount
from metier.workflow.quantities import seconds
from metier.workflow.shape import Step, Workflow

if TYPE_CHECKING:
    from metier.workflow import prompts
else:
    prompts = deferred("metier.workflow.prompts")

__all__ = ["Footprint", "ModelCosts"]

Footprint = Callable[[Deployment, Usage, float], Impact]
"""Estimates energy and carbon of so many tokens in so many seconds."""

_TAG = re.compile(r"\{[{%#].*?[}%#]\}", re.DOTALL)
_BLOCKS = re.compile(r"\{%-?\s*(?:if|for)\b.*\{%-?\s*end(?:if|for)\s*-?%\}", re.DOTALL)
_UNKNOWN_VALUE = 400
"""Characters taken for a value nobody knows before the run."""
_USUAL_OUTPUT = 1_024
_TOKENS_PER_S, _BEFORE_FIRST_S = 20.0, 2.0
_FRAME = 16
_TURNS = 8
_SEARCHES = 6
_MEASURES = frozenset({"calls", "input_tokens", "output_tokens", "eur", "wh", "carbon_g"})


@dataclass(frozen=True, slots=True)
class ModelCosts:
    """Gives what one try of a step takes; made once per plan, for the inputs at hand."""

    catalog: Catalog
    roles: Mapping[str, str]
    footprint: Footprint | None = None
    inputs: Mapping[str, JSON] | None = None
    """Inputs of the run, where they are known already."""
    _expressions: Expressions = field(default_factory=Expressions)

    def __call__(self, workflow: Workflow, step: Step) -> Attempt:
        """Bound one try of a step."""
        match step.kind:
            case "llm":
                return self._llm(workflow, step)
            case "agent":
                return self._agent(workflow, step)
            case "human":
                return Attempt(Amount(tasks=1), Amount(tasks=1), Amount(tasks=1), "a person decides")
            case "wait":
                return _waiting(step)
            case "retrieve":
                return self._embedding(step, _SEARCHES, whole="questions" not in step.with_)
            case "model":
                return self._embedding(step, 1)
            case "tool" | "code" | "rules" | "emit":
                one = Amount(tries=1, seconds=step.timeout_s or 0.0, unknown=_untimed(step))
                return Attempt(Amount(tries=1), Amount(tries=1), one)
        return Attempt(NOTHING, NOTHING, NOTHING)

    def _llm(self, workflow: Workflow, step: Step) -> Attempt:
        config = step.config if isinstance(step.config, dict) else {}
        behind = self._behind(str(config.get("model")))
        texts = _texts(workflow, config)
        schema = "" if step.output is None else str(dict(step.output))
        families = {deployment.tokenizer for deployment in behind}
        fixed = min((_count([_BLOCKS.sub("", one)], families) for one in texts), default=1)
        prompt = max((_count([one, schema, *self._values(step)], families) for one in texts), default=1)
        asked = config.get("max_output_tokens")
        longest = max((one.max_output_tokens for one in behind), default=_USUAL_OUTPUT)
        most_out = min(asked, longest) if isinstance(asked, int) else longest
        window = max((one.context_tokens for one in behind), default=prompt)
        repairs = 2 if step.output is not None else 1
        told = f"prompt {prompt} tokens, answer at most {most_out}; window {window}, {repairs} calls with a repair"
        return Attempt(
            least=self._asked(step, behind, fixed, 1, best=True),
            expected=self._asked(step, behind, min(prompt + _FRAME, window), min(most_out, _USUAL_OUTPUT) // 2),
            most=self._worst(step, behind, (window, most_out), repairs),
            source=told,
        )

    def _agent(self, workflow: Workflow, step: Step) -> Attempt:
        config = step.config if isinstance(step.config, dict) else {}
        behind = self._behind(str(config.get("model")))
        turns = config.get("max_turns")
        most_turns = turns if isinstance(turns, int) else _TURNS
        for other in _handoffs(config):
            behind = (*behind, *self._behind(str(other.get("model") or config.get("model"))))
        longest = max((one.max_output_tokens for one in behind), default=_USUAL_OUTPUT)
        window = max((one.context_tokens for one in behind), default=0)
        file = str(config.get("instructions"))
        families = {deployment.tokenizer for deployment in behind}
        prompt = _count([workflow.files.get(file, ""), *self._values(step)], families) + _FRAME
        turn = self._asked(step, behind, min(prompt, window), min(longest, _USUAL_OUTPUT) // 2)
        usual = turn.times(max(1.0, most_turns / 2))
        repairs = 1 if step.output is not None else 0
        most = self._worst(step, behind, (window, longest), most_turns + repairs)
        told = f"instructions {prompt} tokens; at most {most_turns} turns of {window} + {longest} tokens"
        if any(path.startswith("agent") for path, _ in calls_of(step, released=True)):
            # How often it calls them is its choice: only the budget bounds what they take.
            most += Amount(unknown=_MEASURES | {"seconds"})
            told = f"{told}, and whatever the workflows it calls take"
        return Attempt(
            least=self._asked(step, behind, 1, 1, best=True),
            expected=replace(usual, tries=1.0),
            most=most,
            source=told,
        )

    def _embedding(self, step: Step, most: int, *, whole: bool = True) -> Attempt:
        """Embeddings are calls too; without an embedder there are none, and what it compares may be many."""
        name = self.roles.get("embedder", "embedder")
        timed = Amount(tries=1, seconds=step.timeout_s or 0.0, unknown=_untimed(step))
        if name not in self.catalog.names():
            return Attempt(Amount(tries=1), Amount(tries=1), timed, "no embedding model: nothing is asked")
        behind = self._behind(name)
        window = max((one.context_tokens for one in behind), default=0)
        calls = self._calls(behind, window, 0, 0.0).times(most)
        worst = replace(calls, tries=1.0, unknown=calls.unknown | timed.unknown).lasting(timed.seconds)
        if not whole:
            worst += Amount(unknown=_MEASURES)
        usual = self._calls(behind, 64, 0, 0.0)
        expected = replace(usual, tries=1.0)
        return Attempt(Amount(tries=1), expected, worst, f"at most {most} texts are embedded by {name!r}")

    def _asked(
        self, step: Step, behind: tuple[Deployment, ...], tokens_in: int, out: int, *, best: bool = False
    ) -> Amount:
        lasting = _BEFORE_FIRST_S + out / _TOKENS_PER_S
        one = self._calls(behind, max(1, tokens_in), max(1, out), lasting, best=best)
        return replace(one, tries=1.0).lasting(0.0 if best else lasting)

    def _worst(self, step: Step, behind: tuple[Deployment, ...], size: tuple[int, int], calls: int) -> Amount:
        tokens_in, out = size
        longest = max((one.timeout_s for one in behind), default=0.0)
        lasting = min(longest, step.timeout_s) if step.timeout_s else longest
        one = self._calls(behind, tokens_in, out, lasting).times(calls)
        found = replace(one, tries=1.0, unknown=one.unknown | _untimed(step))
        return found.lasting(step.timeout_s or longest * calls)

    def _calls(
        self, behind: tuple[Deployment, ...], tokens_in: int, out: int, lasting: float, *, best: bool = False
    ) -> Amount:
        """One call on the dearest of the deployments that may answer it, or on the cheapest of them."""
        found: Amount | None = None
        for one in behind:
            known = self._call(one, tokens_in, out, lasting, best=best)
            found = known if found is None else found.least(known) if best else found.most(known)
        return found or Amount(calls=1, unknown=_MEASURES - {"calls"})

    def _call(self, one: Deployment, tokens_in: int, out: int, lasting: float, *, best: bool) -> Amount:
        unknown: set[str] = set()
        eur, wh, carbon = 0.0, 0.0, 0.0
        if one.price is not None:
            dearest = one.price.cached_eur if best else max(one.price.input_eur, one.price.cache_write_eur or 0)
            eur = (float(dearest) * tokens_in + float(one.price.output_eur) * out) / 1e6
        else:
            unknown.add("eur")
        impact = self.footprint(one, Usage(tokens_in, out), lasting) if self.footprint else None
        for name, bounds, scale in (
            ("wh", None if impact is None else impact.energy_kwh, 1000.0),
            ("carbon_g", None if impact is None else impact.carbon_g, 1.0),
        ):
            if bounds is None:
                unknown.add(name)
                continue
            value = (bounds.low if best else bounds.high) * scale
            wh, carbon = (value, carbon) if name == "wh" else (wh, value)
        return Amount(0.0, 1.0, tokens_in, out, eur, wh, carbon, unknown=frozenset(unknown))

    def _behind(self, role: str) -> tuple[Deployment, ...]:
        """Every deployment that may answer: of the model, of those it splits to, chooses and falls back on."""
        todo, known, found = [self.roles.get(role, role)], set[str](), list[Deployment]()
        while todo:
            name = todo.pop()
            if name in known:
                continue
            known.add(name)
            try:
                model = self.catalog.model(name)
            except NotFound:
                continue
            found += model.deployments
            todo += [*model.fallbacks, *(share.use for share in model.split)]
        return tuple(found)

    def _values(self, step: Step) -> list[str]:
        """What fills the prompt, as far as the inputs tell; a usual length stands for the rest."""
        scope: dict[str, JSON] = {"inputs": dict(self.inputs or {}), "steps": {}, "run": {}, "loop": None}
        found = []
        for template in step.with_.values():
            try:
                found.append(str(self._expressions.render(template, scope)))
            except MetierError:
                found.append("mots " * (_UNKNOWN_VALUE // 5))
        return found


def _count(texts: list[str], families: set[str]) -> int:
    counts, size = features([_TAG.sub("", text) for text in texts if text])
    return max(1, likely(Shape(counts, size), families or {"other"}))


def _texts(workflow: Workflow, config: Mapping[str, JSON]) -> list[str]:
    """The prompt in every language it has, with its system part and its examples."""
    named = [str(config[key]) for key in ("system",) if isinstance(config.get(key), str)]
    examples = config.get("examples")
    beside = [str(one) for one in examples] if isinstance(examples, list) else []
    beside += [workflow.files.get(one, "") for one in named]
    try:
        chosen = {prompts.choose(workflow.files, str(config.get("prompt")), code) for code in (None, "fr", "en")}
    except MetierError:
        return ["\n".join(beside)]
    return ["\n".join([workflow.files[one], *beside]) for one in sorted(chosen)]


def _handoffs(config: Mapping[str, JSON]) -> list[Mapping[str, JSON]]:
    others = config.get("handoffs")
    inner = others.values() if isinstance(others, dict) else others if isinstance(others, list) else []
    return [one for one in inner if isinstance(one, dict)]


def _untimed(step: Step) -> frozenset[str]:
    return frozenset() if step.timeout_s else frozenset({"seconds"})


def _waiting(step: Step) -> Attempt:
    config = step.config if isinstance(step.config, dict) else {}
    written = config.get("for")
    try:
        known = float(written) if isinstance(written, int | float) else seconds(written)
    except MetierError:
        most = Amount(seconds=step.timeout_s or 0.0, unknown=_untimed(step))
        return Attempt(NOTHING, most, most, "waits for an event or a time")
    one = Amount(seconds=known)
    return Attempt(one, one, one, "waits a given time")
