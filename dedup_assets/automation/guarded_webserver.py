"""Dagster's webserver behind a check of the origin of requests.

`python -m dedup_assets.automation.guarded_webserver HOST PORT FILE [OPTIONS OF dagster-webserver]`

The UI has no login, so any page open in a browser on this machine could send it requests. This server answers only
under its own names, so a foreign name that resolves to this address is refused, and only to its own pages: requests
from another origin, or of a type that a browser sends across origins without a preflight, are refused.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Any, Any], Awaitable[None]]

ASKED_FIRST = ("application/json", "application/graphql")
"""Content types that a browser sends to another origin only after a preflight, which this server never approves."""


class Guard:
    """An ASGI application that accepts requests of this server's own pages and of programs that are not browsers."""

    def __init__(self, application: Application, host: str) -> None:
        self._application = application
        self._names = {host.lower(), "localhost", socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        refusal = self.refusal(scope) if scope["type"] in ("http", "websocket") else ""
        if not refusal:
            await self._application(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": refusal})
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": f"{refusal}\n".encode()})

    def refusal(self, scope: Scope) -> str:
        """Why a request is refused, or "" if it is not."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts = headers.get("host", [])
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            return f"This server does not answer under the name {', '.join(hosts) or '(none)'}."
        origins = headers.get("origin", [])
        if any(urlsplit(origin).netloc.lower() != hosts[0].lower() for origin in origins):
            return f"Requests from pages of {', '.join(origins)} are refused: only this server's own pages may ask it."
        if headers.get("sec-fetch-site", ["none"])[0] in ("cross-site", "same-site") and scope["path"] != "/":
            return "Requests from pages of other sites are refused."
        if scope["type"] == "websocket":
            return ""
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            kind = headers.get("content-type", [""])[0].partition(";")[0].strip().lower()
            return "" if kind in ASKED_FIRST else f"Send {ASKED_FIRST[0]}, not {kind or 'an unnamed type'}."
        if "query" in parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True):
            page = "text/html" in ",".join(headers.get("accept", []))  # the query editor, whose page runs no query
            return "" if page else "Queries are sent by POST."
        return ""

    def _is_own(self, host: str) -> bool:
        """Whether a Host header names this server: an IP address, which is no foreign name, or one of its names."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True


def main() -> None:
    """Serve Dagster's application behind the guard."""
    from dagster_webserver import cli

    host, port, locations, *options = sys.argv[1:]
    make = cli.create_app_from_workspace_process_context
    guarded: Any = lambda *args, **options: Guard(make(*args, **options), host)  # noqa: E731 - a def has another type
    cli.create_app_from_workspace_process_context = guarded
    cli.cli(["-w", locations, "-h", host, "-p", port, *options], auto_envvar_prefix="DAGSTER_WEBSERVER")


if __name__ == "__main__":
    main()
