"""Amazon Bedrock: every model it serves by Converse, signed by hand, and embeddings of Titan and Cohere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from metier.calls import JSON, Call, Chunk
from metier.catalog import Deployment
from metier.errors import Invalid, MetierError, ProviderUnavailable
from metier.providers.base import failure
from metier.providers.bedrock_answer import Reading
from metier.providers.bedrock_format import converse_body
from metier.providers.cause import caused
from metier.providers.exchange import Exchange, wait_s
from metier.providers.sigv4 import Credentials, sign
from metier.providers.vectors import Part, gather

__all__ = ["BedrockProvider", "address"]

_STREAM: Final = "application/vnd.amazon.eventstream"
_SERVICE: Final = "bedrock"
_SKEW_S: Final = 240
"""Amazon refuses signatures five minutes old; a clock this far off is named as the cause."""
_COHERE_TEXTS: Final = 96
_COHERE_TYPES: Final = {"query": "search_query", "passage": "search_document"}
# A limit of the account is told as a fault of the request; waiting or asking Amazon for more helps, rewriting does not.
_QUOTA: Final = "ServiceQuotaExceededException"


def _now() -> datetime:
    return datetime.now(UTC)


class BedrockProvider:
    """Streams answers and embeddings from Amazon Bedrock over one pool of connections."""

    def __init__(
        self,
        *,
        first_token_s: float = 120.0,
        between_s: float = 60.0,
        connect_s: float = 10.0,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._exchange = Exchange(first_token_s=first_token_s, between_s=between_s, connect_s=connect_s)
        self._clock = clock

    async def stream(self, call: Call, deployment: Deployment) -> AsyncIterator[Chunk]:
        """Ask the deployment and yield what it answers; text that arrived together is yielded together."""
        deployment = replace(deployment, base_url=address(deployment))
        exchange = self._exchange
        if call.operation == "embed":
            yield await self._embed(call, deployment)
            return
        if call.operation != "chat":
            raise Invalid(
                f"deployment {deployment.id!r} (Amazon Bedrock) cannot do {call.operation!r} here: choose another model"
            )
        body = orjson.dumps(converse_body(call, deployment))
        with exchange.guard(deployment):
            async with await self._post("converse-stream", body, deployment) as response:
                if response.status >= 300:
                    raise self._refusal(response, await exchange.refusal(response, deployment), deployment)
                reading = Reading(deployment)
                with exchange.patience(response, deployment) as patience:
                    while data := await patience.next(reading.done):
                        chunk = reading.take(data)
                        if chunk is not None:
                            yield chunk
                reading.end()

    async def close(self) -> None:
        """Close the connections that are kept open between calls."""
        await self._exchange.close()

    async def _post(self, action: str, body: bytes, deployment: Deployment) -> aiohttp.ClientResponse:
        url = f"{deployment.base_url}/model/{quote(deployment.model_id, safe='-_.~')}/{action}"
        accept = _STREAM if action == "converse-stream" else "application/json"
        headers = {"content-type": "application/json", "accept": accept}
        credentials = _credentials(deployment)
        if credentials is None:
            headers["authorization"] = f"Bearer {deployment.api_key}"
        else:
            place = (deployment.options["region"], _SERVICE)
            headers = sign("POST", url, headers, body, credentials, place, self._clock())
        # What was signed is what must be sent: the model id keeps its %3A and %2F.
        return await self._exchange.post(URL(url, encoded=True), body, headers, deployment)

    async def _embed(self, call: Call, deployment: Deployment) -> Chunk:
        async def one(body: JSON) -> Part:
            with self._exchange.guard(deployment):
                return await self._embed_one(body, deployment)

        return await gather(call, deployment, _embed_bodies(call, deployment), one)

    async def _embed_one(self, body: JSON, deployment: Deployment) -> Part:
        async with await self._post("invoke", orjson.dumps(body), deployment) as response:
            if response.status >= 300:
                raise self._refusal(response, await self._exchange.refusal(response, deployment), deployment)
            data = await self._exchange.read(response, deployment)
            told = response.headers.get("x-amzn-bedrock-input-token-count", "")
        try:
            found = orjson.loads(data)
            count = found.get("inputTextTokenCount", int(told) if told.isdecimal() else None)
            return _vectors(found), count
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _misfit(deployment, "sent embeddings that do not fit their format") from error

    def _refusal(self, response: aiohttp.ClientResponse, data: bytes, deployment: Deployment) -> MetierError:
        try:
            fields = orjson.loads(data)
            message = str(fields.get("message") or fields.get("Message") or "no message")
        except (orjson.JSONDecodeError, AttributeError):
            message = data.decode("utf-8", "replace")
        status = response.status
        name = response.headers.get("x-amzn-errortype", "").partition(":")[0]
        if status == 403 and _credentials(deployment) is not None:
            off_s = self._off_s(response)
            if abs(off_s) > _SKEW_S:
                late = ProviderUnavailable(
                    f"deployment {deployment.id!r} refused the signature, and the clock of this machine is "
                    f"{abs(off_s):.0f} s {'ahead of' if off_s > 0 else 'behind'} Amazon's: set it right, "
                    "for example with NTP; the credentials may be fine"
                )
                return caused(late, f"http_{status}", "clock_off")
        if name == _QUOTA:
            status = 429
        return failure(status, f"{name}: {message}" if name else message, deployment, wait_s(response))

    def _off_s(self, response: aiohttp.ClientResponse) -> float:
        try:
            theirs = parsedate_to_datetime(response.headers.get("date", ""))
            return (self._clock() - theirs).total_seconds()
        except (ValueError, TypeError):
            return 0.0


def address(deployment: Deployment) -> str:
    """Find where the runtime of a deployment answers: its own `base_url`, or the public one of its region."""
    if deployment.base_url is not None:
        return deployment.base_url.rstrip("/")
    region = deployment.options["region"]
    return f"https://bedrock-runtime.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"


def _credentials(deployment: Deployment) -> Credentials | None:
    """Find what to sign with; None means that the deployment has a Bedrock API key instead."""
    options = deployment.options
    key, secret = options.get("access_key_id"), options.get("secret_access_key")
    if key and secret:
        return Credentials(key, secret, options.get("session_token") or None)
    if key or secret or not deployment.api_key:
        lacking = ProviderUnavailable(
            f"deployment {deployment.id!r} lacks credentials: give it the options `access_key_id` and "
            "`secret_access_key` in metier.yaml, or a Bedrock API key as `api_key`"
        )
        raise caused(lacking, "no_credential")
    return None


def _embed_bodies(call: Call, deployment: Deployment) -> list[JSON]:
    """Write the requests for embeddings: Titan takes one text each, Cohere so many at once."""
    name, size = deployment.model_id, call.dimensions
    if "amazon.titan-embed-text" in name or "amazon.titan-embed-g1-text" in name:
        if size is not None and "-v2" not in name:
            raise _cannot(deployment, "'dimensions' for this model", "dimensions")
        more: dict[str, JSON] = {} if size is None else {"dimensions": size}
        return [{"inputText": text, **more} for text in call.inputs]
    if "cohere.embed" in name:
        if size is not None and "embed-v4" not in name:
            raise _cannot(deployment, "'dimensions' for this model", "dimensions")
        more = {"input_type": _COHERE_TYPES[call.purpose or "passage"], "embedding_types": ["float"]}
        if size is not None:
            more["output_dimension"] = size
        texts = call.inputs
        starts = range(0, len(texts), _COHERE_TEXTS)
        return [{"texts": list(texts[start : start + _COHERE_TEXTS]), **more} for start in starts]
    raise _cannot(deployment, f"embeddings with {name!r}", "model")


def _vectors(found: Mapping[str, Any]) -> tuple[tuple[float, ...], ...]:
    if "embedding" in found:
        return (tuple(map(float, found["embedding"])),)
    rows = found["embeddings"]
    return tuple(tuple(map(float, row)) for row in (rows["float"] if isinstance(rows, dict) else rows))


def _cannot(deployment: Deployment, what: str, param: str) -> Invalid:
    way = "use Titan Text Embeddings or Cohere Embed" if param == "model" else "leave it out, or choose another model"
    return Invalid(f"deployment {deployment.id!r} (Amazon Bedrock) cannot take {what}: {way}", param=param)


def _misfit(deployment: Deployment, what: str) -> ProviderUnavailable:
    told = f"deployment {deployment.id!r} {what}; try again, or check what serves that address"
    return caused(ProviderUnavailable(told), "unreadable")
