"""The show as a web page: MJPEG for the picture, server-sent events for the figures, POST for the controls.

    GET  /  app.js  style.css  icon.svg   the page; nothing else of the disk can be asked for
    GET  /stream                          multipart/x-mixed-replace, one JPEG a frame, encoded once for all viewers
    GET  /figures                         text/event-stream, `figures.Figures` as JSON
    GET  /snapshot.png                    the picture as it is
    GET  /metrics                         the figures for Prometheus
    GET  /healthz                         200 while it is well, otherwise 503 and why
    POST /controls                        JSON for `Show.change`

A viewer that reads slowly is sent the newest picture whenever it has read the last: it loses pictures, nobody waits for
it. What it has not read of older ones is bounded by the socket's buffer.

Who may look, and change something: access.py.
"""

import asyncio
import contextlib
import dataclasses
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from importlib import resources

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from refinenet_edge.demo.access import MAX_CONNECTIONS, Connection, Guard, public_url, token_for
from refinenet_edge.demo.figures import Figures
from refinenet_edge.demo.metrics import KIND, metrics, problem, remark
from refinenet_edge.demo.show import Show
from refinenet_edge.errors import InputError, RefineNetEdgeError
from refinenet_edge.opencv import cv2
from refinenet_edge.records import Frame

ASSETS = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
MAX_BODY = 4096  # bytes, of a POST
WIDEST = 1280  # pixels: larger pictures are sent smaller
QUALITY = 80  # of the JPEG
BUFFER = 256 * 1024  # bytes on their way to a viewer: a few pictures
BODY_SECONDS = 10.0  # that a POST gets
SNAPSHOT_WAIT = 5.0  # seconds
CLOSE_TIMEOUT = 0.3  # seconds that viewers get to read what is on its way, in the end
SERVER_TIMEOUT = 2.0  # seconds that the server gets to start, and to end
BOUNDARY = b"--picture\r\n"


