"""Who needs which token; what is let through is tested on the running page, in test_web."""

from __future__ import annotations

import pytest

from refinenet_edge.demo.access import public_url, token_for
from refinenet_edge.errors import InputError


@pytest.mark.parametrize("token", ["", "short", "ümlaute-und-mehr", "with\nnew-lines-in-it"])
def test_a_token_is_long_and_plain(token: str) -> None:
    with pytest.raises(InputError, match="token"):
        token_for("127.0.0.1", token)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_on_this_machine_none_is_needed_but_one_that_is_given_is(host: str) -> None:
    assert token_for(host, None) is None
    assert token_for(host, "a-token-of-some-length") == "a-token-of-some-length"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "camera.local", ""])
def test_elsewhere_one_is_made(host: str) -> None:
    first, second = token_for(host, None), token_for(host, None)
    assert first and second and first != second and len(first) >= 24


def test_behind_a_proxy_one_is_made_too() -> None:
    assert token_for("127.0.0.1", None, public=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "demo.example.org",
        "ftp://a/",
        "http://",
        "https://a/?b=c",
        "https://u:p@a/",
        "http://a:0/",
        "http://[",
        "http://a:x",
    ],
)
def test_a_public_url_is_an_address(text: str) -> None:
    with pytest.raises(InputError, match="expected an address such as https://demo"):
        public_url(text)
