"""Installing does nothing twice, starts over where a folder moved, explains a failure, and knows the same Pythons."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
UV = """#!/bin/sh
echo "$@" >> "{calls}"
[ -e "{broken}" ] && exit 7
mkdir -p .venv/bin && ln -sf "{python}" .venv/bin/python && echo "#!$(pwd)/.venv/bin/python" > .venv/bin/metier
"""


class Clone:
    """A copy of what installing reads, with a `uv` that only writes down what it was asked."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.root, self.calls, self.broken = folder / "a clone", folder / "calls", folder / "broken"
        (self.root / "scripts").mkdir(parents=True)
        for name in ("scripts/install.py", "uv.lock", "pyproject.toml"):
            shutil.copyfile(ROOT / name, self.root / name)
        self._programs = folder / "bin"
        self._programs.mkdir()
        uv = self._programs / "uv"
        uv.write_text(UV.format(calls=self.calls, broken=self.broken, python=sys.executable))
        uv.chmod(0o755)

    def install(self, what: str) -> subprocess.CompletedProcess[str]:
        command = ["/usr/bin/env", f"PATH={self._programs}:/usr/bin:/bin", sys.executable, "scripts/install.py", what]
        return subprocess.run(command, cwd=self.root, capture_output=True, text=True, timeout=60)

    def asked(self) -> int:
        return len(self.calls.read_text().splitlines())


@pytest.fixture
def clone(tmp_path: pathlib.Path) -> Clone:
    return Clone(tmp_path)


def test_a_second_install_asks_nobody(clone: Clone) -> None:
    assert [clone.install("test").returncode, clone.install("test").returncode, clone.asked()] == [0, 0, 1]
    assert clone.install("run").returncode == 0 and clone.asked() == 1, "what tests need covers what a run needs"
    (clone.root / "uv.lock").write_text("changed")
    assert clone.install("run").returncode == 0 and clone.asked() == 2


def test_a_folder_that_moved_or_a_python_that_went_is_installed_anew(clone: Clone) -> None:
    assert clone.install("run").returncode == 0
    for spoil in ("move", "python"):
        (clone.root / ".venv" / "mark").touch()
        if spoil == "move":
            clone.root = clone.root.rename(clone.root.with_name("elsewhere"))
        else:
            (clone.root / ".venv" / "bin" / "python").unlink()
            (clone.root / ".venv" / ".installed").unlink()
        assert clone.install("run").returncode == 0
        assert not (clone.root / ".venv" / "mark").exists(), spoil


def test_a_failure_says_what_to_do_and_the_next_install_goes_on(clone: Clone) -> None:
    clone.broken.touch()
    failed = clone.install("run")
    assert failed.returncode == 1 and "left with 7" in failed.stderr
    assert all(word in failed.stderr for word in ("network", "disk", "PIP_INDEX_URL", "UV_DEFAULT_INDEX"))
    clone.broken.unlink()
    assert clone.install("run").returncode == 0 and clone.asked() == 2


def test_the_pythons_are_the_same_wherever_they_are_named() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [c.rsplit(" ", 1)[1] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert named == ["3.11", "3.12", "3.13"] and project["requires-python"] == ">=3.11,<3.14"
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in (ROOT / "scripts" / "install.py").read_text(encoding="utf-8")
    for page in ("README.md", "README.fr.md"):
        assert re.search(r"Python 3\.11, 3\.12 (or|ou) 3\.13", (ROOT / page).read_text(encoding="utf-8")), page
