"""URLs: what is one, and how others may read one: without the secret of `s3://key:secret@bucket`, and its options."""

import functools
import re

PORT = re.compile(r"[^/@:?#]*:\d{1,5}([/?#]|$)")  # a host and its port, then whatever
# also one that lost a slash as a path
IN_TEXT = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{1,20}:)(?P<slashes>/+)(?P<rest>[^\s/]\S*)")
CLOSING = "'\"),;:.]>"  # what may follow one in a sentence


def is_url(text: str) -> bool:
    """Whether `text` is a URL, not a path."""
    return "://" in text


def shown(text: str, options: bool = False) -> str:
    """`text` as others may read it, if it is a URL: without its secret, and unless `options` is true without those."""
    if not is_url(text):
        return text
    scheme, _, rest = text.partition("://")
    if scheme == "s3" or not PORT.match(rest):  # the secrets of S3 have slashes in them, and some begin with digits
        rest = re.sub(r"^([^/?#]*@|[^/@:?#]*:[^@]*@)", "", rest)
    return f"{scheme}://{rest if options else re.split(r'[?#]', rest, maxsplit=1)[0]}"


def masked(text: str, options: bool = False) -> str:
    """`text` with each URL in it as `shown`; of one whose secret is cut off in its middle nothing is left."""
    return IN_TEXT.sub(functools.partial(_masked, options), text) if ":/" in text else text


def _masked(options: bool, url: re.Match[str]) -> str:
    scheme, slashes, rest = url.groups()
    end = rest[len(rest.rstrip(CLOSING)) :]
    rest = rest.removesuffix(end)
    if slashes == "/" and not re.match(r"[^/@:?#]*:[^@]*@", rest):  # a path
        return url[0]
    kept = shown(f"{scheme}//{rest}", options).removeprefix(f"{scheme}//")
    cut = slashes == "//" and re.match(r"[^/@:?#\[]*:", kept) and not PORT.match(kept)
    return f"{scheme}{slashes}{'...' if cut else kept}{end}"
