"""A small day in the life of two nodes, through every disturbance of the long one; its books must agree."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_a_day_through_restart_kill_and_outages_loses_nothing_and_counts_nothing_twice() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "day.py", "--brisk", "--calls", "400", "--rate", "100", "--users", "8",
         "--outage", "2.4", "--database", "1"],
        capture_output=True, text=True, timeout=540,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["wrong"] == 0
    assert told["calls"] >= 400
    # Refused credentials alone leave no row.
    assert told["rows"] >= 300
