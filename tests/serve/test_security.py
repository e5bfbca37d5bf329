"""Who may ask: each probe is refused by the rule it breaks, and no other."""

import json
import re
import socket

import pytest
import requests

from easyrlhf.serve.security import Key
from easyrlhf.web.guard import POLICY, new_key
from easyrlhf.web.hosts import Hosts

CHAT = {"model": "one", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def browser(server):
    """A browser that has opened the link."""
    session = requests.Session()
    got = session.get(f"{server.url}/", params={"key": server.key})
    assert got.status_code == 200 and got.url == f"{server.url}/"
    return session


@pytest.fixture(scope="module")
def bearer(server):
    return {"Authorization": f"Bearer {server.key}"}


def code(got: requests.Response) -> tuple[int, str | None]:
    """Status and code of a refusal, which has OpenAI's form."""
    error = got.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return got.status_code, error["code"]


GUARDED = [
    *(("GET", "/v1/models"), ("GET", "/v1/models/one"), ("POST", "/v1/chat/completions"), ("POST", "/v1/completions")),
    *(("GET", "/api/about"), ("POST", "/api/score"), ("GET", "/v1/%6dodels"), ("GET", "/v1"), ("DELETE", "/api/about")),
    ("OPTIONS", "/v1/chat/completions"),
]


@pytest.mark.parametrize("method, path", GUARDED)
@pytest.mark.parametrize(
    "given", [None, "Bearer wrong", "Bearer ", "Basic {key}", "{key}", "Bearer {key}x", "Bearer {cookie}"]
)
def test_without_the_key_nothing_is_answered(server, method, path, given):
    key = Key(server.key)
    headers = {} if given is None else {"Authorization": given.format(key=server.key, cookie=key.cookie)}
    got = requests.request(method, server.url + path, headers=JSON | headers, data=json.dumps(CHAT))
    assert code(got) == (401, "invalid_api_key") and got.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "method, path", [("GET", "/nothing"), ("GET", "/static/../app.py"), ("GET", "/static/%2e%2e%2fapp.py")]
)
def test_where_there_is_nothing_there_is_nothing(server, method, path):
    place = server.url.removeprefix("http://")
    status, _ = raw(server, f"{method} {path} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n".encode())
    assert status == 404
    for name in ("__init__.py", "app.py", "index.html/", "%2e%2e"):
        assert requests.get(f"{server.url}/static/{name}").status_code == 404


