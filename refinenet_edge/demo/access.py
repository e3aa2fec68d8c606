"""Who may look at the page, and from where it may be changed.

Without a token those on this machine, otherwise those who came once with `/?token=...`; that leaves a cookie, which is
not the token, but made of it: after a restart with the same token it is good still. Its name has the port in it, as
browsers keep cookies by host. Programs send the token with every request, as `Authorization: Bearer TOKEN`. The Host
header has to be an address or a name of this machine or that of `--public-url`, so that a stranger's page cannot reach
it under a name of its own, and what changes something has to come from the page itself. A connection that asks for
nothing is cut: nobody takes all of them.
"""

import asyncio
import contextlib
import hmac
import ipaddress
import secrets
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from refinenet_edge.errors import InputError

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would keep the pictures back
}
COOKIE = "refinenet_edge"
MAX_CONNECTIONS = 64
OF_ONE_ADDRESS = 24  # connections
HEADER_SECONDS = 10.0  # that a connection gets to ask for something
SHORTEST_TOKEN = 12  # characters
NEEDS_TOKEN = "This demo is only shown to those who have its token."
OPEN = (
    "Open the address that the demo printed when it started: it ends in /?token=... A demo that was started again may "
    "have a new one."
)
PROGRAMS = "Programs send the header Authorization: Bearer TOKEN."
NOT_LET_IN = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Not let in</title>
<h1>Not let in</h1>
<p>{NEEDS_TOKEN}</p>
<p>{OPEN}</p>
<p>Of a demo that runs as a service: <code>journalctl -u refinenet-edge-demo</code>, or REFINENET_EDGE_TOKEN in its
environment file. {PROGRAMS}</p>
</html>
"""


def public_url(text: str) -> SplitResult:
    """Where others see the page, behind a proxy or by a name. Raises `InputError` for what is no such address."""
    try:
        url = urlsplit(text)
        fits = url.scheme in ("http", "https") and url.hostname and not (url.query or url.fragment or url.username)
        fits = fits and (url.port is None or url.port > 0)
    except ValueError:
        fits = None
    if not fits:
        raise InputError(f"--public-url {text}: expected an address such as https://demo.example.org/")
    return url


def token_for(host: str, token: str | None, public: bool = False) -> str | None:
    """What viewers of `host` need: `token`, or one that is made where others can reach it; None on this machine.

    `public`: others reach it through a proxy.

    Raises `InputError` for one that is too short, or cannot be in an address.
    """
    if token is None:
        return None if _is_loopback(host) and not public else secrets.token_urlsafe(24)
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
        raise InputError(f"a token has {SHORTEST_TOKEN} or more ASCII characters: leave it out, and one is made")
    return token


class Guard:
    """Lets through to `app` who may look, under one of `names`, and puts `HEADERS` on every answer."""

    def __init__(
        self, app: ASGIApp, names: set[str], token: str | None, port: int, public: SplitResult | None = None
    ) -> None:
        self._app = app
        known = {"localhost", *names, *([public.hostname or ""] if public else [])}
        self._names = {name.lower() for name in known}
        self._token = token
        self._session = hmac.new((token or "").encode(), b"page", "sha256").hexdigest()
        self._cookie = f"{COOKIE}_{port}"
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer = self._answer(Request(scope)) if scope["type"] == "http" else PlainTextResponse("expected HTTP\n", 400)
        await (answer or self._app)(scope, receive, with_headers)

    def _answer(self, request: Request) -> Response | None:
        """What is answered in the app's place; None: the app answers."""
        if not self._is_ours(request.headers.get("host", "")):
            return PlainTextResponse("this is not the host it was started for: start it with --public-url\n", 421)
        if self._token is not None:
            given = request.query_params.get("token")
            if request.url.path == "/" and given is not None and _same(given, self._token):
                answer = RedirectResponse((self._public and self._public.path) or "/", 303)
                secure = self._public is not None and self._public.scheme == "https"
                answer.set_cookie(self._cookie, self._session, secure=secure, httponly=True, samesite="lax")
                return answer
            kind, _, bearer = request.headers.get("authorization", "").partition(" ")
            programs = kind.lower() == "bearer" and _same(bearer.strip(), self._token)
            if not programs and not _same(request.cookies.get(self._cookie, ""), self._session):
                return _not_let_in("text/html" in request.headers.get("accept", ""))
        if request.method not in ("GET", "HEAD") and not self._from_page(request):
            text = "only the page itself may change something (behind a proxy: start it with --public-url)\n"
            return PlainTextResponse(text, 403)
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

    def _from_page(self, request: Request) -> bool:
        """Whether our own page sent it: same origin, and JSON, which other sites cannot send without CORS."""
        origin = urlsplit(request.headers.get("origin", ""))
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        hosts = {request.headers.get("host", "").lower()}
        if self._public and origin.scheme == self._public.scheme:  # a proxy may give the host another name
            hosts.add(self._public.netloc.lower())
        return (
            origin.scheme in ("http", "https")
            and origin.netloc.lower() in hosts
            and request.headers.get("sec-fetch-site", "same-origin") == "same-origin"
            and kind == "application/json"
        )


class Connection(H11Protocol):
    """A viewer's connection. One that asks for nothing makes room for others, and is cut after `HEADER_SECONDS`."""

    _deadline: asyncio.TimerHandle | None = None
    _idle_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_idle()
        # an aborted one is among them until the loop comes round
        others = [
            c for c in self.connections if isinstance(c, Connection) and not (c is self or c.transport.is_closing())
        ]
        same = [other for other in others if other._address() == self._address()]
        if len(others) >= MAX_CONNECTIONS - 1 or len(same) >= OF_ONE_ADDRESS:
            idle = [other for other in (same if len(same) >= OF_ONE_ADDRESS else others) if other._is_idle()]
            if idle:
                min(idle, key=lambda other: other._idle_since).transport.abort()
            elif len(same) >= OF_ONE_ADDRESS and not _is_loopback(self._address()):  # all of a proxy's are from here
                transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._deadline:
            self._deadline.cancel()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._begin_idle()

    def _begin_idle(self) -> None:
        if self._deadline:
            self._deadline.cancel()
        self._idle_since = self.loop.time()
        self._deadline = self.loop.call_later(HEADER_SECONDS, self._end_idle)

    def _end_idle(self) -> None:
        if self._is_idle():
            self.transport.abort()

    def _is_idle(self) -> bool:
        """Whether no whole request has come since it was opened, or since the last answer."""
        return self.cycle is None or bool(self.cycle.response_complete)

    def _address(self) -> str:
        return self.client[0] if self.client else ""


def _not_let_in(page: bool) -> Response:
    """Says why, and what to do: as a page to browsers, otherwise in a line."""
    named = {"WWW-Authenticate": "Bearer"}
    if not page:
        return PlainTextResponse(f"{NEEDS_TOKEN} {OPEN} {PROGRAMS}\n", 401, named)
    return HTMLResponse(NOT_LET_IN, 401, named)


def _same(given: str, expected: str) -> bool:
    """Whether they are equal, compared in constant time."""
    return secrets.compare_digest(given.encode(), expected.encode())


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
