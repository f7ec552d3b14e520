"""Who acts on the command line of reviews: the operator of the machine, or somebody in whose name they act."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass

import click

from metier.workflow.review import Reviewer

__all__ = ["Operator", "as_person", "in_groups", "operator", "reviewer"]

as_person = click.option(
    "--as", "name", default=None, help="Act in the name of this person, who then only has what is theirs."
)
in_groups = click.option("--group", "groups", multiple=True, help="Only what this group has; may be given again.")


@dataclass(frozen=True, slots=True)
class Operator:
    """Whoever runs commands on this machine, as one who asks for runs."""

    name: str
    key_id: str
    """What a decision keeps of them, too, when they act in the name of somebody else."""


def operator() -> Operator:
    """Who asks for runs on the command line: they decide none of them, in nobody's name."""
    account = _account()
    return Operator(account, _acting(account))


def reviewer(name: str | None, groups: tuple[str, ...]) -> Reviewer:
    """Who acts: a person named with --as, a member of the groups given, or the operator, to whom everything is open."""
    account = _account()
    return Reviewer(
        name or account,
        frozenset(groups),
        id="local" if name in (None, account) else _acting(account),
        everywhere=name is None and not groups,
    )


def _acting(account: str) -> str:
    return f"local, by {account}"


def _account() -> str:
    """The account this process runs under, which variables of the environment cannot pretend to be another."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid-{os.geteuid()}"
