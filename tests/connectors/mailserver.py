"""A real SMTP server on loopback for tests, which can cut the line after it was given a message."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from aiosmtpd.smtp import SMTP

from metier.connectors.smtp import Account

__all__ = ["Server", "serving"]


class Server:
    """Answers DATA as scripted, then with 250; it keeps the messages it took."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.taken: list[str] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """Take a message, refuse it, or cut the line before or after taking it."""
        answer = self.answers.pop(0) if self.answers else "250 ok"
        if answer == "cut":
            server.transport.abort()
            return "250 never heard"
        if answer.startswith("250"):
            self.taken.append(envelope.content.decode())
        if answer == "250 then cut":
            server.transport.abort()
        return answer


@contextlib.asynccontextmanager
async def serving(handler: Server) -> AsyncIterator[Account]:
    """Open the server and give the account that reaches it."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(handler, hostname="localhost"), "127.0.0.1", 0)
    try:
        yield Account("127.0.0.1", server.sockets[0].getsockname()[1], starttls=False)
    finally:
        server.close()
