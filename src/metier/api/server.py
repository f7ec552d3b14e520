"""The HTTP application: paths and names, nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Lifespan

from metier.api import batches, failures
from metier.api.files import FileContent, OneFile, SeveralFiles
from metier.api.frame import Frame
from metier.api.image import Images
from metier.api.messages import CountTokens, Messages
from metier.api.metrics import MetricsPage
from metier.api.openai import ChatCompletions, Embeddings, Models
from metier.api.rerank import Rerank
from metier.api.resources import Alive, Ready
from metier.api.responses import CancelResponse, InputItems, KeptResponse, Responses
from metier.api.surface import Door, Surface
from metier.api.traced import Traced
from metier.api.transcription import Transcriptions
from metier.batches import Batches
from metier.catalog import Catalog
from metier.gateway import Gateway
from metier.record.responses import StoredResponses

__all__ = ["AppServices", "Watch", "application", "routes"]


class AppServices(Protocol):
    """What the surface needs of the platform."""

    @property
    def gateway(self) -> Gateway:
        """The road every call takes."""
        ...

    @property
    def keys(self) -> Door:
        """Who is calling."""
        ...

    @property
    def responses(self) -> StoredResponses:
        """What is kept for clients of the Responses API."""
        ...

    @property
    def batches(self) -> Batches:
        """Files, and the batches made of them."""
        ...

    @property
    def catalog(self) -> Catalog:
        """The models a client may name."""
        ...

    async def ready(self) -> Mapping[str, bool]:
        """Tell, part by part, whether calls can be served now."""
        ...


async def _nothing() -> bytes:
    return b""


@dataclass(frozen=True, slots=True)
class Watch:
    """What those who run the platform may see of it."""

    exposition: Callable[[], Awaitable[bytes]] = _nothing
    """Gives the metrics of this node."""
    remarks: Callable[[], Mapping[str, object]] = dict
    """What /readyz adds although calls are served."""
    everybody: bool = False
    """Metrics are for whoever reaches the port."""
    behind_proxy: bool = False
    """Requests come through a proxy: that one comes from this machine says nothing."""
    traced: bool = False
    """Keep the header `traceparent` of requests."""


def routes(app: AppServices, watch: Watch | None = None) -> list[BaseRoute]:
    """List the paths of the API."""
    watch = watch or Watch()
    chat, messages = Surface(app.keys, "chat"), Surface(app.keys, "messages")
    responses = Surface(app.keys, "responses")
    models = Models(lambda: app.catalog, Surface(app.keys, "models"))
    metrics = MetricsPage(
        Surface(app.keys, "metrics"), watch.exposition, everybody=watch.everybody, behind_proxy=watch.behind_proxy
    )
    return [
        Route("/v1/chat/completions", ChatCompletions(app.gateway, chat), methods=["POST"]),
        Route("/v1/responses", Responses(app.gateway, responses, app.responses), methods=["POST"]),
        Route("/v1/responses/{id}", KeptResponse(responses, app.responses), methods=["GET", "DELETE"]),
        Route("/v1/responses/{id}/input_items", InputItems(responses, app.responses), methods=["GET"]),
        Route("/v1/responses/{id}/cancel", CancelResponse(responses, app.responses), methods=["POST"]),
        Route("/v1/embeddings", Embeddings(app.gateway, Surface(app.keys, "embeddings")), methods=["POST"]),
        Route("/v1/messages", Messages(app.gateway, messages), methods=["POST"]),
        Route("/v1/messages/count_tokens", CountTokens(app.gateway, messages), methods=["POST"]),
        Route("/v1/rerank", Rerank(app.gateway, Surface(app.keys, "rerank")), methods=["POST"]),
        Route("/v1/audio/transcriptions", Transcriptions(app.gateway, Surface(app.keys, "audio")), methods=["POST"]),
        Route("/v1/images/generations", Images(app.gateway, Surface(app.keys, "images")), methods=["POST"]),
        *_batch_routes(app),
        Route("/v1/models", models, methods=["GET"]),
        Route("/v1/models/{name:path}", models, methods=["GET"]),
        Route("/healthz", Alive(), methods=["GET"]),
        Route("/readyz", Ready(app.ready, watch.remarks), methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
    ]


def _batch_routes(app: AppServices) -> list[BaseRoute]:
    keys, files = Surface(app.keys, "batches"), app.batches.files
    several = batches.SeveralBatches(app.batches, keys, tuple(batches.surfaces(app.responses)))
    return [
        Route("/v1/files", SeveralFiles(files, keys), methods=["GET", "POST"]),
        Route("/v1/files/{id}", OneFile(files, keys), methods=["GET", "DELETE"]),
        Route("/v1/files/{id}/content", FileContent(files, keys), methods=["GET"]),
        Route("/v1/batches", several, methods=["GET", "POST"]),
        Route("/v1/batches/{id}", batches.OneBatch(app.batches, keys), methods=["GET"]),
        Route("/v1/batches/{id}/cancel", batches.CancelBatch(app.batches, keys), methods=["POST"]),
    ]


def application(
    app: AppServices,
    more: Sequence[BaseRoute] = (),
    lifespan: Lifespan[Starlette] | None = None,
    watch: Watch | None = None,
) -> Starlette:
    """Make the ASGI application; `more` are the paths of other surfaces, the console's for one."""
    traced = [Middleware(Traced)] if watch is not None and watch.traced else []
    listed = routes(app, watch)
    return Starlette(
        routes=[*listed, *more],
        middleware=[*traced, Middleware(Frame, posts=_posts(listed))],
        exception_handlers={HTTPException: _http_fault},
        lifespan=lifespan,
    )


def _posts(listed: Sequence[BaseRoute]) -> dict[str, ASGIApp]:
    """What answers a POST to each path without a variable part: it needs no search through the list."""
    whole = [route for route in listed if isinstance(route, Route) and "{" not in route.path]
    return {route.path: route.app for route in whole if "POST" in (route.methods or ())}


async def _http_fault(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = f"{request.method} {request.url.path[:200]!r}: {error.detail}; the paths are listed in the reference"
    data = failures.plain_body(error.status_code, text, "not_found" if error.status_code == 404 else "mistaken")
    return Response(data, error.status_code, error.headers, "application/json")
