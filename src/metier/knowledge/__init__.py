"""Documents in, checked extracts out: parse, chunk, ingest, retrieve, and the checks of an answer."""

__all__: list[str] = []
