"""Access control for a local web server: checks of Host, Origin, token and method.

optuna-dashboard has none of these. Even if bound to this machine, it can be reached by any web page that
makes a browser resolve its own name to 127.0.0.1, and by other users of the machine.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from secrets import compare_digest
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]

LOOPBACK = "127.0.0.1"
_LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
)
# Otherwise an artifact that is a web page would run as a part of the dashboard.
_SANDBOX = (
    "Content-Security-Policy",
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:",
)


@dataclass(frozen=True)
class Access:
    """Where a server listens and which requests it answers.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 selects a free one.
        token: Secret that every request must contain; ``None`` requires none.
        writable: Whether requests may change anything.
        names: Further host names by which users reach it.
    """

    host: str = LOOPBACK
    port: int = 8080
    token: str | None = None
    writable: bool = False
    names: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        return self.host in _LOOPBACK_NAMES

    def serves(self, host_header: str) -> bool:
        """Whether a Host header names this server.

        If the address is not the loopback, any numeric address is accepted too: another page can make its
        *name* resolve to this machine, but it cannot change what numbers mean.
        """
        name = host_name(host_header)
        if name is None:
            return False
        if name in {item.lower() for item in self.names}:
            return True
        if self.is_local:
            return name in _LOOPBACK_NAMES
        return name in {self.host.lower(), socket.gethostname().lower(), *_LOOPBACK_NAMES} or _is_address(
            name
        )


def host_name(header: str) -> str | None:
    """Host without port, in lower case; ``None`` if it is not a host.

    Example:
        >>> host_name("LocalHost:8080"), host_name("[::1]:80"), host_name("a b"), host_name("")
        ('localhost', '::1', None, None)
    """
    if not re.fullmatch(r"[\w.:\[\]-]+", header):
        return None
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None


class Guard:
    """Wraps a WSGI application; refused requests get a status and one line with the reason.

    Args:
        app: What to protect.
        access: The rules.
        port: The actual port, if ``access`` leaves it open.
    """

    def __init__(self, app: WsgiApp, access: Access, port: int | None = None) -> None:
        self._app = app
        self._access = access
        self._cookie = f"dtme-search-{port or access.port}"

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        status, line = self._refusal(environ)
        if status:
            return _answer(start_response, status, line)
        if self._access.token is not None and "token" in dict(parse_qsl(environ.get("QUERY_STRING", ""))):
            return self._remember(environ, start_response)
        path = environ.get("PATH_INFO", "")

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            kept = [(name, value) for name, value in headers if name.lower() != "access-control-allow-origin"]
            extra = [*_HEADERS, *([_SANDBOX] if path.startswith("/artifacts/") else [])]
            return start_response(status, [*kept, *extra], *rest)

        return self._app(environ, start)

    def _refusal(self, environ: Environ) -> tuple[str, str]:
        host = environ.get("HTTP_HOST", "")
        if not self._access.serves(host):
            return "403 Forbidden", (
                "this host name is not served here; open the address that dtme-search dashboard printed, or "
                "start it with --allow-host NAME."
            )
        origin = environ.get("HTTP_ORIGIN")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return "403 Forbidden", "requests from another site are refused."
        if self._access.token is not None and not self._brings_token(environ, self._access.token):
            return "401 Unauthorized", (
                "a token is needed; open the address with ?token= that dtme-search dashboard printed."
            )
        if environ["REQUEST_METHOD"] not in _READING and not self._access.writable:
            return (
                "403 Forbidden",
                "this dashboard is read-only; start it with --writable to change anything.",
            )
        return "", ""

    def _brings_token(self, environ: Environ, token: str) -> bool:
        given = [dict(parse_qsl(environ.get("QUERY_STRING", ""))).get("token", "")]
        given.append(environ.get("HTTP_AUTHORIZATION", "").removeprefix("Bearer "))
        try:
            cookie = SimpleCookie(environ.get("HTTP_COOKIE", "")).get(self._cookie)
        except CookieError:
            cookie = None
        given.append(cookie.value if cookie is not None else "")
        return any(compare_digest(text.encode(), token.encode()) for text in given)

    def _remember(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Move the token from the address, which browsers store and show, into a cookie."""
        rest = [(name, value) for name, value in parse_qsl(environ["QUERY_STRING"]) if name != "token"]
        # A single slash, because two would start the name of another host.
        path = "/" + quote(environ.get("PATH_INFO", "").lstrip("/"))
        place = path + (f"?{urlencode(rest)}" if rest else "")
        cookie = f"{self._cookie}={self._access.token}; HttpOnly; SameSite=Lax; Path=/"
        start_response("303 See Other", [("Location", place), ("Set-Cookie", cookie), *_HEADERS])
        return [b""]


def _answer(start_response: StartResponse, status: str, line: str) -> Iterable[bytes]:
    body = f"dtme-search dashboard: {line}\n".encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body))), *_HEADERS]
    if status.startswith("401"):
        headers.append(("WWW-Authenticate", "Bearer"))
    start_response(status, headers)
    return [body]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