class Web:
    """A `View` that serves `show` at `address` until it is closed. Figures and legend stand beside its pictures."""

    written = False

    def __init__(
        self, show: Show, host: str = "127.0.0.1", port: int = 0, token: str | None = None, public: str | None = None
    ) -> None:
        """Listen; port 0 takes a free one. Raises `InputError` when it cannot, or `token` is too short.

        `public`: the address under which others see the page, where that is a proxy's or a name's. Where others can
        reach it without a `token` one is made.
        """
        url = public_url(public) if public else None
        token = token_for(host, token, url is not None)
        self._socket = _listen(host, port)
        self.port = int(self._socket.getsockname()[1])
        seen_as = _reachable(host)
        name = f"[{seen_as}]" if ":" in seen_as else seen_as
        place = f"{url.geturl().rstrip('/')}/" if url else f"http://{name}:{self.port}/"
        self.address = place + (f"?token={token}" if token else "")
        self._show = show
        self._viewers = 0
        self._picture: Frame | None = None
        self._part, self._number = b"", 0
        self._event, self._event_number = b"", 0
        self._last: Figures | None = None
        self._shown = 0.0  # when, seconds
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._ready = threading.Event()
        files = resources.files("refinenet_edge.demo") / "assets"
        routes = [
            *(
                Route(path, Response((files / name).read_bytes(), media_type=kind), methods=["GET"])
                for path, (name, kind) in ASSETS.items()
            ),
            Route("/stream", self._stream),
            Route("/figures", self._figures),
            Route("/snapshot.png", self._snapshot),
            Route("/metrics", self._metrics),
            Route("/healthz", self._health),
            Route("/controls", self._controls, methods=["POST"]),
        ]
        self._server = _server(Guard(Starlette(routes=routes), {host, socket.gethostname()}, token, self.port, url))
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="web", daemon=True)

    def start(self) -> None:
        """Serve until `close`, in a thread of its own."""
        self._thread.start()
        self._ready.wait(SERVER_TIMEOUT)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready.set()
        await self._server.serve(sockets=[self._socket])

    # --- View: called by the show's thread

    def wanted(self) -> bool:
        return self._viewers > 0

    def show(self, picture: Frame | None, figures: Figures) -> None:
        part = _part(picture) if picture is not None else b""
        event = b""
        self._shown = time.monotonic()
        if figures is not self._last:
            self._last = figures
            event = b"data: " + json.dumps(dataclasses.asdict(figures), default=sorted).encode() + b"\n\n"
        if part or event:
            self._call(lambda: self._publish(picture, part, event))

    def close(self) -> None:
        """End all connections and the server; a second call does nothing."""
        self._call(self._finish)
        self._server.should_exit = True
        if self._loop is not None:
            self._thread.join(SERVER_TIMEOUT)
        self._socket.close()

    def _call(self, function: Callable[[], None]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(function)

    # --- in the server's thread

    def _publish(self, picture: Frame | None, part: bytes, event: bytes) -> None:
        if part:
            self._picture, self._part, self._number = picture, part, self._number + 1
        if event:
            self._event, self._event_number = event, self._event_number + 1
        self._wake()

    def _finish(self) -> None:
        self._closed = True
        self._wake()
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._cut_off)

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
        number = 0
        while not self._closed:
            if number == self._event_number:
                await self._changed.wait()
            else:
                number = self._event_number
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

    async def _metrics(self, request: Request) -> Response:
        if self._last is None:
            return PlainTextResponse("it is starting\n", 503)
        return Response(metrics(self._last, self._viewers), media_type=KIND)

    async def _health(self, request: Request) -> Response:
        why = problem(self._last, time.monotonic() - self._shown)
        return PlainTextResponse(f"{why or 'ok' + remark(self._last)}\n", 503 if why else 200)

    async def _newer(self, number: int) -> None:
        """Wait for a picture after that `number`, or the end."""
        while number == self._number and not self._closed:
            await self._changed.wait()

    async def _controls(self, request: Request) -> Response:
        try:
            body = await asyncio.wait_for(_body(request), BODY_SECONDS)
        except asyncio.TimeoutError:
            return PlainTextResponse("it took too long to come\n", 408)
        if len(body) > MAX_BODY:
            return PlainTextResponse(f"at most {MAX_BODY} bytes\n", 413)
        try:
            asked = json.loads(body)
            if not isinstance(asked, dict):
                raise InputError("expected an object of what is to change")
            self._show.change(asked)
        except (ValueError, RecursionError, InputError) as exc:
            said = str(exc) if isinstance(exc, RefineNetEdgeError) else "expected JSON"
            return PlainTextResponse(said, 400)
        return Response(status_code=204)


async def _body(request: Request) -> bytes:
    """What was posted, or so much of it that it is too much."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            break
    return body


def _part(picture: Frame) -> bytes:
    """A part of the stream. It ends with the next one's boundary: browsers show a part when they see its end."""
    height, width = picture.shape[:2]
    if width > WIDEST:
        picture = cv2.resize(picture, (WIDEST, max(round(height * WIDEST / width), 1)), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
    return b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n%b" % (len(data), data, BOUNDARY)


def _listen(host: str, port: int) -> socket.socket:
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as exc:
        raise InputError(f"{host} port {port} cannot be listened on: {exc}; name another with --port") from exc
    # connections inherit it: the fewer pictures are on their way, the newer is what a slow viewer sees
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    return listening


def _server(app: ASGIApp) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,  # it would hold the token
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


def _reachable(host: str) -> str:
    """The address under which other machines reach `host`; for 0.0.0.0 that of the default route."""
    if host not in ("0.0.0.0", "::", ""):
        return host
    family, far = (socket.AF_INET6, "2001:db8::1") if ":" in host else (socket.AF_INET, "192.0.2.1")
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 9))  # nothing is sent
            return str(probe.getsockname()[0])
    except OSError:
        return socket.gethostname()
