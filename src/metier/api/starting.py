"""The room of triggers as surfaces and workers see it, and the paths by which runs are started from outside."""

from __future__ import annotations

from typing import Final, Protocol

from starlette.routing import BaseRoute, Route

from metier.api.flows import FlowRun, FlowRuns
from metier.api.forms import Forms
from metier.api.hooks import Hook
from metier.api.surface import Surface
from metier.connectors.secrets import Secrets
from metier.policy.keys import Keys
from metier.settings import Settings
from metier.store import Store
from metier.triggers import Gate, Released, Triggers
from metier.vault import Vault
from metier.workflow.engine import Engine
from metier.workflow.releases import Releases

__all__ = ["Platform", "starts", "triggers"]

_HOOKS: Final = (600, 100)
"""Requests a minute and at once for each webhook, in each process."""
_FORMS: Final = (120, 30)
"""The same for each form."""


class Platform(Protocol):
    """What starting runs needs of the platform."""

    @property
    def settings(self) -> Settings:
        """Where trusted authorities stand."""
        ...

    @property
    def store(self) -> Store:
        """Where what is deployed is kept."""
        ...

    @property
    def vault(self) -> Vault:
        """Seals events that became no run."""
        ...

    @property
    def keys(self) -> Keys:
        """Who is calling."""
        ...

    @property
    def engine(self) -> Engine:
        """Starts runs."""
        ...

    @property
    def releases(self) -> Releases:
        """Which version of a flow they are started with."""
        ...


def triggers(app: Platform) -> Triggers:
    """Make the room of triggers on a platform; it holds nothing that must be closed."""
    secrets = Secrets.built(app.store, app.vault)
    starter = Released(app.engine, app.releases)
    return Triggers.built(app.store, app.vault, starter, app.keys.principal, secrets, ca_file=app.settings.ca_file)


def starts(app: Platform) -> list[BaseRoute]:
    """List the paths by which programs, people and other platforms start runs."""
    room, keys = triggers(app), Surface(app.keys, "flows")
    return [
        Route("/v1/flows/{flow}/runs", FlowRuns(room, keys), methods=["POST"]),
        Route("/v1/flows/{flow}/runs/{run}", FlowRun(room, app.engine, keys), methods=["GET"]),
        Route("/hooks/{trigger}", Hook(room, Gate(*_HOOKS)), methods=["POST"]),
        Route("/forms/{trigger}/{token}", Forms(room, Gate(*_FORMS)), methods=["GET", "POST"]),
    ]
