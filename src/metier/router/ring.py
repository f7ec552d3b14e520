"""A ring of deployments: the same key finds the same one, and few keys move when one comes or goes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from hashlib import blake2b

from metier.deployment import Deployment

__all__ = ["Ring", "point"]

_POINTS = 128
_FEW_POINTS = 8
_MANY = 64


def point(text: str) -> int:
    """Place a text on the ring, evenly and the same in every process."""
    return int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest())


class Ring:
    """Deployments at fixed places of a circle, more places for more weight."""

    def __init__(self, deployments: Sequence[Deployment]) -> None:
        each = _POINTS if len(deployments) <= _MANY else _FEW_POINTS
        places = sorted(
            (point(f"{deployment.id}/{number}"), index)
            for index, deployment in enumerate(deployments)
            for number in range(max(1, round(each * min(deployment.weight, 100.0))))
        )
        self._deployments = tuple(deployments)
        self._points = [place for place, _ in places]
        self._owners = [owner for _, owner in places]

    def walk(self, key: int) -> Iterator[Deployment]:
        """Give the deployments in the order of this key, each once."""
        start, size = bisect_left(self._points, key), len(self._points)
        given: set[int] = set()
        for step in range(size):
            owner = self._owners[(start + step) % size]
            if owner not in given:
                given.add(owner)
                yield self._deployments[owner]
                if len(given) == len(self._deployments):
                    return
