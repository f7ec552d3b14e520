"""Google's Gemini models: at Google's own address with a key, and on Vertex AI in the name of a service account."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final
from urllib.parse import quote

import orjson

from metier.calls import JSON, Call, Chunk
from metier.catalog import Deployment
from metier.errors import Invalid, ProviderUnavailable
from metier.providers.cause import caused
from metier.providers.exchange import Exchange, wait_s
from metier.providers.gemini_answer import Reading, embedded, refused
from metier.providers.gemini_format import batch_embed_bodies, content_body, model_path, predict_bodies
from metier.providers.google_auth import GoogleTokens
from metier.providers.vectors import Part, gather

__all__ = ["GeminiProvider", "VertexProvider"]

_GEMINI: Final = "https://generativelanguage.googleapis.com/v1beta"
_REGION = re.compile(r"[a-z0-9-]+")


class GeminiProvider:
    """Streams answers and embeddings of Gemini models over one pool of connections."""

    def __init__(self, *, first_token_s: float = 120.0, between_s: float = 60.0, connect_s: float = 10.0) -> None:
        self._exchange = Exchange(first_token_s=first_token_s, between_s=between_s, connect_s=connect_s)

    async def stream(self, call: Call, deployment: Deployment) -> AsyncIterator[Chunk]:
        """Ask the deployment and yield what it answers; text that arrived together is yielded together."""
        deployment = replace(deployment, base_url=self.address(deployment))
        exchange = self._exchange
        if call.operation == "embed":
            yield await self._embed(call, deployment)
            return
        if call.operation != "chat":
            raise Invalid(f"deployment {deployment.id!r} (Gemini) cannot do {call.operation!r}: choose another model")
        body = orjson.dumps(content_body(call, deployment))
        url = f"{self._model(deployment)}:streamGenerateContent?alt=sse"
        headers = await self._headers(deployment)
        with exchange.guard(deployment):
            async with await exchange.post(url, body, headers, deployment) as response:
                if response.status >= 300:
                    self._refused(response.status, deployment)
                    data = await exchange.refusal(response, deployment)
                    raise refused(response.status, data, deployment, wait_s(response))
                reading = Reading(deployment)
                with exchange.patience(response, deployment) as patience:
                    while data := await patience.next():
                        chunk = reading.take(data)
                        if chunk is not None:
                            yield chunk
                yield reading.end()

    async def close(self) -> None:
        """Close the connections that are kept open between calls."""
        await self._exchange.close()

    def address(self, deployment: Deployment) -> str:
        """Find where a deployment answers: its own `base_url`, or Google's public address."""
        return (deployment.base_url or _GEMINI).rstrip("/")

    def _model(self, deployment: Deployment) -> str:
        return f"{deployment.base_url}/{quote(model_path(deployment))}"

    async def _headers(self, deployment: Deployment) -> dict[str, str]:
        headers = {"content-type": "application/json"}
        if deployment.api_key:
            headers["x-goog-api-key"] = deployment.api_key
        return headers

    def _refused(self, status: int, deployment: Deployment) -> None:
        """Learn from a refusal what no message says; a key is not ours to renew."""

    def _embed_requests(self, call: Call, deployment: Deployment) -> tuple[str, list[JSON]]:
        return "batchEmbedContents", batch_embed_bodies(call, deployment)

    async def _embed(self, call: Call, deployment: Deployment) -> Chunk:
        action, bodies = self._embed_requests(call, deployment)
        url = f"{self._model(deployment)}:{action}"
        headers = await self._headers(deployment)

        async def one(body: JSON) -> Part:
            with self._exchange.guard(deployment):
                sending = self._exchange.post(url, orjson.dumps(body), headers, deployment)
                async with await sending as response:
                    if response.status >= 300:
                        self._refused(response.status, deployment)
                        data = await self._exchange.refusal(response, deployment)
                        raise refused(response.status, data, deployment, wait_s(response))
                    return embedded(await self._exchange.read(response, deployment), deployment)

        return await gather(call, deployment, bodies, one)


class VertexProvider(GeminiProvider):
    """Serves the same models from a project of Google Cloud, with tokens it renews by itself."""

    def __init__(
        self,
        *,
        first_token_s: float = 120.0,
        between_s: float = 60.0,
        connect_s: float = 10.0,
        tokens: GoogleTokens | None = None,
    ) -> None:
        super().__init__(first_token_s=first_token_s, between_s=between_s, connect_s=connect_s)
        self._tokens_exchange = Exchange(first_token_s=30.0, connect_s=connect_s)
        self._tokens = tokens or GoogleTokens(self._tokens_exchange)

    async def close(self) -> None:
        """Close the connections that are kept open between calls."""
        await super().close()
        await self._tokens_exchange.close()

    def address(self, deployment: Deployment) -> str:
        """Find where a deployment answers: its own `base_url`, or the public address of its location."""
        location = deployment.options["location"]
        if not _REGION.fullmatch(location):
            raise ProviderUnavailable(
                f"deployment {deployment.id!r} has the location {location!r}: write one of Google Cloud's, such as "
                "europe-west9, or global"
            )
        if location == "global":
            host = "aiplatform.googleapis.com"
        elif location in ("eu", "us"):
            host = f"aiplatform.{location}.rep.googleapis.com"
        else:
            host = f"{location}-aiplatform.googleapis.com"
        return (deployment.base_url or f"https://{host}/v1").rstrip("/")

    def _model(self, deployment: Deployment) -> str:
        options = deployment.options
        project = quote(options["project"], safe="")
        return (
            f"{deployment.base_url}/projects/{project}/locations/{options['location']}/{quote(model_path(deployment))}"
        )

    async def _headers(self, deployment: Deployment) -> dict[str, str]:
        if not deployment.options.get("service_account"):
            if not deployment.api_key:
                lacking = ProviderUnavailable(
                    f"deployment {deployment.id!r} has no credential: give it the option `service_account` (a JSON key "
                    "of Google Cloud, or the path to one) or an `api_key` in metier.yaml"
                )
                raise caused(lacking, "no_credential")
            return await super()._headers(deployment)
        token = await self._tokens.token(deployment)
        return {"content-type": "application/json", "authorization": f"Bearer {token}"}

    def _refused(self, status: int, deployment: Deployment) -> None:
        if status == 401 and deployment.options.get("service_account"):
            self._tokens.forget(deployment)

    def _embed_requests(self, call: Call, deployment: Deployment) -> tuple[str, list[JSON]]:
        return "predict", predict_bodies(call, deployment)
