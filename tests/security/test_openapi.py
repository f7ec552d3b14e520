"""The API against its own description: what fits is answered as described, what does not is refused, nothing breaks."""

from __future__ import annotations

import asyncio
import json
import pathlib
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from metier.store import Store
from tests.security.house import Answer, House, house, populate, send

ROOT: Final = pathlib.Path(__file__).resolve().parents[2]
FILE: Final = ROOT / "docs" / "reference" / "openapi.json"
CHECKS: Final[list[Any]] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
MODELS: Final = {
    "Chat": "petit",
    "Embedding": "vecteurs",
    "Image": "peintre",
    "Message": "petit",
    "Rerank": "trieur",
    "Response": "petit",
}
PARTS: Final = ("method", "url", "headers", "params", "data", "json", "files", "cookies")
OPERATIONS: Final = sorted(
    (method.upper(), path)
    for path, item in json.loads(FILE.read_text(encoding="utf-8"))["paths"].items()
    for method in item
)


def test_the_description_is_up_to_date_and_names_every_route() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "openapi.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
async def here(store: Store, tmp_path: pathlib.Path) -> AsyncIterator[House]:
    """The platform with a good key."""
    async with house(tmp_path, store) as made:
        await populate(made)
        yield made


def known_models() -> dict[str, Any]:
    """The description, where a model is one that this house has: others are refused at once."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    for name, model in MODELS.items():
        found["components"]["schemas"][name]["properties"]["model"] = {"enum": [model]}
    form = found["paths"]["/v1/audio/transcriptions"]["post"]["requestBody"]["content"]["multipart/form-data"]
    form["schema"]["properties"]["model"] = {"enum": ["oreille"]}
    return found


class Attack:
    """Draws cases in a thread of its own, and has the loop of the platform answer them."""

    def __init__(self, here: House, examples: int) -> None:
        self._here = here
        self._examples = examples
        self._loop = asyncio.get_running_loop()
        self._key = {"authorization": f"Bearer {here.keys['right'].secret}"}
        self.seen: Counter[tuple[str, str, str, int]] = Counter()
        """How often each status came, by kind of case and operation."""
        self.wrong: list[str] = []

    def run(self, operation: Any, mode: GenerationMode) -> None:
        """Send cases of one kind to one operation, and note the first that is answered wrongly."""

        @seed(1)
        @settings(
            max_examples=self._examples, deadline=None, database=None, print_blob=False, phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=mode))
        def strike(case: Any) -> None:
            answer, request = self._send(case)
            self.seen[mode.value, operation.method.upper(), operation.path, answer.status] += 1
            told: dict[str, list[str]] = {}
            for name, value in answer.headers:
                told.setdefault(name.decode(), []).append(value.decode("latin-1"))
            try:
                case.validate_response(Response(answer.status, told, answer.body, request, 0.0, False), checks=CHECKS)
            except Exception:
                # Hypothesis tries again, and says no more than that it is different then.
                answered.append(f"{answer.status} {answer.body[:500]!r} to {request.body!r:.500}")
                raise

        answered: list[str] = []
        try:
            strike()
        except Unsatisfiable:
            # Nothing can be wrong with a request that has neither body nor parameters.
            return
        except Exception as error:  # noqa: BLE001  # told together with those of the other operations
            self.wrong.append(
                f"{operation.method.upper()} {operation.path} ({mode.value}): {error}\nanswered {answered}"
            )

    def _send(self, case: Any) -> tuple[Answer, requests.PreparedRequest]:
        given = case.as_transport_kwargs(base_url="http://metier.test")
        request = requests.Request(**{name: given[name] for name in PARTS if name in given}).prepare()
        body = request.body or b""
        data = body if isinstance(body, bytes) else str(body).encode("utf-8", "surrogatepass")
        headers = {name.lower(): value for name, value in request.headers.items() if name.lower() != "host"}
        pairs = [
            (name.encode(), value if isinstance(value, bytes) else value.encode("utf-8", "replace"))
            for name, value in (headers | self._key).items()
        ]
        address = urlsplit(request.url or "")
        path, query = unquote(str(address.path)), str(address.query).encode()
        asked = send(self._here.asgi, request.method or "GET", path, data, pairs, query=query)
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result(60), request


async def test_what_fits_is_answered_and_what_does_not_is_refused(here: House) -> None:
    schema = schemathesis.openapi.from_dict(known_models())
    made = Attack(here, 20)
    for method, path in OPERATIONS:
        for mode in GenerationMode:
            await asyncio.to_thread(made.run, schema[path][method], mode)
    assert not made.wrong, "\n\n".join(made.wrong)
    assert {status for *_, status in made.seen} <= {200, 400, 401, 403, 404, 405, 409, 413, 422, 429}
    # The description is worth something: some of what fits is answered, most of what does not is refused.
    for method, path in (("POST", "/v1/embeddings"), ("POST", "/v1/images/generations"), ("GET", "/v1/models")):
        assert made.seen["positive", method, path, 200] > 0, (method, path)
    refused = sum(number for (mode, *_, status), number in made.seen.items() if mode == "negative" and status >= 400)
    assert refused > 100
