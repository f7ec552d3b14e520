"""GET and POST /forms/{trigger}/{token}: a page that asks for the inputs of a flow, in French or English."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from html import escape
from types import MappingProxyType
from urllib.parse import parse_qsl

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from metier.api import failures
from metier.errors import Invalid, MetierError, Mistaken
from metier.triggers import Form, Gate, Triggers
from metier.triggers.form import Field

__all__ = ["Forms"]

_BODY_LIMIT = 1024 * 1024
_FIELDS_MOST = 200
_WORDS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "fr": {
            "send": "Envoyer", "required": "obligatoire", "choose": "Choisissez", "other": "English",
            "done": "C’est envoyé. Votre demande est prise en charge.", "number": "Référence",
            "again": "Envoyer une autre demande", "fault": "À corriger",
            "misfit": "Ce qui est écrit ne convient pas à ce qui est demandé.",
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        response = await self._answer(request)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        id, token = request.path_params["trigger"], request.path_params["token"]
        wants_json = request.headers.get("content-type", "").startswith("application/json")
        language = _language(request)
        try:
            self._gate.enter(id)
            form = await self._triggers.form(id, token)
            if request.method == "GET":
                return _page(language, form, {}, secrets.token_urlsafe(18))
            values, once = await _sent(request, wants_json)
        except MetierError as error:
            return _fault(error, wants_json, language)
        try:
            taken = await self._triggers.fill(id, token, values, once, "en" if wants_json else language)
        except Invalid as error:
            if wants_json:
                return _fault(error, wants_json, language)
            return _page(language, form, values, secrets.token_urlsafe(18), error)
        except MetierError as error:
            return _fault(error, wants_json, language)
        if wants_json:
            return JSONResponse({"outcome": taken.outcome, "run": taken.run}, 202, dict(_HEADERS))
        return _thanks(language, form, taken.run or "")


async def _sent(request: Request, is_json: bool) -> tuple[dict[str, str], str]:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _BODY_LIMIT:
            raise Mistaken(f"the form has over {_BODY_LIMIT} bytes: send less")
    try:
        if is_json:
            raw = orjson.loads(body)
            if not isinstance(raw, dict):
                raise Mistaken("the body is no JSON object: send one with the names of the fields")
            fields = {
                name: value if isinstance(value, str) else orjson.dumps(value).decode() for name, value in raw.items()
            }
        else:
            fields = dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_FIELDS_MOST))
    except ValueError:
        raise Mistaken("the form cannot be read: send JSON, or a form in UTF-8 of up to 200 fields") from None
    once = (
        request.headers.get("idempotency-key")
        or fields.pop("_once", "")
        or (secrets.token_urlsafe(18) if is_json else "")
    )
    return fields, once


def _language(request: Request) -> str:
    chosen = request.query_params.get("lang", "")
    if chosen in _WORDS:
        return chosen
    asked = request.headers.get("accept-language", "")[:200].lower()
    ranked = [part.strip()[:2] for part in asked.split(",")]
    return next((one for one in ranked if one in _WORDS), "fr")


def _page(language: str, form: Form, values: Mapping[str, str], once: str, fault: Invalid | None = None) -> Response:
    words = _WORDS[language]
    told = "" if fault is None else _told(words, fault)
    wrong = "" if fault is None else (fault.param or "").removeprefix("form.")
    rows = "".join(
        _row(field, values.get(field.name, field.default), words, is_wrong=field.name == wrong) for field in form.fields
    )
    body = (
        f'{told}<form method="post" accept-charset="utf-8"><input type="hidden" name="_once" value="{escape(once)}">'
        f'{rows}<button type="submit">{words["send"]}</button></form>'
    )
    return _whole(language, form, body, 200 if fault is None else 422)


def _told(words: Mapping[str, str], fault: Invalid) -> str:
    """What the form itself finds is in the language of the page; what the flow finds further comes in English."""
    said = f"<p>{escape(fault.message)}</p>"
    if not (fault.param or "").startswith("form"):
        said = f'<p>{words["misfit"]}</p><p class="hint" lang="en">{escape(fault.message)}</p>'
    return f'<div role="alert" id="fault"><strong>{words["fault"]}</strong>{said}</div>'


def _row(field: Field, value: str, words: Mapping[str, str], *, is_wrong: bool) -> str:
    name = escape(field.name)
    told = escape(field.label) + (f" ({words['required']})" if field.required else "")
    needed = " required" if field.required else ""
    hint = f'<p class="hint" id="hint-{name}">{escape(field.hint)}</p>' if field.hint else ""
    told_by = " ".join(([f"hint-{name}"] if field.hint else []) + (["fault"] if is_wrong else []))
    tied = f'id="f-{name}" name="{name}"{needed}' + (f' aria-describedby="{told_by}"' if told_by else "")
    tied += ' aria-invalid="true"' if is_wrong else ""
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
            return (
                f'<label class="yes"><input type="checkbox" id="f-{name}" name="{name}"{checked}> {told}</label>{hint}'
            )
        case _:
            kind = {"number": "text", "email": "email", "date": "date"}.get(field.widget, "text")
            decimal = ' inputmode="decimal"' if field.widget == "number" else ""
            made = f'<input type="{kind}" {tied}{decimal} value="{escape(value)}">'
    return f'<label for="f-{name}">{told}</label>{made}{hint}'


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
