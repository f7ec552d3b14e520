"""The providers that come with the platform, by the name a deployment gives."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

from metier.providers.anthropic import AnthropicProvider
from metier.providers.azure import AzureDialect
from metier.providers.base import Provider
from metier.providers.bedrock import BedrockProvider
from metier.providers.gemini import GeminiProvider, VertexProvider
from metier.providers.local import Local
from metier.providers.openai import MistralDialect, OpenAIProvider

__all__ = ["built_in"]


def built_in(home: pathlib.Path, loading: Callable[[str, float], None]) -> dict[str, Provider]:
    """Make one provider of each kind; `loading` is told while a local model is being loaded."""
    return {
        "anthropic": AnthropicProvider(),
        "openai": OpenAIProvider(),
        "azure": OpenAIProvider(AzureDialect()),
        "bedrock": BedrockProvider(),
        "gemini": GeminiProvider(),
        "vertex": VertexProvider(),
        "mistral": OpenAIProvider(MistralDialect()),
        "local": Local(home, OpenAIProvider(first_token_s=600), loading=loading),
    }
