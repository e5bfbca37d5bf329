"""Who may ask and what is told: each probe is refused by the rule that it breaks."""

import re

import pytest
from starlette.testclient import TestClient

from easyrlhf.web.guard import POLICY
from tests.labels.web.conftest import SECRET, new_pair, new_ranking

POSTS = ["next", "label", "skip", "undo", "renew", "say", "new_conversation", "overview", "decide", "unpark"]
OWN = {"Origin": "http://testserver", "X-Easyrlhf": "1"}


@pytest.fixture
def desk(desk_of):
    return desk_of([new_pair(i) for i in range(3)] + [new_ranking(0)], annotators="me,you")


def test_without_a_link_nothing_is_answered(desk):
    client, forged = TestClient(desk.app, headers=OWN), TestClient(desk.app, headers=OWN)
    forged.cookies.set(desk.server.links.cookie, "x" * 22)
    for path in POSTS:
        assert client.post(f"/api/{path}", json={}).status_code == 401
        assert forged.post(f"/api/{path}", json={}).status_code == 401


def test_the_page_and_who_asks_need_a_link_too(desk):
    client = TestClient(desk.app)
    page = client.get("/")
    assert page.status_code == 401 and "link of your own" in page.text
    assert client.get("/api/me").status_code == 401
    for wrong in ("x", "", desk.tokens["me"][:-1], desk.tokens["me"] + "x"):
        got = client.get("/", params={"key": wrong}, follow_redirects=False)
        assert got.status_code == 401 and "set-cookie" not in got.headers


def test_a_link_is_traded_for_a_cookie_that_is_not_the_link_and_leaves_the_address(desk):
    client = TestClient(desk.app)
    got = client.get("/", params={"key": desk.tokens["me"]}, follow_redirects=False)
    assert got.status_code == 303 and got.headers["location"] == "/"
    cookie = got.headers["set-cookie"]
    assert {"httponly", "samesite=strict", "path=/"} <= {rule.strip().lower() for rule in cookie.split(";")}
    assert desk.tokens["me"] not in cookie and "secure" not in cookie.lower()
    held = b"".join(file.read_bytes() for file in desk.store.folder.iterdir())
    value = re.search(r"=([\w-]+);", cookie)[1]
    assert len(value) == 22 and value.encode() not in held and desk.tokens["me"].encode() not in held


def test_behind_https_the_cookie_goes_no_other_way(desk_of):
    desk = desk_of([new_pair(0)], public_url="https://labels.example")
    got = TestClient(desk.app).get("/", params={"key": desk.tokens["me"]}, follow_redirects=False)
    assert "; secure" in got.headers["set-cookie"].lower()


def test_a_proxy_may_call_the_server_by_another_name_than_browsers_do(desk_of):
    desk = desk_of([new_pair(0)], public_url="https://labels.example")
    client = TestClient(desk.app, base_url="https://testserver", headers={"X-Easyrlhf": "1"})
    client.get("/", params={"key": desk.tokens["me"]})
    origins = {"https://labels.example": 200, "http://labels.example": 403, "https://labels.example.evil": 403}
    for origin, status in origins.items():
        assert client.post("/api/next", json={}, headers={"Origin": origin}).status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example", "X-Easyrlhf": "1"},
        {"Origin": "null", "X-Easyrlhf": "1"},
        {"Origin": "http://testserver.evil.example", "X-Easyrlhf": "1"},
        {"Origin": "http://testserver", "X-Easyrlhf": "0"},
        {"Origin": "", "X-Easyrlhf": "1"},
    ],
)
def test_what_another_page_sends_is_refused(desk, person, headers):
    ann = person(desk)
    assert [ann.post(path, headers=headers)[0] for path in POSTS] == [403] * len(POSTS)


def test_other_names_are_refused(desk):
    client = TestClient(desk.app)
    for host in ("evil.example", "127.0.0.1.evil.example", "10.0.0.1", ""):
        for path in ("/", "/static/labels.js", "/health", "/api/me"):
            assert client.get(path, headers={"Host": host}).status_code == 421


def test_other_content_than_json_is_refused(desk, person):
    client = person(desk).client
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert client.post("/api/next", content="{}", headers={"Content-Type": kind}).status_code == 415


def test_a_request_of_64_kib_is_taken_and_a_larger_one_is_not(desk, person):
    ann = person(desk)
    _, given = ann.post("next")
    body = {"id": "a" * 8, "item": given["task"]["item"], "value": 1, "scale": "7", "note": ""}
    size = len(str(body).encode()) + 20
    assert ann.post("label", body | {"note": "n" * (64 * 1024 - size)})[0] == 200
    assert ann.post("label", body | {"id": "b" * 8, "note": "n" * 64 * 1024})[0] == 413


