"""GET and POST /forms/{trigger}/{token}: a page that asks for the inputs of a flow, in French or English."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from html import escape
from types import MappingProxyType

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from metier.api import failures
from metier.api.form_body import Held, Sent, Taking, read, read_files
from metier.errors import Invalid, MetierError
from metier.triggers import Form, Gate, Triggers
from metier.triggers.form import Field
from metier.triggers.uploads import ACCEPTED, shown_size

__all__ = ["Forms"]

_HELD_MOST = 100_000_000
"""Bytes of files being sent that one process holds at most."""
_WORDS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "fr": {
            "send": "Envoyer", "required": "obligatoire", "choose": "Choisissez", "other": "English",
            "done": "C’est envoyé. Votre demande est prise en charge.", "number": "Référence",
            "again": "Envoyer une autre demande", "fault": "À corriger",
            "misfit": "Ce qui est écrit ne convient pas à ce qui est demandé.",
            "one": "PDF, Word, Excel, HTML ou texte\u00a0; {size} au plus.",
            "several": "PDF, Word, Excel, HTML ou texte\u00a0; {most} fichiers au plus, {size} chacun.",
            "rechoose": "Ce qui est écrit a été gardé\u00a0; choisissez de nouveau les fichiers, qu’une page ne peut "
            "pas garder.",
            "not_found": "Ce formulaire n’existe pas\u00a0: son adresse a peut-être été coupée.",
            "not_allowed": "Ce formulaire ne prend plus de demandes pour le moment.",
            "rate_limited": "Trop de demandes arrivent par ce formulaire\u00a0: réessayez dans une minute.",
            "mistaken": "Ce formulaire ne peut pas être lu\u00a0: rechargez sa page, puis remplissez-le.",
            "conflict": "Une autre demande a été envoyée sous le même numéro\u00a0: rechargez la page.",
            "unable": "Le formulaire ne peut pas être pris en charge maintenant\u00a0: réessayez plus tard.",
        },
        "en": {
            "send": "Send", "required": "required", "choose": "Choose", "other": "Français",
            "done": "It is sent. Your request is being dealt with.", "number": "Reference",
            "again": "Send another request", "fault": "To be mended",
            "misfit": "What is written does not fit what is asked.",
            "one": "PDF, Word, Excel, HTML or text; {size} at most.",
            "several": "PDF, Word, Excel, HTML or text; {most} files at most, {size} each.",
            "rechoose": "What is written was kept; choose the files again, which a page cannot keep.",
            "not_found": "There is no such form: its address may have been cut short.",
            "not_allowed": "This form takes no requests for now.",
            "rate_limited": "Too many requests come by this form: try again in a minute.",
            "mistaken": "This form cannot be read: load its page again, then fill it in.",
            "conflict": "Another request was sent under the same number: load the page again.",
            "unable": "The form cannot be dealt with now: try again later.",
        },
    }
)  # fmt: skip
_STYLE = (
    ":root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:2rem auto;"
    "padding:0 1rem}"
    "label{display:block;font-weight:600;margin-top:1rem}input,select,textarea{font:inherit;width:100%;padding:.5rem;"
    "box-sizing:border-box}input[type=checkbox]{width:auto}.hint{opacity:.75;font-size:.9rem}"
    "[role=alert]{border:2px solid;border-color:light-dark(#a32116,#f2a49c);padding:.6rem 1rem;border-radius:6px}"
    "[role=alert] p{margin:.3rem 0 0}[aria-invalid]{outline:2px solid light-dark(#a32116,#f2a49c)}.yes input{"
    "margin-inline-end:.5rem}.hint{margin:.3rem 0 0}button{font:inherit;margin-top:1.5rem;padding:.6rem 1.4rem}"
)
_HEADERS = MappingProxyType(
    {
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "x-robots-tag": "noindex",
    }
)


class Forms:
    """Shows the form of a trigger and starts its run; JSON is answered with JSON. It works without JavaScript."""

    def __init__(self, triggers: Triggers, gate: Gate) -> None:
        self._triggers = triggers
        self._gate = gate
        self._held = Held(_HELD_MOST)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        response = await self._answer(request)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        id, token = request.path_params["trigger"], request.path_params["token"]
        wants_json = any(
            request.headers.get(name, "").startswith("application/json") for name in ("content-type", "accept")
        )
        language = _language(request)
        try:
            self._gate.enter(id)
            form = await self._triggers.form(id, token)
            if request.method == "GET":
                return _page(language, form, {}, secrets.token_urlsafe(18))
            if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
                sent = await read(request, is_json=wants_json)
                return await self._taken(request, form, sent, language, is_json=wants_json)
            taking = Taking(form, self._held)
            try:
                sent = await read_files(request, form, taking, is_json=wants_json)
                return await self._taken(request, form, sent, language, is_json=wants_json)
            finally:
                taking.drop()
        except MetierError as error:
            return _fault(error, wants_json, language)

    async def _taken(self, request: Request, form: Form, sent: Sent, language: str, *, is_json: bool) -> Response:
        id, token = request.path_params["trigger"], request.path_params["token"]
        try:
            taken = await self._triggers.fill(
                id, token, sent.values, sent.once, "en" if is_json else language, sent.uploads
            )
        except Invalid as error:
            if is_json:
                raise
            return _page(language, form, sent.values, secrets.token_urlsafe(18), error)
        if is_json:
            return JSONResponse({"outcome": taken.outcome, "run": taken.run}, 202, dict(_HEADERS))
        return _thanks(language, form, taken.run or "")


def _language(request: Request) -> str:
    chosen = request.query_params.get("lang", "")
    if chosen in _WORDS:
        return chosen
    asked = request.headers.get("accept-language", "")[:200].lower()
    ranked = [part.strip()[:2] for part in asked.split(",")]
    return next((one for one in ranked if one in _WORDS), "fr")


def _page(language: str, form: Form, values: Mapping[str, str], once: str, fault: Invalid | None = None) -> Response:
    words = _WORDS[language]
    told = "" if fault is None else _told(words, fault, has_files=bool(form.files))
    wrong = "" if fault is None else (fault.param or "").removeprefix("form.")
    rows = "".join(
        _file(field, form.file_bytes, language, is_wrong=field.name == wrong)
        if field.widget == "file"
        else _row(field, values.get(field.name, field.default), words, is_wrong=field.name == wrong)
        for field in form.fields
    )
    kind = ' enctype="multipart/form-data"' if form.files else ""
    body = (
        f'{told}<form method="post" accept-charset="utf-8"{kind}><input type="hidden" name="_once" '
        f'value="{escape(once)}">{rows}<button type="submit">{words["send"]}</button></form>'
    )
    return _whole(language, form, body, 200 if fault is None else 422)


def _told(words: Mapping[str, str], fault: Invalid, *, has_files: bool) -> str:
    """What the form itself finds is in the language of the page; what the flow finds further comes in English."""
    said = f"<p>{escape(fault.message)}</p>"
    if not (fault.param or "").startswith("form"):
        said = f'<p>{words["misfit"]}</p><p class="hint" lang="en">{escape(fault.message)}</p>'
    if has_files:
        said += f"<p>{words['rechoose']}</p>"
    return f'<div role="alert" id="fault"><strong>{words["fault"]}</strong>{said}</div>'


def _row(field: Field, value: str, words: Mapping[str, str], *, is_wrong: bool) -> str:
    name, tied = escape(field.name), _tied(field, field.hint, is_wrong=is_wrong)
    match field.widget:
        case "long":
            made = f'<textarea {tied} rows="6">{escape(value)}</textarea>'
        case "choice":
            options = "".join(
                f"<option{' selected' if choice == value else ''}>{escape(choice)}</option>" for choice in field.choices
            )
            made = f'<select {tied}><option value="">{words["choose"]}</option>{options}</select>'
        case "yes":
            checked = " checked" if value in ("on", "true", "True") else ""
            box = f'<input type="checkbox" id="f-{name}" name="{name}"{checked}>'
            return f'<label class="yes">{box} {_label(field, words)}</label>{_hint(field, field.hint)}'
        case _:
            kind = {"number": "text", "email": "email", "date": "date"}.get(field.widget, "text")
            decimal = ' inputmode="decimal"' if field.widget == "number" else ""
            made = f'<input type="{kind}" {tied}{decimal} value="{escape(value)}">'
    return f'<label for="f-{name}">{_label(field, words)}</label>{made}{_hint(field, field.hint)}'


def _file(field: Field, limit: int, language: str, *, is_wrong: bool) -> str:
    words = _WORDS[language]
    rule = words["several" if field.most > 1 else "one"].format(most=field.most, size=shown_size(limit, language))
    hint = f"{field.hint} {rule}".lstrip()
    several = " multiple" if field.most > 1 else ""
    made = f'<input type="file" {_tied(field, hint, is_wrong=is_wrong)} accept="{",".join(ACCEPTED)}"{several}>'
    return f'<label for="f-{escape(field.name)}">{_label(field, words)}</label>{made}{_hint(field, hint)}'


def _label(field: Field, words: Mapping[str, str]) -> str:
    return escape(field.label) + (f" ({words['required']})" if field.required else "")


def _hint(field: Field, hint: str) -> str:
    return f'<p class="hint" id="hint-{escape(field.name)}">{escape(hint)}</p>' if hint else ""


def _tied(field: Field, hint: str, *, is_wrong: bool) -> str:
    name, needed = escape(field.name), " required" if field.required else ""
    told_by = " ".join(([f"hint-{name}"] if hint else []) + (["fault"] if is_wrong else []))
    tied = f'id="f-{name}" name="{name}"{needed}' + (f' aria-describedby="{told_by}"' if told_by else "")
    return tied + (' aria-invalid="true"' if is_wrong else "")


def _thanks(language: str, form: Form, run: str) -> Response:
    words = _WORDS[language]
    number = f"<p>{words['number']} <code>{escape(run)}</code></p>" if run else ""
    return _whole(
        language, form, f'<p role="status">{words["done"]}</p>{number}<p><a href="">{words["again"]}</a></p>', 200
    )


def _whole(language: str, form: Form, body: str, status: int) -> Response:
    other = "en" if language == "fr" else "fr"
    nonce = secrets.token_urlsafe(12)
    hint = f"<p>{escape(form.hint)}</p>" if form.hint else ""
    text = (
        f'<!doctype html><html lang="{language}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(form.title)}</title><style nonce="{nonce}">{_STYLE}</style></head><body>'
        f'<nav><a href="?lang={other}" lang="{other}" hreflang="{other}">{_WORDS[language]["other"]}</a></nav>'
        f"<main><h1>{escape(form.title)}</h1>{hint}{body}</main></body></html>"
    )
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    headers = {**_HEADERS, "content-security-policy": policy}
    return Response(text.encode("utf-8", "replace"), status, headers, "text/html; charset=utf-8")


def _fault(error: MetierError, is_json: bool, language: str) -> Response:
    more = {name.decode(): value.decode() for name, value in failures.headers(error)}
    headers = {**_HEADERS, **more}
    if is_json:
        return JSONResponse({"error": {"code": error.code, "message": error.message}}, error.status, headers)
    words = _WORDS[language]
    text = words.get(error.code, words["unable"])
    return Response(text, error.status, {**headers, "content-language": language}, "text/plain; charset=utf-8")
