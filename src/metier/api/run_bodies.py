"""What is sent to the paths of runs: one shape for each, checked before anything is done."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from metier.api.parsing import fit, load, refuse_unknown
from metier.api.transfer import Asking
from metier.errors import Invalid
from metier.workflow.looking import Chosen
from metier.workflow.port import RunStatus

__all__ = ["ForkBody", "ManyBody", "MoveBody", "PlanBody", "RetryBody", "read", "statuses"]

_Body = TypeVar("_Body", bound=BaseModel)
_Name = Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f]*$")]
_Models = Annotated[dict[str, str], Field(max_length=50)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MoveBody(_Shape):
    """Asks for a pause, its end, a resumption or a cancellation."""

    dry_run: bool = False


class RetryBody(_Shape):
    """Asks for a run to be done again from a step."""

    step: _Name
    dry_run: bool = False


class ForkBody(_Shape):
    """Asks for another run that goes on from one."""

    release: _Name | None = None
    models: _Models = Field(default_factory=dict)
    afresh: bool = False
    once: _Name | None = None
    window: _Name | None = None
    dry_run: bool = False


class ManyBody(_Shape):
    """Asks for many runs to be done again, chosen by what is known of them."""

    how: Literal["resume", "retry", "fork", "afresh"]
    flow: _Name | None = None
    status: list[RunStatus] = Field(default_factory=list)
    code: _Name | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    limit: Annotated[int, Field(ge=1, le=1_000)] = 100
    step: _Name | None = None
    release: _Name | None = None
    models: _Models = Field(default_factory=dict)
    label: _Name | None = None
    window: _Name | None = None
    at_most_eur: Annotated[float, Field(ge=0)] | None = None
    dry_run: bool = False

    def chosen(self, project: str) -> Chosen:
        """Which runs of a project are meant."""
        return Chosen(self.flow, project, tuple(self.status), self.code, self.since, self.until, limit=self.limit)


class PlanBody(_Shape):
    """Asks what runs of a released flow may take."""

    flow: _Name
    inputs: dict[str, Any] | None = None
    runs: Annotated[int, Field(ge=1, le=1_000_000)] = 1


async def read(exchange: Asking, shape: type[_Body]) -> _Body | None:
    """Read the body of a request, which may be left out where nothing in it must be said; None was answered 413."""
    data = await exchange.body()
    if data is None:
        return None
    raw = load(data or b"{}")
    refuse_unknown(raw, shape.model_fields, (), {})
    for name in ("since", "until"):
        if name in raw and not isinstance(raw[name], str | None):
            raise Invalid(f"{name} is no text: write a time like 2026-08-03T08:00:00+02:00", param=name)
    return fit(shape, raw)


def statuses(written: str | None) -> tuple[RunStatus, ...]:
    """Read the statuses of a query, with commas between them."""
    found = []
    for name in (written or "").split(",") if written else ():
        if name not in get_args(RunStatus):
            raise Invalid(f"status is {name[:40]!r}: say some of {', '.join(get_args(RunStatus))}", param="status")
        found.append(name)
    return tuple(found)  # type: ignore[arg-type]  # checked one by one
