"""The routes of the server, and the layer that every request passes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException as RoutingError
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmc import __version__
from llmc.serve.chat import ChatCompletions, no_template
from llmc.serve.chat_schema import ChatCompletion, ChatRequest, chat_request_type
from llmc.serve.completions import Completions
from llmc.serve.guard import Guard, limited
from llmc.serve.metrics import CONTENT_TYPE, ServerMetrics
from llmc.serve.page import page
from llmc.serve.refusals import BROKEN, Refused, printable
from llmc.serve.schema import (
    Completion,
    CompletionRequest,
    ErrorBody,
    ModelCard,
    ModelList,
    refusal_of,
    request_type,
)
from llmc.serve.served import ServedModel

Log = Callable[[str], object]
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
CLIENT_LEFT = 499  # nginx's status for a client that disconnected before the answer
Answers = dict[int | str, dict[str, Any]]
REFUSED: Answers = {
    "4XX": {"model": ErrorBody, "description": "The request is refused; the message says why."}
}
UNAVAILABLE: Answers = {
    503: {"model": ErrorBody, "description": "The engine has ended, or the server is stopping."}
}


def make_app(
    served: ServedModel,
    completions: Completions,
    chats: ChatCompletions,
    guard: Guard,
    metrics: ServerMetrics,
    *,
    log: Log,
) -> ASGIApp:
    """Return the application; ``log`` takes a line for each answer."""
    app = FastAPI(
        title="llmc",
        version=__version__,
        description="A model trained with llmc, for clients of OpenAI's API.",
        docs_url=None,
        redoc_url=None,
        responses=REFUSED,
        exception_handlers={
            Refused: _refuse,
            RequestValidationError: _invalid,
            RoutingError: _no_route,
            Exception: _fail,
        },
    )
    # The guard checks the key; this only publishes that there is one.
    keyed = [Depends(HTTPBearer(auto_error=False))] if guard.key is not None else []
    opened, needs_key = _open_routes(completions), _keyed_routes(served, completions, metrics)
    if chats.template is not None:
        _add_chat(needs_key, chats)
    else:
        needs_key.post("/v1/chat/completions", include_in_schema=False)(_refuse_chat)
    app.include_router(opened)
    app.include_router(needs_key, dependencies=keyed)
    routes = (*app.routes, *opened.routes, *needs_key.routes)
    paths = {path for route in routes if (path := getattr(route, "path", None))}
    guarded: ASGIApp = Guarded(app, guard)
    if guard.origins:
        guarded = CORSMiddleware(
            guarded,
            allow_origins=guard.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
        )
    return Front(guarded, metrics, log, paths)


def _open_routes(completions: Completions) -> APIRouter:
    """Return the routes that need no key."""
    routes = APIRouter()

    @routes.get("/", include_in_schema=False)
    async def show_page() -> HTMLResponse:
        return page()

    @routes.get("/health", responses=UNAVAILABLE, response_model=dict[str, str])
    async def health() -> Response:
        """Report whether the engine is running."""
        batch = completions.batch
        if batch.failure is None:
            return JSONResponse({"status": "ok"})
        refused, status = batch.dead(batch.failure), "restarting" if batch.recovers else "dead"
        return JSONResponse({"status": status, **refused.body}, 503, refused.headers)

    return routes


async def _refuse_chat() -> Response:
    raise no_template()


def _add_chat(routes: APIRouter, chats: ChatCompletions) -> None:
    """Add the route of a model that was trained on conversations."""

    async def chat(request: Request, asked: ChatRequest) -> Response:
        """Answer the last message of a conversation; with stream as server-sent events."""
        return await _unless_left(request, chats.answer(asked))

    chat.__annotations__["asked"] = chat_request_type(chats.model, chats.limits)
    _add_writing(routes, "/v1/chat/completions", "chat completions", chat, ChatCompletion)


def _add_writing(
    routes: APIRouter,
    path: str,
    name: str,
    write: Callable[..., Coroutine[Any, Any, Response]],
    whole: type[BaseModel],
) -> None:
    """Add an endpoint that writes texts; ``whole`` is its answer where it is not a stream."""
    answers: Answers = {200: {"model": whole, "content": {"text/event-stream": {}}}}
    routes.post(
        path,
        name=name,
        response_class=JSONResponse,
        response_model=None,
        responses=answers | UNAVAILABLE,
    )(write)


def _keyed_routes(
    served: ServedModel, completions: Completions, metrics: ServerMetrics
) -> APIRouter:
    """Return the routes that need the key, where there is one."""
    routes = APIRouter()
    card = ModelCard(id=served.name, created=int(time.time()))
    limits = completions.limits
    facts = served.facts(completions.batch.generator.ready) | {"max_tokens": limits.max_tokens}

    @routes.get("/v1/models")
    async def models() -> ModelList:
        """List the model."""
        return ModelList(data=[card])

    @routes.get("/v1/models/{model:path}")
    async def model(model: str) -> ModelCard:
        """Describe the model."""
        if model != served.name:
            raise completions.unknown(model)
        return card

    async def complete(request: Request, asked: CompletionRequest) -> Response:
        """Continue a prompt; with stream as server-sent events."""
        return await _unless_left(request, completions.answer(asked))

    complete.__annotations__["asked"] = request_type(served.name, limits)
    _add_writing(routes, "/v1/completions", "completions", complete, Completion)

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Return counters in Prometheus's text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @routes.get("/info")
    async def info() -> dict[str, Any]:
        """Describe the model, its training and the engine."""
        return facts

    @routes.get("/curves")
    def curves() -> dict[str, Any]:
        """Return the losses of the model's run."""
        return served.curves()

    return routes