def test_paths_lead_to_the_files_of_the_page_alone(desk):
    client = TestClient(desk.app)
    for name in ("labels.js", "labels.css", "theme.css", "base.css", "dom.js"):
        assert client.get(f"/static/{name}").status_code == 200
    for path in ("/static/../app.py", "/static/%2e%2e%2fapp.py", "/static/app.py", "/static/label.html.jinja", "/x"):
        assert client.get(path).status_code == 404


def test_every_answer_has_the_headers(desk):
    client = TestClient(desk.app)
    for path, more in [("/", {}), ("/static/labels.js", {}), ("/nothing", {}), ("/", {"Host": "evil.example"})]:
        got = client.get(path, headers=more)
        assert got.headers["content-security-policy"] == POLICY and "default-src 'none'" in POLICY
        assert got.headers["cache-control"] == "no-store" and got.headers["x-content-type-options"] == "nosniff"


BODIES = [
    {"value": 4},
    {"value": 1.5},
    {"value": "1"},
    {"value": None},
    {"value": True},
    {"scale": "9"},
    {"scale": "liked"},
    {"item": 10**6},
    {"item": "1"},
    {"item": True},
    {"id": ""},
    {"id": "<script>"},
    {"flags": "harmful"},
    {"flags": ["<b>"]},
    {"note": 1},
    {"edit": ["x"]},
    {"seconds": -1},
    {"seconds": "1"},
    {"shown": [0, 1]},
    {"annotator": 2},
]


def test_a_label_that_cannot_be_is_refused_and_not_kept(desk, person):
    ann = person(desk)
    _, given = ann.post("next")
    body = {"id": "a" * 8, "item": given["task"]["item"], "value": 1, "scale": "7"}
    for wrong in BODIES:
        status, told = ann.post("label", body | wrong)
        assert (status, next(iter(wrong)) in told["error"]["message"]) == (422, True), wrong
    for path, other in [("next", {"x": 1}), ("skip", {"item": 1, "reason": ""}), ("renew", {})]:
        assert ann.post(path, other)[0] == 422
    assert desk.store.labels() == [] and ann.post("label", body)[0] == 200


def test_an_annotator_is_no_organiser_and_the_organiser_no_annotator(desk, person):
    ann, chief = person(desk), person(desk, "organiser")
    assert [ann.post(path)[0] for path in ("overview", "decide", "unpark")] == [403, 403, 403]
    assert [chief.post(path)[0] for path in ("next", "label", "undo")] == [403, 403, 403]


def test_nothing_says_where_answers_come_from_before_the_label(desk_of, person):
    desk = desk_of([new_pair(0), new_pair(1), new_ranking(0)], annotators="me,you", overlap=2)
    you, ann = person(desk, "you"), person(desk)
    _, given = you.post("next")
    you.post("label", {"id": "a" * 8, "item": given["task"]["item"], "value": 3, "scale": "7", "note": "a secret note"})
    said = [ann.page, *(ann.client.post(f"/api/{path}", json={}).text for path in ("next", "undo", "renew"))]
    _, given = ann.post("next")
    body = {"id": "b" * 8, "item": given["task"]["item"], "value": 3, "scale": "7"}
    said.append(ann.client.post("/api/label", json=body).text)
    for text in said:
        assert not any(word in text for word in (SECRET, "7.25", "a secret note"))


def test_with_reveal_the_sources_are_told_after_the_label(desk_of, person):
    desk = desk_of([new_pair(0)], reveal=True)
    ann = person(desk)
    got = ann.client.post("/api/next", json={}).text
    assert SECRET not in got
    task = ann.post("next")[1]["task"]
    right_first = task["answers"][0][0]["content"] == "right 0"
    _, told = ann.post("label", {"id": "a" * 8, "item": task["item"], "value": 1, "scale": "7"})
    rewards = [f"{SECRET}, reward +7.25", f"{SECRET}, reward -7.25"]
    assert told["revealed"] == (rewards if right_first else rewards[::-1])


def test_guidelines_and_names_are_shown_as_text(desk_of, person):
    desk = desk_of([new_pair(0)], annotators="<i>ann")
    page = person(desk, "<i>ann").page
    assert "<b>Bold" not in page and "&lt;b&gt;Bold" in page and "<i>ann" not in page
