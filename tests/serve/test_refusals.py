"""Requests that cannot be answered: each is told what is wrong with it, in the form that OpenAI's clients raise."""

import json

import openai
import pytest
import requests

from easyrlhf.config import ScoreConfig
from easyrlhf.tools.score import print_score

MESSAGES = [{"role": "user", "content": "Hello"}]
ANSWER = {"role": "assistant", "content": "Hi"}
CHAT = {"model": "one", "messages": MESSAGES}
TEXT = {"model": "one", "prompt": "Hello"}


@pytest.fixture(scope="module")
def post(server):
    """post(path, body) -> the answer to a request with the key."""
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {server.key}"

    def send(path: str, body, **how) -> requests.Response:
        return session.post(server.url + path, json=body, **how)

    return send


def fault(got: requests.Response) -> dict:
    """The error of an answer, of OpenAI's form."""
    error = got.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and "Traceback" not in got.text
    return error


@pytest.mark.parametrize(
    "changed, param, words",
    [
        ({"model": None}, "model", "this server has one, two"),
        ({"model": 3}, "model", "must be the name"),
        ({"messages": None}, "messages", "expected a list of messages, found null"),
        ({"messages": []}, "messages", "is empty"),
        ({"messages": [{"role": "user"}]}, "messages", "messages[0]"),
        ({"messages": [{"role": "king", "content": "a"}]}, "messages", "unknown role 'king'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "image_url"),
        ({"messages": [*MESSAGES, ANSWER]}, "messages", "continue_final_message: true"),
        ({"continue_final_message": True}, "messages", "must end with the assistant turn"),
        ({"add_generation_prompt": False}, "add_generation_prompt", "continue_final_message"),
        (
            {"messages": [{"role": "user", "content": "why " * 200}]},
            "messages",
            "leave no place for an answer: one takes 128",
        ),
        ({"max_tokens": 120}, "max_tokens", "max_tokens 120: the prompt has 18 tokens and one takes 128"),
        ({"max_completion_tokens": 111}, "max_completion_tokens", "ask for 110 or less"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "give one of the two"),
        ({"max_tokens": 0}, "max_tokens", "must be 1 or more"),
        ({"max_tokens": "many"}, "max_tokens", "must be a whole number"),
        ({"max_tokens": True}, "max_tokens", "must be a whole number"),
        ({"temperature": -1}, "temperature", "from 0 to 100"),
        ({"temperature": "hot"}, "temperature", "must be a number"),
        ({"temperature": 10**400}, "temperature", "from 0 to 100"),
        ({"top_p": 1.5}, "top_p", "from 0 to 1"),
        ({"top_k": -2}, "top_k", "must be -1 or more"),
        ({"repetition_penalty": 0}, "repetition_penalty", "from 0.01 to 100"),
        ({"stop": ""}, "stop", "none of them empty"),
        ({"stop": [1]}, "stop", "must be a text or a list"),
        ({"stop": ["a"] * 17}, "stop", "up to 16"),
        ({"seed": 1.5}, "seed", "must be a whole number"),
        ({"n": 0}, "n", "from 1 to 32"),
        ({"n": 33}, "n", "from 1 to 32"),
        ({"stream": "yes"}, "stream", "must be true or false"),
        ({"stream_options": {}}, "stream_options", "belongs to stream"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options", "include_usage"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "from 0 to 20"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs: true"),
        ({"tools": [{"type": "function"}]}, "tools", "does not write tools"),
        ({"tools": "none"}, "tools", "expected a list"),
        ({"tool_choice": "required"}, "tool_choice", "alone are supported"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs", "no variable 'enable_thinking'"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", "is not a variable"),
        ({"temprature": 1}, "temprature", "did you mean temperature?"),
        ({"guided_json": {}}, "guided_json", "leave it out"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_cannot_be_asked_is_named(post, changed, param, words):
    got = post("/v1/chat/completions", CHAT | changed)
    error = fault(got)
    assert (got.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error"), error
    assert words in error["message"]


@pytest.mark.parametrize("prompt", [None, "", [], [[]], [1, "a"], ["a", ""], {"a": 1}, [-1], [10**6]])
def test_a_prompt_is_text_or_token_ids(post, prompt):
    got = post("/v1/completions", TEXT | {"prompt": prompt})
    assert got.status_code == 400 and fault(got)["param"] == "prompt"


def test_what_other_clients_send_by_habit_changes_nothing(post):
    habits = {"user": "me", "metadata": {"a": "b"}, "store": False, "frequency_penalty": 0, "presence_penalty": 0.0}
    habits |= {"logit_bias": {}, "response_format": {"type": "text"}, "parallel_tool_calls": True, "tools": None}
    habits |= {"tool_choice": "auto", "stop": None, "functions": None, "top_k": -1, "logprobs": False}
    asked = CHAT | {"temperature": 0, "max_tokens": 8}
    plain, more = (post("/v1/chat/completions", asked | extra).json() for extra in ({}, habits))
    assert plain["choices"] == more["choices"] and plain["usage"] == more["usage"]


def test_openais_client_raises_its_own_errors(client):
    with pytest.raises(openai.NotFoundError, match="model 'three': is not served here; this server has one, two"):
        client.chat.completions.create(model="three", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError, match="n 40: must be from 1 to 32") as raised:
        client.chat.completions.create(model="one", messages=MESSAGES, n=40)
    assert raised.value.param == "n"
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="one", messages=MESSAGES, max_tokens=1000)
    assert raised.value.code == "context_length_exceeded"
    assert client.models.retrieve("two").id == "two"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("three")


def test_when_too_many_wait_clients_are_told_to_come_again(client, server, monkeypatch):
    monkeypatch.setattr(server.engine, "max_waiting", 0)
    with pytest.raises(openai.InternalServerError) as raised:
        client.chat.completions.create(model="one", messages=MESSAGES)
    assert raised.value.status_code == 503 and raised.value.response.headers["Retry-After"] == "1"
    assert raised.value.code == "overloaded"


def test_a_fault_of_ours_says_nothing_but_that(client, server, post, monkeypatch, capfd):
    def broken(*_):
        raise RuntimeError("a secret")

    monkeypatch.setattr(server.engine.groups["one"], "step", broken)
    with pytest.raises(openai.InternalServerError) as raised:
        client.chat.completions.create(model="one", messages=MESSAGES)
    assert raised.value.status_code == 500 and "secret" not in raised.value.response.text
    with pytest.raises(openai.APIError, match="the server failed to answer"):
        list(client.chat.completions.create(model="one", messages=MESSAGES, stream=True))
    monkeypatch.setattr("easyrlhf.serve.app.chat_request", broken)
    got = post("/v1/chat/completions", CHAT)
    assert got.status_code == 500 and fault(got)["code"] == "internal_error" and "secret" not in got.text
    assert "a secret" in capfd.readouterr().err


@pytest.mark.parametrize(
    "body, words",
    [
        (b"{", "is not JSON"),
        (b"", "is not JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"model": "\xff"}', "is not UTF-8"),
        (b'{"model": "one", "model": "two"}', "stands twice"),
        (b'{"temperature": NaN}', "is not JSON"),
        (b'{"model": "\\ud83d"}', "half a surrogate pair"),
        (b'{"messages": [{"role": "user", "content": "a \\udc00"}]}', "half a surrogate pair"),
        (b"[" * 100_000, "is not JSON"),
        (b"1" * 5000, "is not JSON"),
    ],
    ids=range(10),
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/api/score"])
def test_what_is_no_json_or_no_text_is_a_bad_request(server, body, words, path):
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    got = requests.post(server.url + path, data=body, headers=headers)
    assert got.status_code == 400 and words in fault(got)["message"]


def test_a_score_is_that_of_easyrlhf_score_or_null_with_the_reason(post, folders, capsys):
    turns = [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "The grass is green."}]
    print_score(
        ScoreConfig(
            reward_model=str(folders.rm), prompt="Name a colour.", completion=turns[1]["content"], devices="cpu"
        )
    )
    expected = float(capsys.readouterr().out)
    assert post("/api/score", {"messages": turns}).json() == {"score": pytest.approx(expected, abs=1e-6), "note": None}
    cut = post("/api/score", {"messages": turns, "finished": False}).json()["score"]
    assert cut != pytest.approx(expected, abs=1e-3)
    long = [turns[0], {"role": "assistant", "content": "why " * 200}]
    found = post("/api/score", {"messages": long}).json()
    assert found["score"] is None and found["note"].endswith("tokens, more than 128")


@pytest.mark.parametrize(
    "body", [{}, {"messages": []}, {"messages": MESSAGES}, {"messages": "a"}, {"message": MESSAGES}]
)
def test_a_score_needs_an_answer(post, body):
    got = post("/api/score", body)
    assert got.status_code == 400 and fault(got)["param"] in ("messages", "message")


def test_the_server_says_what_it_has(server, client, post):
    about = requests.get(f"{server.url}/api/about", headers={"Authorization": f"Bearer {server.key}"}).json()
    models = [{"id": name, "title": str(getattr(server, name)), "positions": 128} for name in ("one", "two")]
    defaults = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0, "max_tokens": 24}
    assert about == {"models": models, "reward_model": "rm", "defaults": defaults, "version": "0"}
    assert [model.id for model in client.models.list()] == ["one", "two"]
    assert json.loads(requests.get(f"{server.url}/health").text) == {"status": "ok"}
