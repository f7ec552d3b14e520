"""Which model answers a call that leaves it open: rules on the call, canaries, comparisons and shadows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

from metier.calls import Call, Media
from metier.deployment import SENSITIVITIES, Condition, Model, Sensitivity, Share
from metier.errors import NoDeployment
from metier.router.ring import point

__all__ = ["Chooser", "Label", "Route", "arm", "language_of", "shadows", "size_of"]

_BYTES_PER_TOKEN = 4
_LOOKED_AT = 2_000
_FEWEST_WORDS = 2
_COMMON: Final = {
    "fr": "le la les des une est dans pour que qui avec sur pas vous nous votre je bonjour merci et du au ce plus",
    "en": "the and is are of to in for that this with you your not have please hello thanks what how be on it",
    "de": "der die das und ist nicht ich sie wir mit für auf ein eine den von zu bitte danke haben wie",
    "es": "el los las una por para que con está usted gracias hola cómo del se su pero más muy y",
    "it": "il gli una per che con non sono è grazie ciao come della del nel anche più questo di",
    "pt": "os uma por para que com não você obrigado olá como do da em mais muito também é",
    "nl": "het een van en is niet voor met dat ik je wij dank hoe zijn op aan ook maar",
}
_WORDS: Final = {language: frozenset(common.split()) for language, common in _COMMON.items()}


@dataclass(frozen=True, slots=True)
class Label:
    """What a classifier makes of a call."""

    label: str
    confidence: float
    """0 to 1."""


@dataclass(frozen=True, slots=True)
class Route:
    """Which model was chosen for a call that left it open, and what a classifier said, where one was asked."""

    model: str
    label: Label | None = None

    def __str__(self) -> str:
        """Give it in the words of records and headers: `small; label=easy; confidence=0.93`."""
        said = self.label
        return self.model if said is None else f"{self.model}; label={said.label}; confidence={said.confidence:.2f}"


class Chooser:
    """Follows the rules of models to the model that answers, and asks trained classifiers where rules name them."""

    def __init__(
        self,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        label: Callable[[str, Call], Label | None] = lambda _, __: None,
    ) -> None:
        self._clock = clock
        self.label = label
        """What a classifier, by its name and version, makes of a call; None while it cannot tell."""

    def choose(
        self, call: Call, model: Model, find: Callable[[str], Model], sensitivity: Sensitivity | None = None
    ) -> tuple[Model, Route]:
        """Give the model the first fitting rule names, followed until a model with deployments, and why."""
        said: dict[str, Label | None] = {}
        while model.rules:
            use = next((rule.use for rule in model.rules if self._fits(call, rule.when, sensitivity, said)), None)
            if use is None:
                raise NoDeployment(
                    f"no rule of model {model.name!r} fits this call: add one without `when` at the end of its rules",
                    param="model",
                )
            model = find(use)
        return model, Route(model.name, next((label for label in said.values() if label is not None), None))

    def _fits(
        self, call: Call, when: Condition, sensitivity: Sensitivity | None, said: dict[str, Label | None]
    ) -> bool:
        """A condition holds when everything it asks is so; the dear questions come last."""
        if when.has_tools is not None and when.has_tools != bool(call.tools):
            return False
        if when.structured is not None and when.structured != (call.output is not None):
            return False
        if when.has_media is not None and when.has_media != _has_media(call):
            return False
        if when.efforts is not None and call.effort not in when.efforts:
            return False
        if when.groups is not None and not when.groups & call.principal.groups:
            return False
        if when.sensitivity is not None and not _at_least(sensitivity, when.sensitivity):
            return False
        return self._on_time(when) and _sized(call, when) and self._worded(call, when, said)

    def _on_time(self, when: Condition) -> bool:
        if when.after is None and when.before is None and when.weekdays is None:
            return True
        moment = self._clock().astimezone(ZoneInfo(when.zone))
        if when.weekdays is not None and moment.weekday() not in when.weekdays:
            return False
        at = moment.time()
        late = when.after is None or at >= when.after
        early = when.before is None or at < when.before
        if when.after is not None and when.before is not None and when.after > when.before:
            return late or early
        return late and early

    def _worded(self, call: Call, when: Condition, said: dict[str, Label | None]) -> bool:
        if when.languages is not None and language_of(call) not in when.languages:
            return False
        if when.labels is None or when.classifier is None:
            return when.labels is None
        if when.classifier not in said:
            said[when.classifier] = self.label(when.classifier, call)
        found = said[when.classifier]
        return found is not None and found.label in when.labels and found.confidence >= when.least_confidence


def arm(call: Call, model: Model) -> str | None:
    """Tell which model of a split answers, always the same for a conversation or end user; None is the model itself."""
    return _drawn(call, model.split, f"split/{model.name}") if model.split else None


def shadows(call: Call, model: Model) -> tuple[str, ...]:
    """Tell to which models this call is to be copied."""
    return tuple(
        share.use for share in model.shadow if _drawn(call, (share,), f"shadow/{model.name}/{share.use}") is not None
    )


def size_of(call: Call) -> int:
    """Estimate the tokens of the input from below, at four bytes each, media and schemas left out."""
    size = sum(map(len, call.inputs)) + len(call.query)
    for message in call.messages:
        size += len(message.content) if not message.parts else len(message.text)
    return size // _BYTES_PER_TOKEN


def language_of(call: Call) -> str | None:
    """Guess the language of the last message of the user by its commonest words; None when they do not tell."""
    if call.language:
        return call.language
    text = next((m.text for m in reversed(call.messages) if m.role == "user"), " ".join(call.inputs[:1]))
    words = [word.strip(".,;:!?'’\"()«»") for word in text[:_LOOKED_AT].lower().replace("’", "' ").split()]
    counts = {language: sum(word in common for word in words) for language, common in _WORDS.items()}
    best = max(counts, key=lambda language: counts[language])
    others = max(count for language, count in counts.items() if language != best)
    return best if counts[best] >= _FEWEST_WORDS and counts[best] > others else None


def _drawn(call: Call, shares: tuple[Share, ...], salt: str) -> str | None:
    """Without a conversation or an end user there is nobody to stay with: each call is drawn alone."""
    name = call.end_user or call.conversation
    who = f"{call.principal.key_id}/{name}" if name else call.id
    place = point(f"{salt}/{who}") / 2**64 * 100
    reached = 0.0
    for share in shares:
        reached += share.percent
        if place < reached:
            return share.use
    return None


def _at_least(sensitivity: Sensitivity | None, least: Sensitivity) -> bool:
    return sensitivity is not None and SENSITIVITIES.index(sensitivity) >= SENSITIVITIES.index(least)


def _has_media(call: Call) -> bool:
    return call.audio is not None or any(isinstance(part, Media) for m in call.messages for part in m.parts)


def _sized(call: Call, when: Condition) -> bool:
    if when.min_tokens is None and when.max_tokens is None:
        return True
    size = size_of(call)
    return (when.min_tokens is None or size >= when.min_tokens) and (when.max_tokens is None or size <= when.max_tokens)
