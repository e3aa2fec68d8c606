"""Who may look at the page, and from where it may be changed.

Without a token those on this machine, otherwise those who came once with `/?token=...`; that leaves a cookie, which is
not the token. The Host header has to be an address or a name of this machine, so that a stranger's page cannot reach it
under a name of its own, and what changes something has to come from the page itself.
"""

import contextlib
import ipaddress
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from refinenet_edge.errors import InputError

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


def token_for(host: str, token: str | None) -> str | None:
    """What viewers of `host` need: `token`, or one that is made where others can reach it; None on this machine.

    Raises `InputError` for one that is too short, or cannot be in an address.
    """
    if token is None:
        return None if _is_loopback(host) else secrets.token_urlsafe(24)
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
        raise InputError(f"a token has {SHORTEST_TOKEN} or more ASCII characters: leave it out, and one is made")
    return token


class Guard:
    """Lets through to `app` who may look, under one of `names`, and puts `HEADERS` on every answer."""

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

        answer = self._answer(Request(scope)) if scope["type"] == "http" else PlainTextResponse("expected HTTP\n", 400)
        await (answer or self._app)(scope, receive, with_headers)

    def _answer(self, request: Request) -> Response | None:
        """What is answered in the app's place; None: the app answers."""
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
    """Whether our own page sent it: same origin, and JSON, which other sites cannot send without CORS."""
    origin = urlsplit(request.headers.get("origin", ""))
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    return (
        origin.scheme in ("http", "https")
        and origin.netloc.lower() == request.headers.get("host", "").lower()
        and request.headers.get("sec-fetch-site", "same-origin") == "same-origin"
        and kind == "application/json"
    )


def _same(given: str, expected: str) -> bool:
    """Whether they are equal, compared in constant time."""
    return secrets.compare_digest(given.encode(), expected.encode())


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
