"""From where a request may come: hosts, pages of other sites, and bodies that are not said to be JSON."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess

import httpx
import pytest

from cascade.errors import CascadeError
from cascade.serve import main
from cascade.serving.origins import Origins
from tests.serving.running import Plain, plain_cascade, running

CHAT = "/v1/chat/completions"
BODY = {"model": "cascade", "messages": [{"role": "user", "content": "?"}]}
NOTHING_ASKED = "the model was asked"


@pytest.fixture(scope="module")
def models():
    return Plain("a"), Plain("b")


@pytest.fixture(scope="module")
def server(models):
    with running(plain_cascade(*models)) as server:
        yield server


def ask(server, headers: dict[str, str], method: str = "POST", path: str = CHAT) -> httpx.Response:
    body = {"json": BODY} if method == "POST" else {}
    return httpx.request(method, server.url + path, headers=headers, **body)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.7", "a@localhost",
     "localhost:x", "[::1", "", "evil.example/localhost"],
)  # fmt: skip
def test_a_request_to_another_host_is_refused(server, models, host):
    before = len(models[0].asked)
    for method, path in (("POST", CHAT), ("GET", "/v1/cascade"), ("GET", "/metrics"), ("GET", "/")):
        reply = ask(server, {"host": host}, method, path)
        assert reply.status_code == 403 and reply.json()["error"]["code"] == "host_not_allowed"
        assert repr(host) in reply.json()["error"]["message"]
    assert len(models[0].asked) == before, NOTHING_ASKED
    assert ask(server, {"host": host}, "GET", "/healthz").status_code == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1", "127.0.0.2:80", "[::1]:8000"])
def test_loopback_names_are_this_servers_at_any_port(server, host):
    assert ask(server, {"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "file://"},
        {"origin": "http://127.0.0.1"},  # another port of this machine is another origin
        {"origin": "http://[::1"},
        {"origin": "http://127.0.0.1:PORT@evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
    ids=str,
)
def test_a_page_of_another_site_may_not_ask(server, models, headers):
    port = server.url.rsplit(":", 1)[1]
    headers = {name: value.replace("PORT", port) for name, value in headers.items()}
    before = len(models[0].asked)
    for method, path in (("POST", CHAT), ("GET", "/v1/cascade"), ("GET", "/metrics"), ("OPTIONS", CHAT)):
        reply = ask(server, headers, method, path)
        assert reply.status_code == 403 and reply.json()["error"]["code"] == "origin_not_allowed"
        assert "access-control-allow-origin" not in reply.headers
    assert len(models[0].asked) == before, NOTHING_ASKED
    assert ask(server, headers, "GET", "/").status_code == 200  # a link to the page


def test_the_page_of_this_server_may_ask(server):
    of_page = {"origin": server.url, "sec-fetch-site": "same-origin"}
    assert ask(server, of_page).status_code == 200
    assert ask(server, of_page, "GET", "/v1/cascade").status_code == 200
    assert ask(server, {"sec-fetch-site": "none"}, "GET", "/v1/cascade").status_code == 200


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json"]
)
def test_a_body_that_is_not_said_to_be_json_is_refused(server, models, kind):
    before = len(models[0].asked)
    headers = {} if kind is None else {"content-type": kind}
    reply = httpx.post(server.url + CHAT, content=json.dumps(BODY), headers=headers)
    assert reply.status_code == 415 and reply.json()["error"]["code"] == "unsupported_media_type"
    assert "application/json" in reply.json()["error"]["message"]
    assert len(models[0].asked) == before, NOTHING_ASKED


def test_json_may_have_parameters(server):
    for kind in ("application/json; charset=utf-8", "Application/JSON"):
        reply = httpx.post(server.url + CHAT, content=json.dumps(BODY), headers={"content-type": kind})
        assert reply.status_code == 200


def test_a_real_client_and_curl_are_answered(server):
    assert server.ask("Who?").choices[0].message.content == "A"
    if (curl := shutil.which("curl")) is not None:
        command = [curl, "-sS", "-H", "Content-Type: application/json", "-d", json.dumps(BODY), server.url + CHAT]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        assert json.loads(found.stdout)["choices"][0]["message"]["content"] == "A"


def test_http_1_0_needs_no_host(server):
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.0\r\n\r\n")
        assert connection.makefile("rb").readline().split()[1] == b"200"


def test_a_name_that_is_allowed_may_be_asked_by_and_its_page_may_ask():
    origins = Origins(allowed=["Cascade.example.org", "2001:db8::7"])
    with running(plain_cascade(Plain("a"), Plain("b")), origins=origins) as server:
        for host in ("cascade.example.org", "CASCADE.example.org:443", "[2001:db8::7]:8000"):
            assert ask(server, {"host": host}).status_code == 200
        # The proxy in front may pass the name on, or ask by an address of its own.
        for host in ("cascade.example.org", "127.0.0.1:8000"):
            assert ask(server, {"host": host, "origin": "https://cascade.example.org"}).status_code == 200
        assert ask(server, {"host": "example.org"}).status_code == 403
        assert ask(server, {"host": "cascade.example.org", "origin": "https://example.org"}).status_code == 403


def test_a_server_on_every_address_answers_to_numbers_and_its_own_name():
    with running(plain_cascade(Plain("a"), Plain("b")), origins=Origins("0.0.0.0")) as server:
        for host in ("10.0.0.7:8000", "[2001:db8::7]", "localhost", socket.gethostname(), "0.0.0.0:8000"):
            assert ask(server, {"host": host}).status_code == 200
        for host in ("evil.example", "10.0.0.7.evil.example", "10.0.0"):
            assert ask(server, {"host": host}).status_code == 403


@pytest.mark.parametrize("name", ["http://a", "a:80", "a/b", "a@b", "[::1]", "a b:c"])
def test_an_allowed_host_that_is_no_name_is_refused(name):
    with pytest.raises(CascadeError, match="without a scheme or a port"):
        Origins(allowed=[name])


def test_allowed_hosts_come_from_the_command_line(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--port", "0", "--allowed_hosts", "fine.example, http://wrong"])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "'http://wrong'" in error
