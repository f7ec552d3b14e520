"""A real MCP server for tests, run as a process of its own: over its input and output, or over HTTP."""

from __future__ import annotations

import json
import os
import pathlib
import sys
import time
from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.types import ToolAnnotations
from pydantic import Field

__all__ = ["main"]


def main(kept: pathlib.Path, port: int | None) -> None:
    """Serve the tools; what changes something writes a line into a file, which tests count."""
    server: MCPServer[Any] = MCPServer("tests")
    # The library keeps tools from writing between its messages, which a hostile server would not.
    wire = os.dup(1)

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def whoami() -> str:
        """Give back the secret it was started with, as a careless server would."""
        return f"I was given {os.environ.get('TOKEN', 'nothing')}"  # noqa: TID251  # a program of its own

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def spell(word: Annotated[str, Field(json_schema_extra={"pattern": r"^\p{L}+$"})]) -> str:
        """Spell a word, by a schema for another language."""
        return "-".join(word)

    @server.tool()
    def note(text: str) -> dict[str, str]:
        """Write a line down."""
        with kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps(text) + "\n")
        return {"noted": text}

    @server.tool()
    def die(text: str) -> str:
        """Write a line down and die before answering."""
        note(text)
        os._exit(3)

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def fail() -> str:
        """Fail, quoting what it was given."""
        raise ValueError("canary-words of a server")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def hang() -> str:
        """Never answer."""
        time.sleep(60)
        return "late"

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def flood(with_lines: bool) -> str:
        """Send without end, in one line or in messages that say nothing, and count what was taken."""
        said = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x" * 9_000}}
        piece, taken = json.dumps(said).encode() + b"\n" if with_lines else b"x" * 60_000, 0
        while True:
            taken += os.write(wire, piece)
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(taken) + "\n")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def large(n: int) -> str:
        """Answer with so many letters."""
        return "x" * n

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def knotted(
        word: Annotated[str, Field(json_schema_extra={"pattern": "^(a+)+$"})],
    ) -> Annotated[dict[str, str], Field(json_schema_extra={"additionalProperties": {"pattern": "^(a+)+$"}})]:
        """Take and give words by a pattern that goes back and forth for ever, where somebody applies it so."""
        return {"word": word}

    if port is None:
        server.run("stdio")
    else:
        server.run("streamable-http", host="127.0.0.1", port=port)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
