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
from metier.api.corrections import correction_routes
from metier.api.deliveries import delivery_routes
from metier.api.endpoint import Endpoint
from metier.api.files import FilesPages
from metier.api.frame import Frame
from metier.api.image import Images
from metier.api.messages import Messages, Speaking
from metier.api.metrics import MetricsPage
from metier.api.openai import ChatCompletions, Embeddings, Models
from metier.api.rerank import Rerank
from metier.api.resources import Alive, Ready
from metier.api.responses import Responding, Responses
from metier.api.runs import RunServices, run_routes
from metier.api.surface import Surface
from metier.api.task_links import LinkKeys, LinkServices, link_routes
from metier.api.tasks import task_routes
from metier.api.traced import Traced
from metier.api.transcription import Transcriptions
from metier.api.transfer import Transfer
from metier.api.welcome import Welcome
from metier.batches import Batches
from metier.connectors.deliveries import Deliveries
from metier.gateway import Gateway
from metier.record.responses import StoredResponses
from metier.workflow.review import Review

__all__ = ["AppServices", "Watch", "application", "routes"]


class AppServices(RunServices, LinkServices, Protocol):
    """What the surface needs of the platform."""

    @property
    def keys(self) -> LinkKeys:
        """Who is calling, and who is in which group."""
        ...

    @property
    def gateway(self) -> Gateway:
        """The road every call takes."""
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
    def review(self) -> Review:
        """The tasks that wait for people."""
        ...

    @property
    def deliveries(self) -> Deliveries:
        """The effects of which nobody knows whether they were done."""
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
    pages: str | None = None
    """Where the pages for people begin; None where there are none."""


def routes(app: AppServices, watch: Watch | None = None) -> list[BaseRoute]:
    """List the paths of the API."""
    watch = watch or Watch()
    chat, images = ChatCompletions(app.gateway), Images(app.gateway)
    embeddings, rerank, sounds = Embeddings(app.gateway), Rerank(app.gateway), Transcriptions(app.gateway)
    models = Endpoint(Surface(app.keys, "models"), Models(lambda: app.catalog).answer)
    metrics = MetricsPage(
        Surface(app.keys, "metrics"), watch.exposition, everybody=watch.everybody, behind_proxy=watch.behind_proxy
    )
    return [
        Route("/v1/chat/completions", Endpoint(Surface(app.keys, "chat"), chat.answer), methods=["POST"]),
        *_response_routes(app),
        Route("/v1/embeddings", Endpoint(Surface(app.keys, "embeddings"), embeddings.answer), methods=["POST"]),
        *_message_routes(app),
        Route("/v1/rerank", Endpoint(Surface(app.keys, "rerank"), rerank.answer), methods=["POST"]),
        Route("/v1/audio/transcriptions", Endpoint(Surface(app.keys, "audio"), sounds.answer), methods=["POST"]),
        Route("/v1/images/generations", Endpoint(Surface(app.keys, "images"), images.answer), methods=["POST"]),
        *_batch_routes(app),
        *task_routes(app),
        *link_routes(app),
        *delivery_routes(app),
        *correction_routes(app),
        *run_routes(app),
        Route("/v1/models", models, methods=["GET"]),
        Route("/v1/models/{name:path}", models, methods=["GET"]),
        Route("/", Welcome(Surface(app.keys, "models"), watch.pages), methods=["GET"]),
        Route("/healthz", Alive(), methods=["GET"]),
        Route("/readyz", Ready(app.ready, watch.remarks), methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
    ]


def _response_routes(app: AppServices) -> list[BaseRoute]:
    keys, made = Surface(app.keys, "responses"), Responses(app.gateway, app.responses)
    one = "/v1/responses/{id}"
    return [
        Route("/v1/responses", Endpoint(keys, made.answer, Responding), methods=["POST"]),
        Route(one, Endpoint(keys, made.kept, Responding), methods=["GET", "DELETE"]),
        Route(f"{one}/input_items", Endpoint(keys, made.input_items, Responding), methods=["GET"]),
        Route(f"{one}/cancel", Endpoint(keys, made.cancel, Responding), methods=["POST"]),
    ]


def _message_routes(app: AppServices) -> list[BaseRoute]:
    keys, messages = Surface(app.keys, "messages"), Messages(app.gateway)
    return [
        Route("/v1/messages", Endpoint(keys, messages.answer, Speaking), methods=["POST"]),
        Route("/v1/messages/count_tokens", Endpoint(keys, messages.count, Speaking), methods=["POST"]),
    ]


def _batch_routes(app: AppServices) -> list[BaseRoute]:
    keys, files = Surface(app.keys, "batches"), FilesPages(app.batches.files)
    made = batches.BatchesPages(app.batches, tuple(batches.surfaces(app.responses)))
    return [
        Route("/v1/files", Endpoint(keys, files.several, Transfer), methods=["GET", "POST"]),
        Route("/v1/files/{id}", Endpoint(keys, files.one, Transfer), methods=["GET", "DELETE"]),
        Route("/v1/files/{id}/content", Endpoint(keys, files.content, Transfer), methods=["GET"]),
        Route("/v1/batches", Endpoint(keys, made.several, Transfer), methods=["GET", "POST"]),
        Route("/v1/batches/{id}", Endpoint(keys, made.one, Transfer), methods=["GET"]),
        Route("/v1/batches/{id}/cancel", Endpoint(keys, made.cancel, Transfer), methods=["POST"]),
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
    path = request.url.path
    told = (error.status_code == 404 and _instead(path, request.app.routes)) or "the paths are listed in the reference"
    text = f"{request.method} {path[:200]!r}: {error.detail}; {told}"
    data = failures.plain_body(error.status_code, text, "not_found" if error.status_code == 404 else "mistaken")
    return Response(data, error.status_code, error.headers, "application/json")


def _instead(path: str, listed: Sequence[BaseRoute]) -> str | None:
    """Say what was probably meant by a path that is none: a base URL set wrong, or a path of another gateway."""
    known = {route.path for route in listed if isinstance(route, Route)}
    if path.removeprefix("/v1") in known and path.startswith("/v1/v1/"):
        return f"the path is {path.removeprefix('/v1')!r}: set the base URL of Anthropic's clients without /v1"
    if f"/v1{path}" in known:
        return f"the path is '/v1{path}': set the base URL of OpenAI's clients with /v1 at its end"
    if path in ("/v1/completions", "/completions"):
        return "completions without turns are not offered: send messages to '/v1/chat/completions'"
    if path.startswith("/health"):
        return "/readyz says whether calls can be served, /healthz that the process answers"
    return None
