"""The OpenMP runtime llama.cpp needs and a fresh Debian or Ubuntu lacks: lent by a package that carries its own."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

__all__ = ["LIBRARY", "installed", "lent"]

LIBRARY = "libgomp.so.1"
"""The name under which the loader looks for the runtime."""

_LENDER = "sklearn"
_CARRIED = "scikit_learn.libs"
_SHELL = 'LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$0" exec "$@"'


def installed() -> bool:
    """Tell whether a program started from here finds the OpenMP runtime by itself."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


def lent(command: Sequence[str], folder: Path) -> list[str]:
    """Change a command so that it finds scikit-learn's OpenMP runtime, linked under its usual name in `folder`."""
    spec = find_spec(_LENDER)
    if spec is None or spec.origin is None:
        return list(command)
    carried = sorted((Path(spec.origin).parent.parent / _CARRIED).glob("libgomp*.so*"))
    if not carried:
        return list(command)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Made anew at each start: an upgrade gives the carried file another name.
    fresh = folder / f"{LIBRARY}.{os.getpid()}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(carried[0])
    fresh.replace(folder / LIBRARY)
    return ["/bin/sh", "-c", _SHELL, str(folder), *command]
