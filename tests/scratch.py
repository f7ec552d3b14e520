"""Where servers of tests keep their data: in memory where there is room, for each database is a thousand files."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile

__all__ = ["scratch"]

_MEMORY = pathlib.Path("/dev/shm")  # a folder of an unguessable name is made in it
_ROOM = 4 << 30


def scratch(prefix: str) -> pathlib.Path:
    """Make a folder that even an unprivileged account may enter; whoever asks removes it."""
    return pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=_MEMORY if _roomy(_MEMORY) else None))


def _roomy(folder: pathlib.Path) -> bool:
    try:
        # PostgreSQL's programs may be copied there, to be run by an account that cannot enter ours.
        runs = not os.statvfs(folder).f_flag & os.ST_NOEXEC
        return runs and os.access(folder, os.W_OK) and shutil.disk_usage(folder).free >= _ROOM
    except OSError:
        return False
