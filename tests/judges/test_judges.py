"""Judges of pairs: what they are asked, how their replies are read, what is tried again, and that no key is shown."""

import threading
import time
from itertools import count
from pathlib import Path

import pytest

from easyrlhf.config import CompareConfig
from easyrlhf.errors import InputError, RunError, SettingError
from easyrlhf.judges import judge_server
from easyrlhf.judges.judge_server import EndpointJudge, completions_url
from easyrlhf.judges.judges import FunctionJudge, check_judge, find_judge
from easyrlhf.judges.letters import read_letter
from easyrlhf.judges.pairs import Opinion, Pair, ask_all, merged_opinions
from easyrlhf.userfile import load_module

chat = load_module(Path(__file__).parent / "chat_server.py")
KEY = "sk-test-0123456789"
PAIR = Pair([{"role": "user", "content": "Name {answer_b}."}], "blue", "red {prompt}", {"topic": "colours"})


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """Pauses between attempts are noted, not taken."""
    taken = []
    monkeypatch.setattr(judge_server.time, "sleep", taken.append)
    return taken


def config(**more) -> CompareConfig:
    return CompareConfig(**{"models": "a,b", "prompts": "p.jsonl"} | more)


def judge_at(url: str, **more) -> EndpointJudge:
    settings = {"name": "m", "key": KEY, "variable": "SOME_KEY", "temperature": 0.0, "workers": 1}
    return EndpointJudge(completions_url(url), **settings | more)


# --- python functions


def function(tmp_path, body: str, head: str = "prompt, answer_a, answer_b, **columns"):
    (tmp_path / "judge.py").write_text(f"def fn({head}):\n    {body}\n")
    return find_judge(config(judge=f"{tmp_path / 'judge.py'}:fn"))


@pytest.mark.parametrize(
    "body, prefers",
    [
        ("return 'A'", 1.0),
        ("return 'B'", 0.0),
        ("return 'tie'", 0.5),
        ("return 0.25", 0.25),
        ("import numpy; return numpy.float32(1)", 1.0),
        ("return 'A' if columns == {'topic': 'colours'} else 'B'", 1.0),
        ("return 'A' if (prompt[0]['role'], answer_a, answer_b) == ('user', 'blue', 'red {prompt}') else 'B'", 1.0),
    ],
)
def test_a_function_says_a_letter_or_a_number(tmp_path, body, prefers):
    assert function(tmp_path, body)(PAIR) == Opinion(prefers)


@pytest.mark.parametrize("body", ["return 'C'", "return None", "return 1.5", "return True", "return 'a'", "pass"])
def test_anything_else_stops_with_the_pair(tmp_path, body):
    with pytest.raises(RunError, match=r"judge fn returned .* must return 'A', 'B', 'tie'") as raised:
        function(tmp_path, body)(PAIR)
    assert "answer_a: 'blue'" in str(raised.value)


def test_a_function_that_raises_is_named_with_its_line(tmp_path):
    with pytest.raises(RunError, match=r"judge fn raised ZeroDivisionError: division by zero \(judge\.py:2\)"):
        function(tmp_path, "1 / 0")(PAIR)


def test_an_async_function_is_awaited(tmp_path):
    (tmp_path / "judge.py").write_text("async def fn(prompt, answer_a, answer_b, **columns):\n    return 'A'\n")
    assert find_judge(config(judge=f"{tmp_path / 'judge.py'}:fn"))(PAIR) == Opinion(1.0)


@pytest.mark.parametrize(
    "head, words",
    [
        ("prompt, answer_a, answer_b", "takes no parameter topic"),
        ("prompt, a, b, **rest", "needs a, b, which is no column of --prompts"),
        ("question, **rest", "needs question"),
    ],
)
def test_a_function_that_cannot_be_called_is_found_before_it_is(tmp_path, head, words):
    judge = function(tmp_path, "return 'A'", head)
    with pytest.raises(InputError, match=words):
        check_judge(config(judge="judge.py:fn"), judge, ["topic"])


def test_a_column_that_a_row_lacks_is_none(tmp_path):
    judge = function(tmp_path, "return 'A' if topic is None else 'B'", "prompt, answer_a, answer_b, topic")
    check_judge(config(judge="judge.py:fn"), judge, ["topic"])
    assert judge(Pair("p", "x", "y", {})) == Opinion(1.0)


def test_a_function_that_is_not_there_is_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"there is no file nowhere\.py"):
        find_judge(config(judge="nowhere.py:fn"))
    (tmp_path / "judge.py").write_text("def other(): pass\n")
    with pytest.raises(InputError, match="has no function fn; it has other"):
        find_judge(config(judge=f"{tmp_path / 'judge.py'}:fn"))


