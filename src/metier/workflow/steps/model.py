"""`model:` steps: a trained classifier answers, and no token is spent."""

from __future__ import annotations

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.engine import StepContext
from metier.workflow.steps.handed import Predict

__all__ = ["ModelSteps"]


class ModelSteps:
    """Runs `model:` steps: `name@version` on `with.text`, giving `category`, `confidence`, `probabilities`."""

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
        value: dict[str, JSON] = {"category": label, "confidence": confidence}
        declared = (context.step.output or {}).get("properties")
        if isinstance(declared, dict) and "probabilities" in declared:
            value["probabilities"] = dict(shares)
        return value
