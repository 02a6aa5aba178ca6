"""URLs with credentials: the part that is shown and stored, and the part that stays in the memory of this process.

A password before a host and all that follows a `?` are taken out: the rest is how a file is named in the ledger, in
Dagster's databases, in `curation.toml`, in files' names and in messages. The whole URL is known to the process that it
was named in, and to no other.
"""

from __future__ import annotations

import os
import re
from urllib.parse import parse_qsl, unquote

HIDDEN = "***"

_WEB = ("http", "https")
_COLON_IS_NO_PASSWORD = ("github", "git")  # github://org:repo@sha/path
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?:(?P<user>[^/?#@]*)@)?(?P<path>.*)", re.DOTALL)
_QUERY = re.compile(r"\?(?=[^/?=]+=)")  # outside of the web, `?` may be a wildcard
_SECRET_NAME = re.compile(r"sig|token|key|secret|pass|cred|auth|code|session", re.IGNORECASE)
_KEY_NAME, _KEY = re.compile(r"key|token|secret|passw", re.IGNORECASE), 8
_LONG = 16  # characters of a value that is not a word

_known: dict[str, str] = {}  # whole URLs by their shown form
_secrets: set[str] = set()  # values that must not be shown


def is_url(source: str) -> bool:
    """Whether a source is an fsspec URL and not a local path. An existing path is a path."""
    return ("://" in source or "::" in source) and not os.path.lexists(absolute(source))


def absolute(source: str) -> str:
    """An absolute path, with `~` expanded; links are kept."""
    return os.path.abspath(os.path.expanduser(source))  # noqa: PTH100, PTH111 - keeps what Path would fold


def without_credentials(url: str) -> str:
    """The form of a URL that is shown and stored. The whole URL is kept in the memory of this process.

    Examples
    --------
    >>> without_credentials("https://me:word@host/a.jsonl?sig=1234")
    'https://***@host/a.jsonl?***'
    >>> without_credentials("s3://bucket/part-?.parquet")
    's3://bucket/part-?.parquet'
    """
    shown = "::".join(_shown(part) for part in url.split("::"))
    if shown != url:
        _known[shown] = url
    return shown


def without_query(name: str) -> str:
    """The name of a file without the query of its URL."""
    return name.removesuffix(f"?{HIDDEN}")


def holds_credentials(url: str) -> bool:
    """Whether a URL has a part that must not be stored."""
    return without_credentials(url) != url


def with_credentials(shown: str) -> str | None:
    """The whole URL for its shown form; None if this process does not know it."""
    return _known.get(shown) if HIDDEN in shown else shown


def hide_environment() -> None:
    """Take the keys in the environment of this process for secrets: an encoder of somebody's own may repeat them."""
    _secrets.update(v for name, v in os.environ.items() if len(v) >= _KEY and _KEY_NAME.search(name))


def scrubbed(text: str) -> str:
    """A text without the credentials that this process knows."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _shown(part: str) -> str:
    found = _URL.fullmatch(part)
    if found is None:
        return part
    scheme, user, path = found["scheme"].lower(), found["user"], found["path"]
    path, mark, query = path.partition("?") if scheme in _WEB else _parted(path)
    if mark and query != HIDDEN:
        _secrets.update({query, *_secret_values(query)} - {""})
    host = ""
    if user is not None:
        name, colon, password = user.partition(":")
        is_secret = scheme in _WEB or (colon and scheme not in _COLON_IS_NO_PASSWORD)
        host = f"{HIDDEN if is_secret else user}@"
        if is_secret and user != HIDDEN:
            _secrets.update({user, *({password, unquote(password)} if colon else {name, unquote(name)})} - {""})
    return f"{found['scheme']}://{host}{path}" + (f"?{HIDDEN}" if mark else "")


def _parted(path: str) -> tuple[str, str, str]:
    found = _QUERY.search(path)
    return (path, "", "") if found is None else (path[: found.start()], "?", path[found.end() :])


def _secret_values(query: str) -> set[str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    raw = [pair.partition("=")[::2] for pair in query.split("&")]
    return {
        value
        for name, value in [*pairs, *raw]
        if len(value) >= _LONG or (_SECRET_NAME.search(name) and len(value) >= 4)
    }
