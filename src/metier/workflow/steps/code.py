"""`code:` steps: pure functions, registered by name, that cost nothing and always give the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TypeAlias

from metier.calls import JSON
from metier.errors import Invalid, NotFound
from metier.workflow.engine import StepContext

__all__ = ["Code", "CodeSteps"]

Code: TypeAlias = Callable[..., JSON]
"""A pure function that takes the keys of `with` as keyword arguments."""


class CodeSteps:
    """Runs `code:` steps from a table of names."""

    def __init__(self, functions: Mapping[str, Code]) -> None:
        self._functions = dict(functions)

    async def __call__(self, context: StepContext, with_: dict[str, JSON]) -> JSON:
        """Call the function the step names."""
        name = str(context.step.config)
        function = self._functions.get(name)
        if function is None:
            known = sorted(self._functions)
            raise NotFound(f"step {context.path!r} calls the function {name!r}, which is none of {known}")
        try:
            called = inspect.signature(function).bind(**with_)
        except TypeError as error:
            raise Invalid(f"step {context.path!r} calls {name!r} with {sorted(with_)}: {error}") from error
        return function(*called.args, **called.kwargs)
