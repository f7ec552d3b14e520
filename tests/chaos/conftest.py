"""What holds for every test of disturbances: they take as long as the machine is busy."""

from __future__ import annotations

import pathlib

import pytest

HERE = pathlib.Path(__file__).parent
# Processes die here and are missed, databases start again, thousands of cells are played: on a busy machine that
# takes minutes. What hangs is still ended.
MOST_S = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this folder more time than others have."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(MOST_S))
