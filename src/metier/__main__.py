"""`python -m metier`: the command `metier` where it is not on the path."""

from __future__ import annotations

from metier.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main(prog_name="metier")
