"""Server-sent events: the framing in which answers arrive piece by piece."""

from __future__ import annotations

__all__ = ["Events"]


class Events:
    """Cuts a byte stream of server-sent events into the data of each event, however the bytes were split."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._after_return = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes and return the data of every event they complete."""
        if b"\r" in data or self._after_return:
            data = self._newlines(data)
        lines = (self._rest + data).split(b"\n") if self._rest else data.split(b"\n")
        self._rest = lines.pop()
        events: list[bytes] = []
        pending = self._data
        for line in lines:
            if line[:5] == b"data:":
                pending.append(line[6:] if line[5:6] == b" " else line[5:])
            elif not line and pending:
                event = pending[0] if len(pending) == 1 else b"\n".join(pending)
                pending.clear()
                if event:
                    events.append(event)
        return events

    def end(self) -> list[bytes]:
        """Return the event that was complete but for its closing blank line."""
        return self.feed(b"\n\n") if self._rest or self._data else []

    def waiting(self) -> int:
        """Count the bytes held until their event is complete."""
        return len(self._rest) + sum(map(len, self._data))

    def _newlines(self, data: bytes) -> bytes:
        if self._after_return and data[:1] == b"\n":
            data = data[1:]
        self._after_return = data[-1:] == b"\r"
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
