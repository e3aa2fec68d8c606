"""The show as a web page: MJPEG for the picture, server-sent events for the figures, POST for the controls.

    GET  /  app.js  style.css  icon.svg   the page; nothing else of the disk can be asked for
    GET  /stream                          multipart/x-mixed-replace, one JPEG a frame, encoded once for all viewers
    GET  /figures                         text/event-stream, `show.Figures` as JSON
    GET  /snapshot.png                    the picture as it is
    POST /controls                        JSON for `Show.change`

A viewer that reads slowly is sent the newest picture whenever it has read the last: it loses pictures, nobody waits for
it. What it has not read of older ones is bounded by the socket's buffer.

Who may style: without a token those on this machine, otherwise those who came once with `/?token=...`; that leaves a
cookie, which is not the token. The Host header has to be an address or a name of this machine, so that a stranger's
page cannot reach it under a name of its own, and what changes something has to come from the page itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import json
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from refinenet_edge.demo.show import Figures, Show
from refinenet_edge.errors import InputError, RefineNetEdgeError
from refinenet_edge.opencv import cv2
from refinenet_edge.records import Frame

ASSETS = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
COOKIE = "refinenet_edge"
SHORTEST_TOKEN = 12  # characters
MAX_BODY = 4096  # bytes, of a POST
MAX_CONNECTIONS = 64
WIDEST = 1280  # pixels: larger pictures are sent smaller
QUALITY = 80  # of the JPEG
BUFFER = 256 * 1024  # bytes on their way to a viewer: a few pictures
SNAPSHOT_WAIT = 5.0  # seconds
PATIENCE = 0.3  # seconds that viewers get to read what is on its way, in the end
LEAVE = 2.0  # seconds that the server gets to end
BOUNDARY = b"--picture\r\n"


class Web:
    """A `View` that serves `show` at `address` until it is closed."""

    def __init__(self, show: Show, host: str = "127.0.0.1", port: int = 0, token: str | None = None) -> None:
        """Listen at once; port 0 takes a free one. Raises `InputError` when it cannot, or `token` is too short.

        On a host that others can reach without a `token` one is made.
        """
        local = _is_loopback(host)
        if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
            raise InputError(f"a token has {SHORTEST_TOKEN} or more ASCII characters: leave it out, and one is made")
        token = token or (None if local else secrets.token_urlsafe(24))
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family)
        except (OSError, OverflowError) as exc:
            raise InputError(f"{host} port {port} cannot be listened on: {exc}; name another with --port") from exc
        # connections inherit it: the fewer pictures are on their way, the newer is what a slow viewer sees
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self.port = int(self._socket.getsockname()[1])
        seen_as = _reachable(host)
        name = f"[{seen_as}]" if ":" in seen_as else seen_as
        self.address = f"http://{name}:{self.port}/" + (f"?token={token}" if token else "")
        self._show = show
        self._viewers = 0
        self._picture: Frame | None = None
        self._part, self._number = b"", 0
        self._event, self._news = b"", 0
        self._closed = False
        self._last: Figures | None = None
        routes = [
            *(Route(path, _asset(*asset)) for path, asset in ASSETS.items()),
            Route("/stream", self._stream),
            Route("/figures", self._figures),
            Route("/snapshot.png", self._snapshot),
            Route("/controls", self._controls, methods=["POST"]),
        ]
        app = _Guard(Starlette(routes=routes), {host, socket.gethostname()}, token)
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,  # it would hold the token
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="web", daemon=True)
        self._thread.start()
        self._ready.wait(LEAVE)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._ready.set()
        await self._server.serve(sockets=[self._socket])

    # --- View: called by the show's thread

    def wanted(self) -> bool:
        return self._viewers > 0

    def show(self, picture: Frame | None, figures: Figures) -> None:
        part = _part(picture) if picture is not None else b""
        event = b""
        if figures is not self._last:
            self._last = figures
            event = b"data: " + json.dumps(dataclasses.asdict(figures)).encode() + b"\n\n"
        if part or event:
            self._call(lambda: self._publish(picture, part, event))

    def close(self) -> None:
        """End all connections and the server; a second call does nothing."""
        self._call(self._finish)
        self._server.should_exit = True
        self._thread.join(LEAVE)
        self._socket.close()

    def _call(self, function: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function)

    # --- in the server's thread

    def _publish(self, picture: Frame | None, part: bytes, event: bytes) -> None:
        if part:
            self._picture, self._part, self._number = picture, part, self._number + 1
        if event:
            self._event, self._news = event, self._news + 1
        self._wake()

    def _finish(self) -> None:
        self._closed = True
        self._wake()
        self._loop.call_later(PATIENCE, self._cut_off)

    def _cut_off(self) -> None:
        """End the connections whose viewers do not read what is on its way."""
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()

    def _wake(self) -> None:
        woken, self._changed = self._changed, asyncio.Event()
        woken.set()

    @contextlib.contextmanager
    def _looking(self) -> Iterator[None]:
        self._viewers += 1
        self._show.wake()
        try:
            yield
        finally:
            self._viewers -= 1

    async def _stream(self, request: Request) -> Response:
        return StreamingResponse(self._pictures(), media_type="multipart/x-mixed-replace; boundary=picture")

    async def _pictures(self) -> AsyncIterator[bytes]:
        with self._looking():
            number = self._number
            yield BOUNDARY
            while not self._closed:
                await self._newer(number)
                if number != self._number:
                    number = self._number
                    yield self._part

    async def _figures(self, request: Request) -> Response:
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def _events(self) -> AsyncIterator[bytes]:
        news = 0
        while not self._closed:
            if news == self._news:
                await self._changed.wait()
            else:
                news = self._news
                yield self._event

    async def _snapshot(self, request: Request) -> Response:
        with self._looking():
            number = self._number
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._newer(number), SNAPSHOT_WAIT)
        if self._picture is None or number == self._number:
            return PlainTextResponse("there is no picture yet\n", 503)
        png = await asyncio.to_thread(cv2.imencode, ".png", self._picture)
        named = {"Content-Disposition": 'attachment; filename="refinenet-edge.png"'}
        return Response(png[1].tobytes(), media_type="image/png", headers=named)

    async def _newer(self, number: int) -> None:
        """Until there is another picture, or the end."""
        while number == self._number and not self._closed:
            await self._changed.wait()

    async def _controls(self, request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                return PlainTextResponse(f"at most {MAX_BODY} bytes\n", 413)
        try:
            asked = json.loads(body)
            if not isinstance(asked, dict):
                raise InputError("an object of what is to change is meant")
            self._show.change(asked)
        except (ValueError, RecursionError, InputError) as exc:
            said = str(exc) if isinstance(exc, RefineNetEdgeError) else "JSON is meant"
            return PlainTextResponse(said, 400)
        return Response(status_code=204)


class _Guard:
    """Lets through who may look (see the module), and puts `HEADERS` on every answer."""

    def __init__(self, app: ASGIApp, names: set[str], token: str | None) -> None:
        self._app = app
        self._names = {"localhost", *(name.lower() for name in names)}
        self._token = token
        self._session = secrets.token_urlsafe(24)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer = self._answer(Request(scope)) if scope["type"] == "http" else PlainTextResponse("HTTP is meant\n", 400)
        await (answer or self._app)(scope, receive, with_headers)

    def _answer(self, request: Request) -> Response | None:
        """What is said instead of the app's answer."""
        if not self._is_ours(request.headers.get("host", "")):
            return PlainTextResponse("this is not the host it was started for\n", 421)
        if self._token is not None:
            given = request.query_params.get("token")
            if request.url.path == "/" and given is not None and _same(given, self._token):
                answer = RedirectResponse("/", 303)
                answer.set_cookie(COOKIE, self._session, httponly=True, samesite="lax")
                return answer
            if not _same(request.cookies.get(COOKIE, ""), self._session):
                return PlainTextResponse("open the address with ?token=... that the demo printed\n", 401)
        if request.method not in ("GET", "HEAD") and not _from_page(request):
            return PlainTextResponse("only the page itself may change something\n", 403)
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(name.partition("%")[0])
            return True  # an address cannot be made to point elsewhere
        return name in self._names or name.removesuffix(".local") in self._names


