"""`model:` steps: a trained classifier answers, and no token is spent."""

from __future__ import annotations

from collections.abc import Mapping

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.engine import StepContext
from metier.workflow.steps.handed import Predict

__all__ = ["ModelSteps", "named"]


def named(schema: Mapping[str, JSON] | None, label: str, confidence: float) -> dict[str, JSON]:
    """Give a label and its confidence under the names an output declares, else `category` and `confidence`."""
    declared = (schema or {}).get("properties")
    if not isinstance(declared, dict) or not declared:
        return {"category": label, "confidence": confidence}
    kinds = {name: one if isinstance(one, dict) else {} for name, one in declared.items()}
    enums = [name for name, one in kinds.items() if "enum" in one]
    words = enums or [name for name, one in kinds.items() if one.get("type") == "string"]
    numbers = [name for name, one in kinds.items() if one.get("type") == "number"]
    value: dict[str, JSON] = {words[0] if "category" not in kinds and len(words) == 1 else "category": label}
    if "confidence" in kinds:
        value["confidence"] = confidence
    elif len(numbers) == 1:
        value[numbers[0]] = confidence
    return value


class ModelSteps:
    """Runs `model:` steps: `name@version` on `with.text`, giving a label, its confidence, and `probabilities`."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict

    async def __call__(self, context: StepContext, with_: dict[str, JSON]) -> JSON:
        """Classify the text given to the step."""
        name, _, version = str(context.step.config).partition("@")
        if version and not version.isdigit():
            raise Invalid(f"step {context.path!r} asks for version {version!r} of {name!r}: versions are numbers")
        text = with_.get("text")
        if not isinstance(text, str):
            raise Invalid(f"step {context.path!r} classifies `with.text`, a string, and got {type(text).__name__}")
        label, confidence, shares = await self._predict(context, name, int(version) if version else None, text)
        value = named(context.step.output, label, confidence)
        declared = (context.step.output or {}).get("properties")
        if isinstance(declared, dict) and "probabilities" in declared:
            value["probabilities"] = dict(shares)
        return value
