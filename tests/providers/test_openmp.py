"""A machine without the OpenMP runtime is lent the one scikit-learn carries, and llama.cpp runs on it."""

from __future__ import annotations

import pathlib
import subprocess
import sys

from metier.providers import openmp

LOADS = """
import pathlib
import xllamacpp
lines = pathlib.Path("/proc/self/maps").read_text().splitlines()
print("\\n".join({line.split(None, 5)[5] for line in lines if "gomp" in line}))
"""
SHOWS = ["/bin/sh", "-c", 'printf %s "$LD_LIBRARY_PATH"']


def run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_llama_cpp_loads_on_the_lent_runtime_and_no_other(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "with a space"
    loaded = run(openmp.lent([sys.executable, "-c", LOADS], folder)).splitlines()
    assert loaded == [str((folder / openmp.LIBRARY).resolve())]


def test_folders_the_operator_set_for_the_loader_come_first(tmp_path: pathlib.Path) -> None:
    command = openmp.lent(SHOWS, tmp_path)
    assert run(["/usr/bin/env", "LD_LIBRARY_PATH=/opt/first", *command]) == f"/opt/first:{tmp_path}"
    assert run(["/usr/bin/env", "-u", "LD_LIBRARY_PATH", *command]) == str(tmp_path)


def test_a_second_loan_replaces_the_first(tmp_path: pathlib.Path) -> None:
    (tmp_path / openmp.LIBRARY).symlink_to("/nowhere")
    openmp.lent(SHOWS, tmp_path)
    assert (tmp_path / openmp.LIBRARY).is_file()
    assert [path.name for path in tmp_path.iterdir()] == [openmp.LIBRARY]
