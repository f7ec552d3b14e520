"""One request to the console: who makes it, in which language, and what they sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.requests import Request

from metier.console.language import Words
from metier.console.session import Session
from metier.errors import NotAuthenticated
from metier.workflow.review import Reviewer, TaskId

__all__ = ["Visit"]


@dataclass(frozen=True, slots=True)
class Visit:
    """What an action is given."""

    request: Request
    words: Words
    session: Session
    """The one its forms are bound to; before signing in it names no key."""
    reviewer: Reviewer | None = None
    form: Mapping[str, str] = field(default_factory=dict)
    only: TaskId | None = None
    """The one task somebody may see who came by the link of an e-mail."""

    @property
    def who(self) -> Reviewer:
        """The person in front of the page."""
        if self.reviewer is None:
            raise NotAuthenticated("nobody is signed in: sign in with a key")
        return self.reviewer

    @property
    def task(self) -> TaskId:
        """The task the path names."""
        return TaskId(self.request.path_params["task"])

    @property
    def address(self) -> str:
        """Where the request comes from."""
        return self.request.client.host if self.request.client else ""