def _from_page(request: Request) -> bool:
    """Whether a browser says that our page asks; JSON, because other pages cannot send it unasked."""
    origin = urlsplit(request.headers.get("origin", ""))
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    return (
        origin.scheme in ("http", "https")
        and origin.netloc.lower() == request.headers.get("host", "").lower()
        and request.headers.get("sec-fetch-site", "same-origin") == "same-origin"
        and kind == "application/json"
    )


def _same(given: str, meant: str) -> bool:
    """In a time that does not tell how much of it is right."""
    return secrets.compare_digest(given.encode(), meant.encode())


def _asset(name: str, kind: str) -> Any:
    data = (resources.files("refinenet_edge.demo") / "assets" / name).read_bytes()

    async def serve(request: Request) -> Response:
        return Response(data, media_type=kind)

    return serve


def _part(picture: Frame) -> bytes:
    """A part of the stream. It ends with the next one's boundary: browsers show a part when they see its end."""
    height, width = picture.shape[:2]
    if width > WIDEST:
        picture = cv2.resize(picture, (WIDEST, max(round(height * WIDEST / width), 1)), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
    return b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n%b" % (len(data), data, BOUNDARY)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reachable(host: str) -> str:
    """What to type elsewhere to reach `host`: for "every address" the one that leads out."""
    if host not in ("0.0.0.0", "::", ""):
        return host
    family, far = (socket.AF_INET6, "2001:db8::1") if ":" in host else (socket.AF_INET, "192.0.2.1")
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 9))  # nothing is sent
            return str(probe.getsockname()[0])
    except OSError:
        return socket.gethostname()
