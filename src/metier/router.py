"""Which deployments may take a call, in which order: pure in the call, the model, the health and the time."""

from __future__ import annotations

from dataclasses import dataclass

from metier.calls import Call
from metier.catalog import Deployment, Model
from metier.errors import Invalid, NoDeployment

__all__ = ["Health", "plan"]

_FIRST_REST_S = 1.0
_LONGEST_REST_S = 60.0
_FORGIVEN_S = 120.0


@dataclass(frozen=True, slots=True)
class _Setback:
    failures: int
    since: float
    until: float


class Health:
    """What this worker has seen of each deployment: who rests after failures, and until when."""

    def __init__(self) -> None:
        self._setbacks: dict[str, _Setback] = {}

    def failed(self, deployment: Deployment, now: float, wait_s: float | None = None) -> None:
        """Let the deployment rest, twice as long at each failure in a row, or as long as it asked."""
        before = self._setbacks.get(deployment.id)
        # A failure long ago says nothing about today.
        failures = 1 if before is None or now - before.since > _FORGIVEN_S else before.failures + 1
        rest = min(_FIRST_REST_S * 2 ** min(failures - 1, 16), _LONGEST_REST_S)
        self._setbacks[deployment.id] = _Setback(failures, now, now + (rest if wait_s is None else wait_s))

    def answered(self, deployment: Deployment) -> None:
        """Forget the failures of a deployment that answers again."""
        if self._setbacks:
            self._setbacks.pop(deployment.id, None)

    def rests_until(self, deployment: Deployment, now: float) -> float:
        """Tell when the deployment's rest ends; 0.0 when it does not rest."""
        setback = self._setbacks.get(deployment.id)
        return setback.until if setback is not None and setback.until > now else 0.0


def plan(call: Call, model: Model, health: Health, now: float) -> tuple[Deployment, ...]:
    """Order the deployments for this call: the declared order, those at rest last, soonest awake first."""
    if model.operation != call.operation:
        raise Invalid(
            f"model {model.name!r} does {model.operation!r}, not {call.operation!r}: choose another from /v1/models",
            param="model",
        )
    if not model.deployments:
        raise NoDeployment(f"model {model.name!r} has no deployment: declare one in metier.yaml", param="model")
    if len(model.deployments) == 1:
        return model.deployments
    # Resting ones stay in the plan: a call that may still pass is better than a refusal of our own making.
    return tuple(sorted(model.deployments, key=lambda deployment: health.rests_until(deployment, now)))
