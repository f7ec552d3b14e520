"""Who stands in front of tasks: a name, groups, an organisation, and what tells them from another of that name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from metier.calls import Principal

__all__ = ["Claimed", "Reviewer", "known_as"]

_LINK = "link_"


class Claimed(Protocol):
    """Something a person may have taken in hand."""

    @property
    def claimed_by(self) -> str | None:
        """The name of who has it."""
        ...

    @property
    def claimed_id(self) -> str | None:
        """The id of who has it."""
        ...


@dataclass(frozen=True, slots=True)
class Reviewer:
    """A person in front of tasks."""

    name: str
    groups: frozenset[str] = frozenset()
    id: str | None = None
    """What tells them from another of the same name: the public part of their key, or `local` on the command line."""
    organisation: str | None = None
    """Whose tasks they see at all, whatever groups are called elsewhere; None on the command line."""
    everywhere: bool = False
    """Whether every task is theirs: the operator of the machine, on the command line."""
    stands_for: frozenset[str] = frozenset()
    """Names of absent people whose tasks are theirs meanwhile."""

    @classmethod
    def behind(cls, principal: Principal) -> Reviewer:
        """Give the person who comes with a key."""
        return cls(principal.name, principal.groups, principal.key_id, principal.organisation)

    @property
    def known_as(self) -> str:
        """Their name as records keep it, with what tells them from another of that name."""
        return known_as(self.name, self.id)

    def assignees(self) -> list[str]:
        """Every assignee under which a task is theirs."""
        others = (f"user:{name}" for name in sorted(self.stands_for))
        return [f"user:{self.name}", *(f"group:{group}" for group in sorted(self.groups)), *others]

    def may(self, assignee: str) -> bool:
        """Say whether a task of this assignee is theirs."""
        return self.everywhere or assignee in self.assignees()

    def has(self, task: Claimed) -> bool:
        """Say whether they are the one who claimed a task."""
        return self.claimed(task.claimed_by, task.claimed_id)

    def claimed(self, name: str | None, id: str | None) -> bool:
        """Say the same of a name and an id; by a link of an e-mail somebody comes as who they are on the page."""
        return name == self.name and (id in (None, self.id) or self.linked or str(id).startswith(_LINK))

    @property
    def linked(self) -> bool:
        """Whether they come by the link of an e-mail, which was made for their name."""
        return (self.id or "").startswith(_LINK)


def known_as(name: str, id: str | None) -> str:
    """Write who somebody is: names are not unique, ids are."""
    return name if id is None else f"{name} ({id})"
