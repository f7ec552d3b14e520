"""Server-sent events: the framing in which answers arrive piece by piece."""

from __future__ import annotations

__all__ = ["Events"]


class Events:
    """Cuts a byte stream of server-sent events into the data of each event, however the bytes were split."""

    def __init__(self) -> None:
        self._rest = b""
        self._after_return = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes and return the data of every event they complete."""
        if not data:
            return []
        if self._after_return or b"\r" in data:
            data = self._newlines(data)
        text = self._rest + data
        end = text.rfind(b"\n\n")
        if end < 0:
            self._rest = text
            return []
        whole, self._rest = text[:end], text[end + 2 :]
        if whole[:6] == b"data: ":
            events = whole[6:].split(b"\n\ndata: ")
            # Every newline stands between two events: nothing but one line of data in each.
            if whole.count(b"\n") == 2 * (len(events) - 1) and b"" not in events:
                return events
        return [event for event in map(_data, whole.split(b"\n\n")) if event]

    def end(self) -> list[bytes]:
        """Return the event that was complete but for its closing blank line."""
        return self.feed(b"\n\n") if self._rest else []

    def waiting(self) -> int:
        """Count the bytes held until their event is complete."""
        return len(self._rest)

    def _newlines(self, data: bytes) -> bytes:
        if self._after_return and data[:1] == b"\n":
            data = data[1:]
        self._after_return = data[-1:] == b"\r"
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _data(block: bytes) -> bytes:
    """Join the data lines of one event, leaving comments and other fields behind."""
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line[:5] == b"data:"]
    return b"\n".join(lines)
