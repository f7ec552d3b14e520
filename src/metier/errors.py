"""Every exception Métier raises, arranged by whose fault it is.

MetierError(code, status)
├── Refused               the platform said no, by a rule you can read
│   ├── NotAuthenticated  401
│   ├── NotAllowed        403
│   ├── SystemNotApproved 403
│   ├── RateLimited       429
│   ├── BudgetExceeded    429  (with x-should-retry: false)
│   └── GuardrailBlocked  400
├── Mistaken              the caller can fix it
│   ├── NotFound          404
│   ├── Conflict          409
│   ├── Invalid           422
│   └── ConfigError       (start-up)
├── Unavailable           somebody else's fault, may pass
│   ├── ProviderUnavailable 503
│   ├── ProviderTimeout     504
│   └── NoDeployment        503
└── Broken                ours
    ├── StepFailed
    ├── NonDeterministicReplay
    └── LedgerBroken      500
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "Broken",
    "BudgetExceeded",
    "ConfigError",
    "Conflict",
    "GuardrailBlocked",
    "Invalid",
    "LedgerBroken",
    "MetierError",
    "Mistaken",
    "NoDeployment",
    "NonDeterministicReplay",
    "NotAllowed",
    "NotAuthenticated",
    "NotFound",
    "ProviderTimeout",
    "ProviderUnavailable",
    "RateLimited",
    "Refused",
    "StepFailed",
    "SystemNotApproved",
    "Unavailable",
]


class MetierError(Exception):
    """Anything Métier raises on purpose, with a stable code and the HTTP status a surface answers."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        """The argument of the request that is at fault, where one is."""


class Refused(MetierError):
    """The platform said no, by a rule the caller can read."""

    code = "refused"
    status = 403


class NotAuthenticated(Refused):
    """No key, or a key that does not exist, was revoked or has expired."""

    code = "not_authenticated"
    status = 401


class NotAllowed(Refused):
    """The key is good, but this model, resource or action is not among its rights."""

    code = "not_allowed"


class SystemNotApproved(Refused):
    """The registered system behind the key is not in a state that admits calls."""

    code = "system_not_approved"


class RateLimited(Refused):
    """Too many requests or tokens for now; waiting helps."""

    code = "rate_limited"
    status = 429


class BudgetExceeded(Refused):
    """The money of the project for this period is spent or held; retrying does not help."""

    code = "budget_exceeded"
    status = 429


class GuardrailBlocked(Refused):
    """A guardrail refused the input or the output."""

    code = "guardrail_blocked"
    status = 400


class Mistaken(MetierError):
    """The request is wrong in a way its sender can mend."""

    code = "mistaken"
    status = 400


class NotFound(Mistaken):
    """The thing named does not exist, or the caller may not know that it does."""

    code = "not_found"
    status = 404


class Conflict(Mistaken):
    """The thing changed in the meantime, or already exists."""

    code = "conflict"
    status = 409


class Invalid(Mistaken):
    """A value does not fit what is expected of it."""

    code = "invalid"
    status = 422


class ConfigError(Mistaken):
    """The environment or metier.yaml does not describe a platform that can start."""

    code = "config_error"
    status = 500


class Unavailable(MetierError):
    """Something outside did not answer; the same request may pass later."""

    code = "unavailable"
    status = 503


class ProviderUnavailable(Unavailable):
    """The provider refused, broke off or could not be reached."""

    code = "provider_unavailable"


class ProviderTimeout(Unavailable):
    """The provider did not answer in the time given."""

    code = "provider_timeout"
    status = 504


class NoDeployment(Unavailable):
    """No deployment behind the model may or can take this call now."""

    code = "no_deployment"


class Broken(MetierError):
    """A promise of Métier itself does not hold; somebody has to look."""

    code = "broken"


class StepFailed(Broken):
    """A step of a workflow failed for good, after its retries."""

    code = "step_failed"


class NonDeterministicReplay(Broken):
    """A journal does not fit the definition its run is pinned to."""

    code = "non_deterministic_replay"


class LedgerBroken(Broken):
    """A call cannot be recorded, so no call is made."""

    code = "ledger_broken"
