"""The routes: OpenAI's, and ours beside them.

Bodies are read and checked by our own means, so that every error has OpenAI's shape and names its field.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cascade.serving.answering import reply_in_pieces, reply_whole
from cascade.serving.completions import Chat, Completions, Shape
from cascade.serving.errors import ApiError
from cascade.serving.json_body import drain, parse_object, read_body
from cascade.serving.openapi import openapi
from cascade.serving.origins import check_json
from cascade.serving.overview import overview, samples
from cascade.serving.page import read_page
from cascade.serving.passing import UNKNOWN, all_remote, beyond, pass_through
from cascade.serving.protocol import IGNORED, UNSUPPORTED, ChatRequest, CompletionRequest, extra_of, parse_request
from cascade.serving.questions import Asked, unknown_model
from cascade.serving.replies import to_json
from cascade.serving.responses import (
    RESPONSES_IGNORED,
    RESPONSES_UNSUPPORTED,
    Responses,
    ResponsesRequest,
    of_input,
    parse_responses,
)
from cascade.serving.service import Service, not_ready

HEALTH_PATHS = frozenset({"/healthz", "/readyz"})
"""What is asked by whatever address a machine is reached: they say nothing but a word."""

OPEN_PATHS = frozenset({"/", *HEALTH_PATHS})
"""What needs no key: the page holds nothing but itself, and asks for one where the server does."""

ROUTES = frozenset(
    {
        *OPEN_PATHS,
        "/metrics",
        "/openapi.json",
        "/v1/models",
        "/v1/cascade",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
    }
)
_GET = ["GET", "HEAD"]


def json_response(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A reply in JSON."""
    return Response(to_json(value), status, headers, "application/json")


def error_response(error: ApiError) -> Response:
    """An error as a reply."""
    return json_response(error.body, error.status, error.headers)


class TooLarge(Response):
    """The refusal of a body that is too large, after which the rest of it is read for a while, and thrown away.

    A connection that is closed while more is on its way is reset, and the client loses the refusal with it.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        await drain(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def create_app(service: Service) -> ASGIApp:
    """The application of one service, which has to be started by itself."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.api_route("/", methods=_GET)
    def page(request: Request) -> Response:
        text, headers = read_page()
        return HTMLResponse(text, headers=headers)

    @app.api_route("/healthz", methods=_GET)
    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    @app.api_route("/readyz", methods=_GET)
    async def readyz(request: Request) -> Response:
        if not service.ready:
            raise not_ready()
        return PlainTextResponse("ready\n")

    @app.api_route("/metrics", methods=_GET)
    async def metrics(request: Request) -> Response:
        text = service.metrics.page(service.batcher.waiting, service.batcher.under_way)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    @app.get("/openapi.json")
    async def document(request: Request) -> Response:
        return json_response(openapi(service))

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        names = dict.fromkeys((service.cascade.name, *service.cascade.names))
        return json_response({"object": "list", "data": [_model(service, name) for name in names]})

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> Response:
        if name not in (service.cascade.name, *service.cascade.names):
            raise unknown_model(name, service.cascade)
        return json_response(_model(service, name))

    @app.get("/v1/cascade")
    async def cascade(request: Request) -> Response:
        questions = await asyncio.to_thread(samples, service.cascade)
        return json_response(overview(service, questions))

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        id = f"chatcmpl-{uuid.uuid4().hex}"
        found = await _read(service, request, _CHAT)
        if isinstance(found, Response):
            return found
        asked = await service.ask(found[0], id, found[1])
        return await _answer(service, request, found[0], Chat(found[0], asked), id, asked)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        id = f"cmpl-{uuid.uuid4().hex}"
        found = await _read(service, request, _COMPLETION)
        if isinstance(found, Response):
            return found
        asked = await service.ask(found[0], id, found[1])
        return await _answer(service, request, found[0], Completions(found[0], asked), id, asked)

    @app.post("/v1/responses")
    async def responses(request: Request) -> Response:
        id = f"resp_{uuid.uuid4().hex}"
        found = await _read(service, request, _RESPONSES)
        if isinstance(found, Response):
            return found
        try:
            chat = found[0].as_chat()
            asked = await service.ask(chat, id, found[1])
            return await _answer(service, request, chat, Responses(found[0], asked), id, asked)
        except ApiError as error:
            raise of_input(error) from None

    @app.exception_handler(ApiError)
    async def told(request: Request, error: ApiError) -> Response:
        _log_of(request)["error"] = error.code or error.kind
        if error.status == 413:
            return TooLarge(to_json(error.body), error.status, error.headers, "application/json")
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> Response:
        method, path = request.method, request.url.path[:200]
        if error.status_code == 405:
            message = f"Expected another method for {path}, but got {method}"
            found = ApiError(405, message, code="method_not_allowed", headers=dict(error.headers or {}))
        elif error.status_code == 404:
            found = ApiError(404, f"Unknown request URL: {method} {path}", code="unknown_url")
        else:
            found = ApiError(error.status_code, str(error.detail))
        return error_response(found)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        return error_response(
            ApiError(500, "The server failed; its log says why", code="internal_error", kind="server_error")
        )

    return Front(app, service)