# --- a server


@pytest.mark.parametrize(
    "said, letter",
    [
        *(
            ("A", 1.0),
            ("B", 0.0),
            ("C", 0.5),
            (" A.\n", 1.0),
            ("**B**", 0.0),
            ("(C)", 0.5),
            ('"A"', 1.0),
            ("[[B]]", 0.0),
        ),
        *((text, None) for text in ("", "a", "D", "A B", "AB", "Answer A", "A is better", "A or B", "Both.", None, 1)),
    ],
)
def test_a_reply_is_one_letter_or_unreadable(said, letter):
    assert read_letter(said) == letter


def test_the_server_is_asked_for_one_letter_about_both_answers():
    with chat.chat_server(lambda request: chat.reply("B")) as (url, requests):
        assert judge_at(url)(PAIR) == Opinion(0.0, "B")
    [request] = requests
    assert (request.path, request.key) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert {name: request.body[name] for name in ("model", "temperature")} == {"model": "m", "temperature": 0.0}
    assert set(request.body) == {"model", "temperature", "messages"}
    assert "one letter and nothing else" in request.body["messages"][0]["content"]
    parts = request.question.split("\n\n")
    assert parts[0] == "# Conversation\n[user]\nName {answer_b}."  # braces of a text are left as they are
    assert parts[1:3] == ["# Answer A\nblue", "# Answer B\nred {prompt}"]


def test_no_temperature_and_no_key_are_left_out():
    with chat.chat_server(lambda request: chat.reply("C")) as (url, requests):
        assert judge_at(url, key="", temperature=None)(PAIR).prefers_a == 0.5
    assert requests[0].key is None and "temperature" not in requests[0].body


@pytest.mark.parametrize("given", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/chat/completions"])
def test_the_address_may_be_given_with_or_without_its_path(given):
    assert completions_url(given) == "http://h:1/v1/chat/completions"


def test_an_unreadable_reply_is_no_verdict_and_what_it_said_is_kept():
    with chat.chat_server(lambda request: chat.reply("I like A")) as (url, _):
        assert judge_at(url)(PAIR) == Opinion(None, "I like A")


def test_busy_and_broken_servers_are_tried_again(pauses):
    given = iter([(429, b"slow down"), (503, b""), (429, b"", {"Retry-After": "9"}), chat.reply("A")])
    with chat.chat_server(lambda request: next(given)) as (url, requests):
        assert judge_at(url)(PAIR).prefers_a == 1.0
    assert len(requests) == 4
    assert pauses == [0.5, 1.0, 9.0]


def test_a_server_that_stays_broken_ends_the_command_with_what_it_said(pauses):
    with (
        chat.chat_server(lambda request: (500, b"out of memory")) as (url, requests),
        pytest.raises(RunError, match=r"failed 7 times in a row, at last with HTTP 500 .*out of memory") as raised,
    ):
        judge_at(url)(PAIR)
    assert len(requests) == 7 and pauses == [0.5, 1, 2, 4, 8, 16]
    assert "the same command goes on from there" in str(raised.value)


@pytest.mark.parametrize(
    "answer, words",
    [
        ((404, b"no model m"), "refused a request with HTTP 404 Not Found: no model m"),
        ((307, b"", {"Location": "http://127.0.0.1:1/"}), "refused a request with HTTP 307"),
        ((200, b"hello"), r"answered without choices\[0\].message.content: HTTP 200 OK: hello"),
        ((200, b'{"choices": []}'), "answered without choices"),
    ],
)
def test_a_refusal_is_not_tried_again(answer, words):
    with chat.chat_server(lambda request: answer) as (url, requests), pytest.raises(RunError, match=words):
        judge_at(url)(PAIR)
    assert len(requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500])
def test_no_message_holds_the_key(status):
    """Not even where the server repeats it, whole or in part."""
    said = f"Incorrect API key provided: {KEY} ({KEY[:12]}***)".encode()
    with chat.chat_server(lambda request: (status, said)) as (url, _), pytest.raises(RunError) as raised:
        judge_at(url)(PAIR)
    assert KEY not in str(raised.value) and KEY not in repr(judge_at(url))
    if status in (401, 403):
        assert "the key in the environment variable SOME_KEY is not accepted" in str(raised.value)
        assert KEY[:8] not in str(raised.value)


def test_a_reply_or_a_long_message_that_holds_the_key_loses_it():
    with chat.chat_server(lambda request: chat.reply(f"{'x' * 490}{KEY}")) as (url, _):
        said = judge_at(url)(PAIR).said
    assert said == f"{'x' * 490}[key]"


# --- what the settings give


