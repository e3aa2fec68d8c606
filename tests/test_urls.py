"""Secrets in URLs: masked in whatever is said of them."""

from __future__ import annotations

import time

import pytest

from refinenet_edge.errors import InputError, RefineNetEdgeError, require_local
from refinenet_edge.urls import masked


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("no file s3://key:sec/ret@bucket/a, and s3://b/c", "no file s3://bucket/a, and s3://b/c"),
        ("('rtsp://admin:hun:ter2@10.0.0.9:554/a?key=abc').", "('rtsp://10.0.0.9:554/a')."),
        ('{"calib": "https://me@host/a"}', '{"calib": "https://host/a"}'),
        ("s3://AKIA:wJalr/K7MDEN", "s3://..."),  # cut off before its @
        ("found 'rtsp://admin:hunt'", "found 'rtsp://...'"),
        ("s3:/key:secret@bucket/a: no such file", "s3:/bucket/a: no such file"),  # it was a path
        ("net: /srv/a@2x/b:c", "net: /srv/a@2x/b:c"),
        ("folder:/srv/a@2x", "folder:/srv/a@2x"),
        ("http://cam:8080/a@2x", "http://cam:8080/a@2x"),
        ("http://[::1]:8080/a", "http://[::1]:8080/a"),
        ("file:///C:/a", "file:///C:/a"),
        ("a :// b", "a :// b"),
    ],
)
def test_a_secret_is_masked_wherever_it_stands(text: str, seen: str) -> None:
    assert masked(text) == seen
    assert str(RefineNetEdgeError(text)) == seen


def test_what_is_cited_keeps_its_place_in_a_page() -> None:
    cited = "L2: (https://me:word@host/a?topic=2#page=7), https://host/b#c"
    assert masked(cited, options=True) == "L2: (https://host/a?topic=2#page=7), https://host/b#c"
    assert masked("s3://AKIA:wJalr/K7MDEN", options=True) == "s3://..."


@pytest.mark.parametrize("text", ["a" * 300_000 + ":/", "s3://" + "'" * 300_000, "s3://a:" * 40_000])
def test_masking_takes_no_longer_than_reading(text: str) -> None:
    began = time.process_time()
    masked(text)
    assert time.process_time() - began < 10


def test_a_url_is_no_path() -> None:
    with pytest.raises(InputError, match=r"^s3://bucket/a is a URL: expected a file or folder of this machine$"):
        require_local("s3://key:secret@bucket/a?b")
    require_local("a:/b")
