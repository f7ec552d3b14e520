"""Batches: many requests in one file, made in the background when there is room for them, and their files."""

from __future__ import annotations

from metier.batches.batch import WINDOW_KEY, Batch, Batches, Status, Totals
from metier.batches.files import Files, Purpose, StoredFile, Writing
from metier.batches.lines import Prepared, Surface
from metier.batches.rules import Rules
from metier.batches.runner import Runner
from metier.batches.turn import Road
from metier.window import Window

__all__ = [
    "WINDOW_KEY",
    "Batch",
    "Batches",
    "Files",
    "Prepared",
    "Purpose",
    "Road",
    "Rules",
    "Runner",
    "Status",
    "StoredFile",
    "Surface",
    "Totals",
    "Window",
    "Writing",
]