def test_the_key_comes_from_the_variable_that_is_named(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "usual")
    monkeypatch.setenv("MINE", f" {KEY}\n")
    with chat.chat_server(lambda request: chat.reply("A")) as (url, requests):
        find_judge(config(judge_url=url, judge_model="m"))(PAIR)
        find_judge(config(judge_url=url, judge_model="m", judge_key_env="MINE"))(PAIR)
        monkeypatch.delenv("OPENAI_API_KEY")
        find_judge(config(judge_url=url, judge_model="m"))(PAIR)
    assert [request.key for request in requests] == ["Bearer usual", f"Bearer {KEY}", None]


def test_a_netrc_does_not_take_the_place_of_the_key(monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with chat.chat_server(lambda request: chat.reply("A")) as (url, requests):
        judge_at(url)(PAIR)
    assert requests[0].key == f"Bearer {KEY}"


@pytest.mark.parametrize("value", ["", "  ", "two words", "a\nb", "schlüssel"])
def test_a_key_that_can_be_none_is_bad_input_and_not_shown(monkeypatch, value):
    monkeypatch.setenv("MINE", value)
    with pytest.raises(InputError) as raised:
        find_judge(config(judge_url="http://127.0.0.1:9", judge_model="m", judge_key_env="MINE"))
    assert not value.strip() or value not in str(raised.value)


def test_a_server_that_is_not_there_or_does_not_accept_the_key_is_found_before_the_work(monkeypatch):
    monkeypatch.setenv("MINE", KEY)
    with pytest.raises(InputError, match="no server answers there"):
        find_judge(config(judge_url="http://127.0.0.1:9", judge_model="m"))
    with chat.chat_server(lambda request: chat.reply("A"), get=401) as (url, requests):
        with pytest.raises(InputError, match="the key in the environment variable MINE is not accepted"):
            find_judge(config(judge_url=url, judge_model="m", judge_key_env="MINE"))
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(InputError, match="put one into the environment variable OPENAI_API_KEY"):
            find_judge(config(judge_url=url, judge_model="m"))
    assert requests == []


@pytest.mark.parametrize(
    "url", [f"https://me:{KEY}@host", f"https://host/v1?key={KEY}", f"host/{KEY}", f"file:///{KEY}"]
)
def test_an_address_that_may_hold_a_key_is_refused_and_not_shown(url):
    with pytest.raises(SettingError) as raised:
        config(judge_url=url, judge_model="m")
    assert KEY not in str(raised.value)


def test_a_key_in_the_place_of_its_variable_is_refused_and_not_shown():
    with pytest.raises(SettingError, match="must be the name of an environment variable") as raised:
        config(judge_url="http://h", judge_model="m", judge_key_env=KEY)
    assert KEY not in str(raised.value)


# --- both orders, side by side


@pytest.mark.parametrize(
    "orders, verdict",
    [
        ((1.0, 1.0), (1.0, True)),
        ((0.0, 0.0), (0.0, True)),
        ((0.5, 0.5), (0.5, True)),
        ((1.0, 0.0), (0.5, False)),  # always the same place: a tie
        ((1.0, 0.5), (0.5, False)),
        ((0.9, 0.7), (0.8, True)),
        ((0.9, 0.3), (0.5, False)),
        ((None, 1.0), (None, None)),
        ((0.0, None), (None, None)),
    ],
)
def test_orders_that_disagree_make_a_tie(orders, verdict):
    assert merged_opinions(*orders) == pytest.approx(verdict)


def test_as_many_are_asked_side_by_side_as_there_are_workers():
    """The barrier breaks, and the test fails, unless three are asked at once."""
    together, kept = threading.Barrier(3, timeout=20), []

    def judge(pair):
        together.wait()
        return Opinion(1.0)

    ask_all(judge, 3, [(i, PAIR) for i in range(9)], lambda key, opinion: kept.append(key))
    assert sorted(kept) == list(range(9))


@pytest.mark.parametrize("workers", [1, 4])
def test_when_one_fails_what_is_there_is_kept_and_little_more_is_asked(workers):
    asked, kept, numbers = [], [], count(1)

    def judge(pair):
        number = next(numbers)
        asked.append(number)
        if number == 10:
            raise RunError("the tenth")
        time.sleep(0.002)
        return Opinion(1.0)

    with pytest.raises(RunError, match="the tenth"):
        ask_all(judge, workers, [(i, PAIR) for i in range(500)], lambda key, opinion: kept.append(key))
    assert len(kept) == len(asked) - 1
    assert 9 <= len(kept) < 400


def test_a_function_is_asked_in_one_thread():
    assert FunctionJudge(print, "print").workers == 1