class Guarded:
    """Answers the requests that the guard allows."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse one request."""
        headers = Headers(scope=scope)
        try:
            self._guard.check(scope["path"], headers)
            await self._app(scope, limited(receive, headers), send)
        except Refused as refused:
            await refused.response()(scope, receive, send)


class Front:
    """What stands before the application of the routes ``paths``: headers, counters, log."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics, log: Log, paths: set[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        started = time.monotonic()
        status = CLIENT_LEFT

        async def send_safely(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(SAFE_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        path = scope["path"]
        # The server drops the body of an answer to HEAD.
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        try:
            await self._app(inner, receive, send_safely)
        finally:
            seconds = time.monotonic() - started
            self._metrics.answered(self._route(path), status, seconds)
            client = scope["client"][0] if scope.get("client") else "-"
            line = f"{client} {scope['method']} {printable(path)} {status} {seconds * 1e3:.0f} ms"
            self._log(line)

    def _route(self, path: str) -> str:
        """Return the route of a path for the counters: one of few, whatever clients send."""
        if path.startswith("/v1/models/"):
            return "/v1/models/"
        return path if path in self._paths else "other"


async def _unless_left(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """Return the answer that ``work`` makes; cancel it if the client disconnects first."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else Response(status_code=CLIENT_LEFT)
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _refuse(_: Request, error: Refused) -> Response:
    return error.response()


async def _invalid(_: Request, error: RequestValidationError) -> Response:
    return refusal_of(error.errors()).response()


async def _no_route(request: Request, error: RoutingError) -> Response:
    status, place = error.status_code, printable(request.url.path)
    headers = dict(error.headers or {})
    message, code = error.detail, None
    if status == 404:
        message, code = f"Unknown request URL: {request.method} {place}", "unknown_url"
    elif status == 405:
        message = f"{place} does not support {request.method}"
        if headers.get("allow", headers.get("Allow")) == "GET":
            headers = {"Allow": "GET, HEAD"}
    elif status == 400:  # FastAPI cannot parse the body
        message = "The body is not valid JSON"
    return Refused(status, message, code=code, headers=headers).response()


async def _fail(_: Request, error: Exception) -> Response:
    message = "This is a bug in llmc; the server's terminal has more"
    return Refused(500, message, kind=BROKEN).response()
