"""Azure OpenAI: the same API under the addresses of a resource, with a key of its own or a token of Entra ID."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from metier.calls import Operation
from metier.catalog import Deployment
from metier.errors import ProviderUnavailable
from metier.providers.cause import caused
from metier.providers.entra import Entra
from metier.providers.exchange import Exchange
from metier.providers.openai import Dialect
from metier.providers.openai_request import OPENAI, Words, cannot

__all__ = ["AzureDialect"]

_PATHS: Final[Mapping[Operation, str]] = {
    "chat": "chat/completions",
    "embed": "embeddings",
    "transcribe": "audio/transcriptions",
    "image": "images/generations",
}


class AzureDialect(Dialect):
    """Addresses the deployments of one or several Azure OpenAI resources."""

    def __init__(self, exchange: Exchange | None = None, entra: Entra | None = None) -> None:
        self._exchange = exchange or Exchange(first_token_s=30.0)
        self._entra = entra or Entra(self._exchange)

    def words(self, deployment: Deployment) -> Words:
        """Tell what the server calls things."""
        return OPENAI

    def url(self, operation: Operation, deployment: Deployment) -> str:
        """Give the address of an operation: by dated version, or the v1 address where no version is declared."""
        if deployment.base_url is None:
            homeless = ProviderUnavailable(
                f"deployment {deployment.id!r} has no address: give it the `base_url` of its resource, such as "
                "https://NAME.openai.azure.com"
            )
            raise caused(homeless, "no_address")
        if operation not in _PATHS:
            raise cannot(deployment, f"a {operation}", "model", "Azure OpenAI has no such operation")
        base = deployment.base_url.rstrip("/").removesuffix("/v1").removesuffix("/openai")
        version = deployment.options.get("api_version", "v1")
        if version == "v1":
            return f"{base}/openai/v1/{_PATHS[operation]}"
        name = quote(deployment.model_id, safe="")
        return f"{base}/openai/deployments/{name}/{_PATHS[operation]}?api-version={quote(version, safe='')}"

    async def headers(self, deployment: Deployment) -> dict[str, str]:
        """Give the key of the resource, or else a token of Entra ID."""
        if deployment.api_key:
            return {"api-key": deployment.api_key}
        return {"authorization": f"Bearer {await self._entra.token(deployment)}"}

    def refused(self, status: int, deployment: Deployment) -> None:
        """Forget a token that the resource does not take."""
        if status == 401 and not deployment.api_key:
            self._entra.forget(deployment)

    async def close(self) -> None:
        """Close the connections to Entra ID."""
        await self._exchange.close()
