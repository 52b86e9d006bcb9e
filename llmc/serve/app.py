"""The routes, and what every answer has in common."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmc.serve.completions import Completions
from llmc.serve.guard import Guard, read_body
from llmc.serve.metrics import CONTENT_TYPE, Metrics
from llmc.serve.openapi import document
from llmc.serve.page import page
from llmc.serve.parameters import parameters
from llmc.serve.refusals import BROKEN, Refused
from llmc.serve.request import parse
from llmc.serve.subject import ServedModel

T = TypeVar("T")
Log = Callable[[str], object]
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


def make_app(
    subject: ServedModel, completions: Completions, guard: Guard, metrics: Metrics, log: Log
) -> ASGIApp:
    """Return the application: the routes inside of what guards and counts them.

    Args:
        subject: what is served.
        completions: what writes.
        guard: who may ask.
        metrics: what counts.
        log: told of every answer.
    """
    began = int(time.time())
    batch, limits = completions.batch, completions.limits
    known = parameters(subject.name, limits)
    published = document(known, subject.name, with_key=guard.key is not None)
    facts = subject.facts(batch.generator.ready) | {"max_tokens": limits.max_tokens}
    model = {"id": subject.name, "object": "model", "created": began, "owned_by": "llmc"}

    async def show_page(_: Request) -> Response:
        return page()

    async def show_models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model]})

    async def show_model(request: Request) -> Response:
        if (name := request.path_params["model"]) != subject.name:
            raise Refused(
                404,
                f"The model '{name[:120]}' does not exist: this server has '{subject.name}'",
                code="model_not_found",
                param="model",
            )
        return JSONResponse(model)

    async def complete(request: Request) -> Response:
        asked = parse(await read_body(request), known, limits)
        answer = await unless_left(request, completions.answer(asked))
        return answer if answer is not None else Response(status_code=499)

    async def show_health(_: Request) -> Response:
        dead = batch.failure
        if dead is None:
            return JSONResponse({"status": "ok"})
        why = Refused(503, f"The engine has ended: {dead}", kind=BROKEN)
        return JSONResponse({"status": "dead", **why.body}, why.status)

    async def show_metrics(_: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    async def show_document(_: Request) -> Response:
        return JSONResponse(published)

    async def show_facts(_: Request) -> Response:
        return JSONResponse(facts)

    async def show_curves(_: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(subject.curves))

    routes = [
        Route("/", show_page),
        Route("/v1/models", show_models),
        Route("/v1/models/{model:path}", show_model),
        Route("/v1/completions", complete, methods=["POST"]),
        Route("/health", show_health),
        Route("/metrics", show_metrics),
        Route("/openapi.json", show_document),
        Route("/info", show_facts),
        Route("/curves", show_curves),
    ]
    handlers: dict[Any, Any] = {
        Refused: _refuse,
        HTTPException: _no_route,
        Exception: _fail,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    return Front(app, guard, metrics, log, {route.path for route in routes})


class Front:
    """What every request goes through: the guard before it, headers and counting after it."""

    def __init__(
        self, app: ASGIApp, guard: Guard, metrics: Metrics, log: Log, paths: set[str]
    ) -> None:
        """Stand before ``app``."""
        self._app = app
        self._guard = guard
        self._metrics = metrics
        self._log = log
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        began = time.monotonic()
        status = 499  # as nginx says where nobody waited for the answer

        async def send_safely(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SAFE_HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        path = scope["path"]
        try:
            try:
                self._guard.check(path, Headers(scope=scope))
            except Refused as refused:
                await _answer(refused)(scope, receive, send_safely)
            else:
                await self._app(scope, receive, send_safely)
        finally:
            seconds = time.monotonic() - began
            route = (
                path
                if path in self._paths
                else "/v1/models/"
                if path.startswith("/v1/models/")
                else "other"
            )
            self._metrics.answered(route, status, seconds)
            client = scope["client"][0] if scope.get("client") else "-"
            shown = "".join(c if c.isprintable() else "?" for c in path[:200])
            self._log(f"{client} {scope['method']} {shown} {status} {seconds * 1e3:.0f} ms")


async def unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """Return what comes of ``work``; cancel it and return None where the client leaves first."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for waiting in (task, gone):
            waiting.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _left(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _answer(refused: Refused) -> JSONResponse:
    return JSONResponse(refused.body, refused.status, refused.headers)


async def _refuse(_: Request, refused: Refused) -> Response:
    return _answer(refused)


async def _no_route(request: Request, error: HTTPException) -> Response:
    shown = "".join(c if c.isprintable() else "?" for c in request.url.path[:200])
    words = {
        404: f"Unknown request URL: {request.method} {shown}",
        405: f"{request.method} is not what {shown} answers to",
    }
    refused = Refused(
        error.status_code,
        words.get(error.status_code, error.detail),
        code="unknown_url" if error.status_code == 404 else None,
        headers=dict(error.headers or {}),
    )
    return _answer(refused)


async def _fail(_: Request, error: Exception) -> Response:
    return _answer(
        Refused(500, "This is a bug in llmc; the server's terminal tells more", kind=BROKEN)
    )
