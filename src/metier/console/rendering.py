"""Pages from templates, and the way back to them after a form."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Callable, Mapping
from datetime import datetime
from urllib.parse import quote

import jinja2
from starlette.responses import HTMLResponse, RedirectResponse, Response

from metier.console.language import LANGUAGES, Words
from metier.console.session import Sessions
from metier.console.visit import Visit

__all__ = ["Renderer"]

_HERE = pathlib.Path(__file__).parent
_TYPES: Mapping[str, str] = {".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}


class Renderer:
    """Fills templates; everything that comes from outside is escaped."""

    def __init__(self, sessions: Sessions, clock: Callable[[], datetime]) -> None:
        self._sessions = sessions
        self._clock = clock
        self._assets = {path.name: path.read_bytes() for path in sorted((_HERE / "static").iterdir())}
        mark = hashlib.sha256(b"".join(self._assets.values())).hexdigest()[:12]
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.globals["assets"] = f"?v={mark}"
        self._environment.globals["languages"] = {code: Words(code) for code in LANGUAGES}

    def page(self, visit: Visit, template: str, status: int = 200, **values: object) -> Response:
        """Fill one template for one visitor."""
        text = self._environment.get_template(template).render(
            t=visit.words,
            visit=visit,
            path=_readable(visit),
            token=self._sessions.token(visit.session),
            now=self._clock(),
            **values,
        )
        # Half of a surrogate pair may stand in what came in an e-mail; a page must still come out.
        return HTMLResponse(text.encode("utf-8", "replace"), status)

    def back(self, path: str, said: str | None = None) -> Response:
        """Answer a form that did its work: look at another page, which says so."""
        return RedirectResponse(path if said is None else f"{path}?said={quote(said)}", 303)

    def asset(self, name: str) -> Response | None:
        """Give a file that pages refer to; its address changes with its contents."""
        data = self._assets.get(name)
        if data is None:
            return None
        headers = {"cache-control": "public, max-age=31536000, immutable"}
        return Response(data, 200, headers, _TYPES[pathlib.PurePath(name).suffix])


def _readable(visit: Visit) -> str:
    """The address under which this page can be asked for again, also where a form led to it."""
    path = visit.request.url.path
    return path.rpartition("/")[0] if visit.request.method == "POST" else path
