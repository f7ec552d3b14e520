"""Libraries that a process loads when it first uses them, so that one which never does stays small."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

__all__ = ["deferred"]


class _Deferred(ModuleType):
    """Stands for a library until something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            # Whoever only looks at what stands in a module, as inspect does, has no use for the library.
            raise AttributeError(name)
        found = getattr(importlib.import_module(self.__name__), name)
        # Kept, so that this function is not asked again.
        setattr(self, name, found)
        return found


def deferred(name: str) -> ModuleType:
    """Give a library that is loaded at its first use; to be imported under TYPE_CHECKING beside it, for the gates."""
    return _Deferred(name)
