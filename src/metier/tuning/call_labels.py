"""Labels of calls for rules that choose a model: what trained classifiers of terms say, without a call or a wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import psycopg

from metier.calls import Call
from metier.catalog import Catalog
from metier.deployment import Condition
from metier.errors import ConfigError, MetierError
from metier.router import Label
from metier.tuning.classifier import Classifier, Classifiers

__all__ = ["CallLabels"]

_READ = 1_000
"""Characters read of a message: what somebody wants stands at the start, and the event loop waits meanwhile."""
_log = logging.getLogger(__name__)


class CallLabels:
    """Keeps the classifiers that the rules in force name, read once; says nothing while one of them is missing."""

    def __init__(self, classifiers: Classifiers) -> None:
        self._classifiers = classifiers
        self._kept: Mapping[str, Classifier] = {}
        self._wanted: Mapping[str, frozenset[str]] = {}
        self._told: frozenset[str] = frozenset()

    def __call__(self, classifier: str, call: Call) -> Label | None:
        """Classify the start of the last message of the user; None where the classifier could not be read."""
        kept, text = self._kept.get(classifier), _asked(call)
        if kept is None or not text:
            return None
        found = kept.classify(text)
        return Label(found.label, found.confidence)

    async def use(self, catalog: Catalog) -> None:
        """Read the classifiers that the rules of a catalogue name, before it is put in force."""
        wanted: dict[str, frozenset[str]] = {}
        for when in (rule.when for model in catalog.models() for rule in model.rules):
            if when.classifier is not None:
                wanted[when.classifier] = wanted.get(when.classifier, frozenset()) | _labels(when)
        self._wanted, self._told = wanted, frozenset()
        await self.refresh()

    async def refresh(self) -> None:
        """Try again to read what is missing; what rules before named is kept for calls that still follow them."""
        kept = dict(self._kept)
        told: dict[str, str] = {}
        for name in self._wanted.keys() - kept.keys():
            try:
                kept[name] = await self._read(name)
            except (MetierError, psycopg.Error) as error:
                told[name] = str(error)
        for name in sorted(told.keys() - self._told):
            _log.warning("rules that ask the classifier %s do not apply, other rules decide: %s", name, told[name])
        for name in sorted(kept.keys() - self._kept.keys()):
            unknown = ", ".join(sorted(self._wanted[name] - {*kept[name].labels}))
            if unknown:
                _log.warning("rules wait for %s from the classifier %s, whose labels are %s", unknown, name,
                             ", ".join(kept[name].labels))  # fmt: skip
        self._kept, self._told = kept, frozenset(told)

    async def run(self, every_s: float = 5.0) -> None:
        """Look for ever whether what is missing has been trained meanwhile."""
        while True:
            await asyncio.sleep(every_s)
            self._kept = {name: found for name, found in self._kept.items() if name in self._wanted}
            if self._wanted.keys() - self._kept.keys():
                await self.refresh()

    async def _read(self, name: str) -> Classifier:
        plain, _, version = name.rpartition("@")
        found = await self._classifiers.get(plain, int(version))
        if found.features != "tfidf":
            raise ConfigError(
                f"{name} looks at embeddings, and no call waits for another: train it with `--features tfidf`"
            )
        return found


def _labels(when: Condition) -> frozenset[str]:
    return when.labels or frozenset()


def _asked(call: Call) -> str:
    """The start of what the user says last; of a call without messages, its question or first text."""
    for message in reversed(call.messages):
        if message.role == "user":
            return (message.text if message.parts else message.content)[:_READ]
    return (call.query or "".join(call.inputs[:1]))[:_READ]
