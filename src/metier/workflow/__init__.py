"""Durable workflows: the language, its checks, and the engine that runs definitions as data."""

__all__: list[str] = []