def raw(server, data: bytes) -> tuple[int, bytes]:
    """Status and the rest of the answer to these bytes."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(data)
        found = b""
        while piece := connection.recv(65536):
            found += piece
            if b"\r\n\r\n" in found and b"Connection: close" not in data:
                break
    return int(found.split()[1]), found


def test_a_wrong_method_is_named(server, bearer):
    got = requests.get(f"{server.url}/v1/chat/completions", headers=bearer)
    assert code(got) == (405, None) and "POST" in got.headers["Allow"]


def test_the_link_is_traded_for_a_cookie_and_leaves_the_address_bar(server):
    got = requests.get(f"{server.url}/", params={"key": server.key}, allow_redirects=False)
    assert got.status_code == 303 and got.headers["Location"] == "/"
    name, _, value = got.headers["Set-Cookie"].partition(";")[0].partition("=")
    rules = {rule.strip().lower() for rule in got.headers["Set-Cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= rules
    assert server.key not in got.headers["Set-Cookie"] and len(value) == 64
    again = requests.get(f"{server.url}/api/about", cookies={name: value})
    assert again.status_code == 200
    assert code(requests.get(f"{server.url}/api/about", cookies={name: value[:-1] + "!"})) == (401, "invalid_api_key")
    assert code(requests.get(f"{server.url}/api/about", cookies={"easyrlhf": value})) == (401, "invalid_api_key")


@pytest.mark.parametrize("given", ["wrong", "", "é\ud83d".encode("utf-8", "surrogatepass").decode("latin-1")])
def test_a_link_with_another_key_gives_no_cookie(server, given):
    got = requests.get(f"{server.url}/", params={"key": given}, allow_redirects=False)
    assert code(got) == (401, "invalid_api_key") and "Set-Cookie" not in got.headers


def test_cookies_of_two_servers_do_not_meet():
    one, two = Key(new_key()), Key(new_key())
    assert one.cookie_name != two.cookie_name and one.cookie != two.cookie
    assert len(new_key()) >= 22 and new_key() != new_key()  # 128 bits, 6 a letter


@pytest.mark.parametrize(
    "headers, allowed",
    [
        ({"Origin": "{url}", "X-Easyrlhf": "1"}, True),
        ({"Origin": "{url}"}, False),
        ({"X-Easyrlhf": "1"}, False),
        ({"Origin": "null", "X-Easyrlhf": "1"}, False),
        ({"Origin": "http://evil.example", "X-Easyrlhf": "1"}, False),
        ({"Origin": "{url}.evil.example", "X-Easyrlhf": "1"}, False),
        ({"Origin": "http://127.0.0.1:1", "X-Easyrlhf": "1"}, False),
        ({"Origin": "ftp://{place}", "X-Easyrlhf": "1"}, False),
        ({"Origin": "{url}", "X-Easyrlhf": "0"}, False),
    ],
)
def test_with_the_cookie_only_the_servers_own_page_may_send(server, browser, headers, allowed):
    place = server.url.removeprefix("http://")
    own = {name: value.format(url=server.url, place=place) for name, value in headers.items()}
    for path in ("/v1/chat/completions", "/v1/completions", "/api/score"):
        got = browser.post(server.url + path, json=CHAT, headers=own)
        assert (got.status_code != 403) is allowed
        if not allowed:
            assert code(got) == (403, "foreign_origin")
    assert browser.get(f"{server.url}/v1/models", headers=own).status_code == 200


@pytest.mark.parametrize(
    "host, allowed",
    [
        ("127.0.0.1:{port}", True),
        ("localhost", True),
        ("LOCALHOST:1", True),
        ("[::1]:{port}", True),
        ("models.example", True),  # --allow_hosts
        ("evil.example", False),
        ("127.0.0.1.evil.example:{port}", False),
        ("10.0.0.1:{port}", False),
        ("localhost.", False),
        ("", False),
        ("127.0.0.1@evil.example", False),
    ],
)
def test_the_server_answers_to_its_own_names_alone(server, bearer, host, allowed):
    port = server.url.rpartition(":")[2]
    for path in ("/", "/health", "/v1/models"):
        got = requests.get(server.url + path, headers=bearer | {"Host": host.format(port=port)})
        assert (got.status_code == 421) is not allowed
        if not allowed:
            assert code(got) == (421, "unknown_host")


def test_a_server_at_every_address_answers_to_addresses_and_its_own_name():
    hosts = Hosts("0.0.0.0", ["Proxy.example"])
    assert all(map(hosts.allow, ["10.0.0.1:80", "[fe80::1]:8000", "localhost", "proxy.example", socket.gethostname()]))
    assert not any(map(hosts.allow, ["evil.example", "", "10.0.0.1.evil.example", "1.2.3", ":80"]))
    assert Hosts("192.168.1.5").allow("192.168.1.5:8000") and not Hosts("192.168.1.5").allow("192.168.1.6")


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx"]
)
def test_other_content_than_json_is_refused(server, bearer, kind):
    headers = bearer | ({} if kind is None else {"Content-Type": kind})
    got = requests.post(f"{server.url}/v1/chat/completions", data=json.dumps(CHAT), headers=headers)
    assert code(got) == (415, None)
    right = bearer | {"Content-Type": "Application/JSON; charset=utf-8"}
    assert requests.post(f"{server.url}/v1/chat/completions", data=json.dumps(CHAT), headers=right).status_code == 200


@pytest.mark.parametrize("size", [2**20 + 1, 5 * 2**20])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_request_is_refused_however_it_comes(server, bearer, size, chunked):
    body = json.dumps(CHAT | {"user": ""}).replace('"user": ""', f'"user": "{"a" * size}"').encode()
    pieces = (body[start : start + 65536] for start in range(0, len(body), 65536))
    got = requests.post(f"{server.url}/v1/chat/completions", data=pieces if chunked else body, headers=bearer | JSON)
    assert code(got) == (413, "request_too_large")


def test_an_absurd_length_is_refused_before_anything_comes(server):
    place = server.url.removeprefix("http://")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {place}\r\nAuthorization: Bearer {server.key}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n{"
    status, answer = raw(server, head.encode())
    assert status == 413 and b"Traceback" not in answer


def test_a_request_of_a_mebibyte_is_taken(server, bearer):
    body = json.dumps(CHAT | {"user": "a" * (2**20 - 150)})
    assert 2**20 - 100 < len(body) <= 2**20
    got = requests.post(f"{server.url}/v1/chat/completions", data=body, headers=bearer | JSON)
    assert got.status_code == 200


def test_every_answer_has_the_headers(server, bearer):
    urls = [("/", {}), ("/nothing", {}), ("/v1/models", {}), ("/v1/models", bearer), ("/static/app.js", {})]
    for path, headers in [*urls, ("/", {"Host": "evil.example"})]:
        got = requests.get(server.url + path, headers=headers)
        assert got.headers["Content-Security-Policy"] == POLICY
        assert got.headers["X-Content-Type-Options"] == "nosniff" and got.headers["Referrer-Policy"] == "no-referrer"
        assert not {"Server", "Access-Control-Allow-Origin"} & set(got.headers)
    assert POLICY == (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def test_the_page_and_its_files_are_served_without_the_key(server):
    page = requests.get(f"{server.url}/")
    assert page.status_code == 200 and page.headers["Content-Type"].startswith("text/html")
    names = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
    kinds = {"js": "text/javascript", "css": "text/css"}
    assert len(names) >= 2
    for name in names:
        got = requests.get(server.url + name)
        assert got.status_code == 200 and got.headers["Content-Type"].startswith(kinds[name.rpartition(".")[2]])
    assert server.key not in page.text
