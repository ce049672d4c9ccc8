"""Who is answered and who is refused, by real requests to a real server."""

from __future__ import annotations

import http.client
import threading
from contextlib import contextmanager
from typing import NamedTuple
from wsgiref.simple_server import make_server

import pytest

from dtme_search.reporting.dashboard import _Silent
from dtme_search.reporting.guard import Access, Guard, host_name


class Answer(NamedTuple):
    status: int
    body: str
    headers: dict[str, str]


def page(environ, start_response):
    """An application that trusts everybody."""
    start_response("200 OK", [("Content-Type", "text/html"), ("Access-Control-Allow-Origin", "*")])
    return [f"served {environ['REQUEST_METHOD']} {environ['PATH_INFO']}".encode()]


@contextmanager
def serving(access: Access):
    """A server on the loopback that believes it listens where ``access`` says; gives a way to ask it."""
    server = make_server("127.0.0.1", 0, None, handler_class=_Silent)
    server.set_app(Guard(page, access, server.server_port))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def ask(method: str = "GET", path: str = "/", host: str | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", host if host is not None else f"127.0.0.1:{server.server_port}")
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return Answer(answer.status, body, dict(answer.getheaders()))

    ask.port = server.server_port
    try:
        yield ask
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def local():
    with serving(Access()) as ask:
        yield ask


@pytest.fixture(scope="module")
def public():
    with serving(Access(host="0.0.0.0", token="s3cret", names=("gpu-box.lab",))) as ask:
        yield ask


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:9999", "[::1]:80"])
def test_this_machine_is_served_by_its_own_names(local, host):
    assert local(host=host).status == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.168.0.7:8080", "", "a b"])
def test_a_foreign_host_is_refused_with_one_line(local, host):
    answer = local(host=host)
    assert answer.status == 403
    assert answer.body.count("\n") == 1 and "host name is not served" in answer.body


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost"])
def test_a_foreign_origin_is_refused(local, method, origin):
    answer = local(method, Origin=origin)
    assert answer.status == 403 and "another site" in answer.body


def test_the_page_itself_is_no_foreign_origin(local):
    assert local(Origin=f"http://127.0.0.1:{local.port}").status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_writes_are_refused_unless_asked_for(local, method):
    answer = local(method, "/api/studies/1")
    assert answer.status == 403 and "read-only" in answer.body
    with serving(Access(writable=True)) as ask:
        assert ask(method, "/api/studies/1").body == f"served {method} /api/studies/1"


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer "}, {"Cookie": "dtme-search-1=s3cret"}],
    ids=["nothing", "wrong", "empty", "cookie of another port"],
)
def test_without_the_token_there_is_no_answer(public, headers):
    answer = public(**headers)
    assert answer.status == 401 and "token" in answer.body and "s3cret" not in answer.body
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_wrong_token_in_the_address_is_refused_too(public):
    assert public(path="/?token=wrong").status == public(path="/?token=").status == 401


def test_the_token_moves_from_the_address_into_a_cookie(public):
    moved = public(path="/dashboard?x=1&token=s3cret")
    assert moved.status == 303 and moved.headers["Location"] == "/dashboard?x=1"
    cookie = moved.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
    assert public(Cookie=cookie.partition(";")[0]).status == 200
    assert public(Authorization="Bearer s3cret").status == 200


def test_the_way_back_never_leaves_this_server(public):
    assert public(path="//evil.example/?token=s3cret").headers["Location"] == "/evil.example/"


@pytest.mark.parametrize(
    ("host", "status"),
    [("10.1.2.3:8080", 200), ("gpu-box.lab", 200), ("localhost", 200), ("evil.example", 403)],
)
def test_elsewhere_numbers_and_given_names_are_served(public, host, status):
    assert public(host=host, Authorization="Bearer s3cret").status == status


def test_headers_keep_other_sites_and_artifacts_out(local):
    headers = local().headers
    assert "Access-Control-Allow-Origin" not in headers and headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff" and "Content-Security-Policy" not in headers
    assert "sandbox" in local(path="/artifacts/1/2/x").headers["Content-Security-Policy"]


@pytest.mark.parametrize("header", ["[::1", "[", "]", "a/b", "user@host", "host:80:80"])
def test_what_is_no_host_is_no_host(header):
    access = Access()
    assert host_name(header) not in ("localhost", "127.0.0.1") and not access.serves(header)
