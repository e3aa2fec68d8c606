from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest

from refinenet_edge.demo import Captured, Model, Show, access, web
from refinenet_edge.demo.access import HEADERS, MAX_CONNECTIONS, OF_ONE_ADDRESS
from refinenet_edge.demo.web import Web
from refinenet_edge.errors import InputError
from refinenet_edge.frames import CapturedFrames
from refinenet_edge.overlay import OverlayStyle
from tests.demo.fakes import segmenter, source, ticking
from tests.demo.test_metrics import parsed
from tests.demo.test_show import model, running
from tests.patience import promises_a_time, within

TOKEN = "a-token-of-some-length"


@dataclass
class Page:
    """A running show and its web page."""

    show: Show
    web: Web

    def ask(self, path: str, method: str = "GET", body: str | None = None, **headers: str) -> tuple[Any, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.web.port, timeout=10)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer, data

    def change(self, asked: object, **headers: str) -> tuple[int, bytes]:
        own = {"Origin": f"http://127.0.0.1:{self.web.port}", "Content_Type": "application/json"}
        body = asked if isinstance(asked, str) else json.dumps(asked)
        answer, data = self.ask("/controls", "POST", body, **{**own, **headers})
        return answer.status, data

    def open(self, path: str, buffer: int | None = None) -> http.client.HTTPResponse:
        """An answer that has no end; so many bytes of it are received before they are read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.web.port, timeout=10)
        if buffer is not None:
            connection.sock = socket.socket()
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            connection.sock.connect(("127.0.0.1", self.web.port))
        connection.request("GET", path, headers={"Connection": "close"})  # the socket is then the answer's
        return connection.getresponse()


@contextlib.contextmanager
def served(
    frames: Callable[[], CapturedFrames] | None = None, models: Sequence[Model] | None = None, **options: Any
) -> Iterator[Page]:
    show = Show([source(frames or ticking())], models or [model()], OverlayStyle())
    web = Web(show, **options)
    web.start()
    show.views.append(web)
    with running(show):
        yield Page(show, web)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with served() as page:
        yield page


@pytest.fixture(scope="module")
def guarded() -> Iterator[Page]:
    with served(token=TOKEN) as page:
        yield page


def pictures(answer: http.client.HTTPResponse) -> Iterator[np.ndarray]:
    """The pictures of a stream, read by its own framing."""
    assert answer.readline() == b"--picture\r\n"
    while True:
        assert answer.readline() == b"Content-Type: image/jpeg\r\n"
        length = int(answer.readline().split(b":")[1])
        assert answer.readline() == b"\r\n"
        yield np.asarray(cv2.imdecode(np.frombuffer(answer.read(length), np.uint8), cv2.IMREAD_COLOR))
        assert answer.readline() == b"\r\n" and answer.readline() == b"--picture\r\n"


def events(answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    while line := answer.readline():
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "text/html"), ("/app.js", "text/javascript"), ("/style.css", "text/css"), ("/icon.svg", "image/svg+xml")],
)
def test_the_page_is_there(page: Page, path: str, kind: str) -> None:
    answer, data = page.ask(path)
    assert answer.status == 200 and answer.headers["Content-Type"].startswith(kind) and data
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    assert "Server" not in answer.headers


@pytest.mark.parametrize(
    "path", ["/index.html", "/web.py", "/../web.py", "/%2e%2e/web.py", "/assets/app.js", "//etc/passwd", "/favicon.ico"]
)
def test_nothing_else_is(page: Page, path: str) -> None:
    answer, _ = page.ask(path)
    assert answer.status == 404 and answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_picture_moves(page: Page) -> None:
    with page.open("/stream") as answer:
        assert answer.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=picture"
        found = [picture for picture, _ in zip(pictures(answer), range(8), strict=False)]
    assert {picture.shape for picture in found} == {(48, 64, 3)}
    assert len({picture.tobytes() for picture in found}) > 3


def test_nobody_looks_when_the_last_has_gone(page: Page) -> None:
    with page.open("/stream") as answer:
        next(pictures(answer))
        assert page.web.wanted()
    until = time.monotonic() + 10
    while page.web.wanted() and time.monotonic() < until:
        time.sleep(0.02)
    assert not page.web.wanted()


def test_figures_come_and_are_new(page: Page) -> None:
    with page.open("/figures") as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        first, second = (figures for figures, _ in zip(events(answer), range(2), strict=False))
    assert second["speed"]["frames"] > first["speed"]["frames"]
    assert first["playing"]["sources"] == ["fake"] and first["playing"]["models"] == ["small (fp32)"]
    assert [item["name"] for item in first["classes"]] == ["dark", "grey", "light"]


def test_controls_change_the_show(page: Page) -> None:
    assert page.change({"opacity": 0.25, "side_by_side": True, "hidden": [2]}) == (204, b"")
    assert page.show.controls.style == OverlayStyle(0.25, frozenset({2}), True)
    with page.open("/stream") as answer:
        assert any(picture.shape == (48, 128, 3) for picture, _ in zip(pictures(answer), range(50), strict=False))
    assert page.change({"opacity": 0.5, "side_by_side": False, "hidden": []})[0] == 204


@pytest.mark.parametrize("body", ["", "{", "[]", "1e999", '{"opacity": 7}', '{"unknown": 1}', "[" * 3000])
def test_controls_that_mean_nothing(page: Page, body: str) -> None:
    before = page.show.controls
    status, said = page.change(body)
    assert status == 400 and said
    assert page.show.controls == before


def test_a_body_is_small(page: Page) -> None:
    assert page.change(json.dumps({"opacity": 0.1}) + " " * 5000)[0] == 413


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Content_Type": "text/plain"},
    ],
    ids=str,
)
def test_other_pages_change_nothing(page: Page, headers: dict[str, str]) -> None:
    before = page.show.controls
    assert page.change({"opacity": 0.9}, **headers)[0] == 403
    assert page.show.controls == before


def test_only_post_changes(page: Page) -> None:
    assert page.ask("/controls?opacity=1")[0].status == 405
    assert page.change({})[0] == 204


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "localhost.evil.example", "", "127.0.0.1.nip.io"])
def test_a_strangers_name_for_this_machine_is_refused(page: Page, host: str) -> None:
    assert page.ask("/", Host=host)[0].status == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:99", "127.0.0.1", "[::1]:80", socket.gethostname()])
def test_its_own_names_are_not(page: Page, host: str) -> None:
    assert page.ask("/", Host=host)[0].status == 200


def test_a_snapshot_is_the_whole_picture(page: Page) -> None:
    answer, data = page.ask("/snapshot.png")
    assert answer.status == 200 and "attachment" in answer.headers["Content-Disposition"]
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None and picture.shape == (48, 64, 3)


def test_without_the_token_nothing_is_seen(guarded: Page) -> None:
    paths = ("/", "/app.js", "/stream", "/figures", "/snapshot.png", "/metrics", "/healthz", "/?token=wrong")
    for path in (*paths, "/stream?token=" + TOKEN):
        answer, data = guarded.ask(path)
        assert answer.status == 401 and TOKEN.encode() not in data
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert guarded.change({"opacity": 0.9})[0] == 401
    assert guarded.ask("/", Cookie="refinenet_edge=" + TOKEN)[0].status == 401


def test_the_token_is_given_once(guarded: Page) -> None:
    assert guarded.web.address.endswith("/?token=" + TOKEN)
    answer, _ = guarded.ask("/?token=" + TOKEN)
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie and TOKEN not in cookie
    own = cookie.partition(";")[0]
    assert guarded.ask("/", Cookie=own)[0].status == 200
    assert guarded.change({"opacity": 0.4}, Cookie=own)[0] == 204
    assert guarded.change({"opacity": 0.4}, Cookie=own, Origin="http://evil.example")[0] == 403


def test_programs_send_the_token(guarded: Page) -> None:
    for path in ("/", "/metrics"):
        assert guarded.ask(path, Authorization=f"Bearer {TOKEN}")[0].status == 200
        assert guarded.ask(path, Authorization=f"bearer  {TOKEN}")[0].status == 200
        for wrong in (TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer", "Bearer \xfc"):
            assert guarded.ask(path, Authorization=wrong)[0].status == 401
    assert guarded.change({}, Authorization=f"Bearer {TOKEN}", Origin="http://evil.example")[0] == 403


def test_who_is_not_let_in_is_told_why(guarded: Page) -> None:
    answer, data = guarded.ask("/")
    assert answer.headers["Content-Type"].startswith("text/plain") and b"?token=" in data and b"Bearer TOKEN" in data
    answer, data = guarded.ask("/", Accept="text/html,*/*;q=0.8")
    assert answer.status == 401 and answer.headers["Content-Type"].startswith("text/html")
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert b"?token=" in data and b"journalctl" in data


def test_metrics_and_health_follow_the_show() -> None:
    going = threading.Event()

    def frames() -> CapturedFrames:
        for item in ticking()():
            if not going.is_set():
                raise InputError("it is away")
            yield item

    going.set()
    with served(frames) as page:
        until(lambda: page.ask("/healthz")[0].status == 200)
        assert page.ask("/healthz")[1] == b"ok\n"
        answer, data = page.ask("/metrics")
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        before = parsed(data.decode())
        assert before["live"] == 1 and before["frames_total"] > 0 and before["viewers"] == 0
        until(lambda: parsed(page.ask("/metrics")[1].decode())["frames_total"] > before["frames_total"])
        going.clear()
        until(lambda: page.ask("/healthz")[0].status == 503)
        assert page.ask("/healthz")[1] == b"no signal from fake\n"
        assert parsed(page.ask("/metrics")[1].decode())["live"] == 0


def test_a_demo_of_several_cameras_is_well_while_one_of_them_gives_frames() -> None:
    def missing() -> CapturedFrames:
        raise InputError("no camera there")
        yield

    show = Show([source(ticking()), source(missing)], [model()], OverlayStyle(), together=True)
    page = Page(show, Web(show))
    page.web.start()
    show.views.append(page.web)
    with running(show):
        until(lambda: page.ask("/healthz")[1] == b"ok, no signal from fake (2)\n")
        assert page.ask("/healthz")[0].status == 200
        found = parsed(page.ask("/metrics")[1].decode())
        assert (found['camera_live{camera="fake"}'], found['camera_live{camera="fake (2)"}']) == (1, 0)
        until(lambda: parsed(page.ask("/metrics")[1].decode())['camera_share{camera="fake"}'] == 1)
        picture = cv2.imdecode(np.frombuffer(page.ask("/snapshot.png")[1], np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None and picture.shape == (360, 1280, 3)


def test_before_the_first_picture_it_is_not_well() -> None:
    show = Show([source(ticking())], [model()], OverlayStyle())
    page = Page(show, Web(show))
    page.web.start()
    try:
        assert [page.ask(path)[0].status for path in ("/healthz", "/metrics")] == [503, 503]
    finally:
        page.web.close()


def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.03)


def test_others_need_a_token() -> None:
    with served(host="0.0.0.0") as first, served(host="0.0.0.0") as second:
        tokens = {page.web.address.partition("token=")[2] for page in (first, second)}
        assert len(tokens) == 2 and all(len(token) >= 24 for token in tokens)
        assert first.ask("/")[0].status == 401


def test_a_port_that_is_taken() -> None:
    show = Show([source(ticking())], [model()], OverlayStyle())
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InputError, match="--port"):
        Web(show, port=taken.getsockname()[1])


def numbered() -> CapturedFrames:
    """Noise, which makes a JPEG of 300 kB, with its number in black and white along the top."""
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)
    for number in itertools.count():
        frame = noise.copy()
        frame[:16, :256] = 255 * np.repeat([number >> bit & 1 for bit in range(16)], 16)[None, :, None]
        yield Captured(frame, time.monotonic())
        time.sleep(0.01)


def number_of(picture: np.ndarray) -> int:
    return sum(int(picture[4:12, 16 * bit + 4 : 16 * bit + 12].mean() > 128) << bit for bit in range(16))


def test_a_viewer_that_stops_reading_loses_pictures_and_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    with served(frames=numbered) as page:
        page.show.change({"opacity": 0.0, "figures": False})
        stopped, reading = page.open("/stream", buffer=65536), page.open("/stream")
        slow, fast = pictures(stopped), pictures(reading)
        first = number_of(next(slow))
        seen = [number_of(next(fast)) for _ in range(60)]
        assert seen == sorted(set(seen)) and seen[-1] >= first + 59
        later = [number_of(next(slow)) for _ in range(10)]
        # after the few that were on their way already it is sent the newest
        assert later == sorted(set(later)) and later[-1] > seen[-1]
        page.web.close()  # it is still there
        assert not page.web._thread.is_alive() and caplog.text == ""
    stopped.close()
    reading.close()


@promises_a_time
def test_closing_ends_all_connections_at_once() -> None:
    with served() as page:
        answers = [page.open("/stream"), page.open("/stream"), page.open("/figures")]
        next(pictures(answers[0]))
        next(events(answers[2]))
        with within(2):
            page.show.stop()
            for answer in answers:
                answer.read()  # to its end
                answer.close()
            page.web._thread.join(60)
        assert not page.web._thread.is_alive()


def test_two_viewers_see_one_inference() -> None:
    inferences: list[int] = []
    own = Model("m", "fp32", segmenter(before=lambda: inferences.append(1)))
    with served(models=[own]) as page, page.open("/stream") as one, page.open("/stream") as other:
        for _ in zip(pictures(one), pictures(other), range(10), strict=False):
            pass
        shown = page.web._number
        assert len(inferences) >= 10 and shown <= len(inferences) + 1


def test_a_page_that_was_never_started_is_closed() -> None:
    show = Show([source(ticking())], [model()], OverlayStyle())
    web = Web(show)
    web.close()
    Web(show, port=web.port).close()


# --- who keeps others out


def idle(page: Page, count: int, address: str = "127.0.0.1") -> list[socket.socket]:
    place = "127.0.0.1", page.web.port
    return [socket.create_connection(place, source_address=(address, 0)) for _ in range(count)]


def closed_after(connection: socket.socket, seconds: float, feed: bytes = b"") -> float:
    """How long it stays open, in seconds; `feed` is sent again and again."""
    begun = time.monotonic()
    connection.settimeout(0.05)
    while time.monotonic() < begun + seconds:
        try:
            connection.sendall(feed)
            if connection.recv(100) == b"":
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - begun


@pytest.mark.parametrize("count", [MAX_CONNECTIONS, 3 * MAX_CONNECTIONS])
def test_connections_that_ask_for_nothing_keep_nobody_out(count: int) -> None:
    with served(token=TOKEN) as page, contextlib.ExitStack() as stack:
        for connection in idle(page, count):
            stack.callback(connection.close)
        for _ in range(5):
            assert page.ask(f"/?token={TOKEN}")[0].status == 303
        assert page.ask("/")[0].status == 401


def test_many_idle_connections_of_one_address_cost_those_of_another_none() -> None:
    with served() as page, contextlib.ExitStack() as stack:
        other = stack.enter_context(idle(page, 1)[0])
        many = [stack.enter_context(connection) for connection in idle(page, OF_ONE_ADDRESS + 1, "127.0.0.2")]
        many[0].settimeout(60)
        with contextlib.suppress(ConnectionResetError):
            assert many[0].recv(1) == b""  # cut for the last one
        for connection in (other, many[1], many[-1]):
            connection.sendall(b"GET /icon.svg HTTP/1.1\r\nHost: localhost\r\n\r\n")
            connection.settimeout(60)
            assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_viewers_stay_when_others_ask_for_nothing() -> None:
    with served() as page, contextlib.ExitStack() as stack:
        seen = pictures(stack.enter_context(page.open("/stream")))
        next(seen)
        for connection in idle(page, 2 * MAX_CONNECTIONS):
            stack.callback(connection.close)
        for _ in range(10):
            next(seen)


@pytest.mark.parametrize("feed", [b"", b"x"])
def test_a_request_comes_in_time_or_not_at_all(monkeypatch: pytest.MonkeyPatch, feed: bytes) -> None:
    monkeypatch.setattr(access, "HEADER_SECONDS", 0.5)
    with served() as page:
        connection = socket.create_connection(("127.0.0.1", page.web.port))
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        assert closed_after(connection, 5, feed) < 4
        connection.close()


def test_a_body_comes_in_time_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "BODY_SECONDS", 0.5)
    with served() as page:
        connection = socket.create_connection(("127.0.0.1", page.web.port), timeout=5)
        origin = f"127.0.0.1:{page.web.port}".encode()
        connection.sendall(
            b"POST /controls HTTP/1.1\r\nHost: " + origin + b"\r\nOrigin: http://" + origin + b"\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 408")
        connection.close()


# --- cookies


def cookie_of(page: Page, token: str = TOKEN) -> str:
    answer, _ = page.ask(f"/?token={token}")
    assert answer.status == 303
    return str(answer.headers["Set-Cookie"]).partition(";")[0]


def test_two_demos_on_a_host_do_not_log_each_other_out() -> None:
    with served(token=TOKEN) as first, served(token=f"{TOKEN}-2") as second:
        cookies = dict(cookie.split("=", 1) for cookie in (cookie_of(first), cookie_of(second, f"{TOKEN}-2")))
        kept = "; ".join(f"{name}={value}" for name, value in cookies.items())  # as a browser keeps them
        assert [page.ask("/", Cookie=kept)[0].status for page in (first, second)] == [200, 200]


def test_after_a_restart_with_the_same_token_the_page_goes_on() -> None:
    with served(token=TOKEN) as page:
        port, cookie = page.web.port, cookie_of(page)
    with served(token=TOKEN, port=port) as page:
        assert page.ask("/", Cookie=cookie)[0].status == 200
    with served(token=f"{TOKEN}-2", port=port) as page:
        assert page.ask("/", Cookie=cookie)[0].status == 401


# --- behind a proxy


@pytest.mark.parametrize("host", ["demo.example.org", "127.0.0.1"])
def test_behind_a_proxy(host: str) -> None:
    with served(public="https://demo.example.org/cars/", token=TOKEN) as page:
        assert page.web.address == f"https://demo.example.org/cars/?token={TOKEN}"
        answer, _ = page.ask(f"/?token={TOKEN}", Host=host)
        assert (answer.status, answer.headers["Location"]) == (303, "/cars/")
        assert "; secure" in answer.headers["Set-Cookie"].lower()
        assert answer.headers["X-Accel-Buffering"] == "no"
        own = {"Host": host, "Cookie": answer.headers["Set-Cookie"].partition(";")[0]}
        assert page.change({"opacity": 0.4}, Origin="https://demo.example.org", **own)[0] == 204
        assert page.change({"opacity": 0.4}, Origin="http://demo.example.org", **own)[0] == (
            403 if host[0] == "1" else 204
        )
        assert page.change({"opacity": 0.4}, Origin="https://evil.example", **own)[0] == 403


def test_what_a_proxy_needs_is_said() -> None:
    with served() as page:
        answer, said = page.ask("/", Host="demo.example.org")
        assert (answer.status, b"--public-url" in said) == (421, True)
        status, said = page.change({"opacity": 0.4}, Origin="https://demo.example.org")
        assert (status, b"--public-url" in said) == (403, True)
