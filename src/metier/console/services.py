"""What the console needs of the platform."""

from __future__ import annotations

from typing import Protocol

from metier.connectors.deliveries import Deliveries
from metier.policy.keys import Keys
from metier.record.ledger import Ledger
from metier.settings import Settings
from metier.vault import Vault
from metier.workflow.engine import Engine
from metier.workflow.operations import Operations
from metier.workflow.review import Review

__all__ = ["ConsoleServices"]


class ConsoleServices(Protocol):
    """The parts of the platform that the pages read and write."""

    @property
    def settings(self) -> Settings:
        """The language of people who ask for none."""
        ...

    @property
    def vault(self) -> Vault:
        """Signs sessions and forms."""
        ...

    @property
    def keys(self) -> Keys:
        """Who signs in, and whether they still may."""
        ...

    @property
    def review(self) -> Review:
        """The tasks."""
        ...

    @property
    def deliveries(self) -> Deliveries:
        """The e-mails of which nobody knows whether they left."""
        ...

    @property
    def engine(self) -> Engine:
        """The runs."""
        ...

    @property
    def operations(self) -> Operations:
        """What is done to them."""
        ...

    @property
    def ledger(self) -> Ledger:
        """What the calls behind a draft have cost."""
        ...