async def _body(service: Service, request: Request) -> dict[str, Any]:
    """The object in a body; where nothing is accepted none is read."""
    if not service.ready:
        raise not_ready()
    check_json(request.headers)
    body = parse_object(await read_body(request, service.limits.body))
    known = body.get("model") in (service.cascade.name, *service.cascade.names)
    _log_of(request)["model"] = body["model"] if known else None  # any text may stand there
    return body


class _Kind(NamedTuple):
    """What one of the asking routes takes: how its bodies are read, and which of their fields are known."""

    parse: Callable[[dict[str, Any], bool], Any]
    known: frozenset[str]
    unsupported: Mapping[str, tuple[Any, ...]]
    ignored: frozenset[str] = IGNORED


_CHAT = _Kind(partial(parse_request, ChatRequest), frozenset(ChatRequest.model_fields), UNSUPPORTED)
_COMPLETION = _Kind(partial(parse_request, CompletionRequest), frozenset(CompletionRequest.model_fields), UNSUPPORTED)
_RESPONSES = _Kind(
    parse_responses,
    frozenset(ResponsesRequest.model_fields),
    RESPONSES_UNSUPPORTED,
    IGNORED | RESPONSES_IGNORED,
)


async def _read(service: Service, request: Request, kind: _Kind) -> tuple[Any, dict[str, Any]] | Response:
    """A request and what endpoints get beside; or an endpoint's reply, where the cascade could not judge one."""
    body = await _body(service, request)
    remote = all_remote(service, body.get("model"))
    if reason := beyond(body, kind.known, kind.unsupported, kind.ignored):
        path = request.url.path.removeprefix("/v1")
        if not (reason == UNKNOWN and remote) and (
            reply := await pass_through(service, request, body, path, reason, _log_of(request))
        ):
            return reply
    found = kind.parse(body, remote)
    return found, extra_of(body, {*kind.known, *kind.unsupported, *kind.ignored}, remote)


async def _answer(
    service: Service, request: Request, wanted: ChatRequest | CompletionRequest, shape: Shape, id: str, asked: Asked
) -> Response:
    log = _log_of(request)
    if wanted.stream:
        return await reply_in_pieces(service, shape, asked, id, log, request, bool(wanted.options.trace))
    return await reply_whole(service, shape, asked, id, log, request)


def _model(service: Service, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": service.created, "owned_by": "confidence-cascade"}


def _log_of(request: Request) -> dict[str, Any]:
    found: dict[str, Any] = request.scope["cascade.log"]
    return found


class Front:
    """In front of every route: hosts, keys, the request's id, its line in the log, and the last net under all errors.

    Args:
        app: The routes.
        service: Theirs.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, id = time.perf_counter(), f"req_{uuid.uuid4().hex}"
        log: dict[str, Any] = {}
        scope["cascade.log"] = log
        status = 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", id.encode())]
            await send(message)

        try:
            self._check(scope["path"], Headers(scope=scope))
            await self.app(scope, receive, sent)
        except ApiError as error:
            log["error"] = error.code
            await error_response(error)(scope, receive, sent)
        except Exception as error:
            self.service.log.error("bug", error, id=id)  # the client has been told by `unforeseen`
        finally:
            path = scope["path"] if scope["path"] in ROUTES or scope["path"].startswith("/v1/models/") else "other"
            self.service.metrics.request("/v1/models/{id}" if path.startswith("/v1/models/") else path, status)
            seconds = round(time.perf_counter() - started, 6)
            self.service.log.write("request", id=id, path=path, status=status, seconds=seconds, **log)

    def _check(self, path: str, headers: Headers) -> None:
        """Refuses, with an `ApiError`, whom no route has to see."""
        if path not in HEALTH_PATHS:
            self.service.origins.check_host(headers)
        if path not in OPEN_PATHS:
            self.service.origins.check_page(headers)
            if not self.service.admits(headers.get("authorization")):
                raise _no_key()


def _no_key() -> ApiError:
    message = "Expected a valid API key as `Authorization: Bearer KEY`, but got none or another one"
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
