"""easyrlhf serve_judge: marks as rewards, in the reward server's protocol, each text marked once."""

import math
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from easyrlhf.config import ServeJudgeConfig
from easyrlhf.config.base import SettingError
from easyrlhf.errors import InputError
from easyrlhf.judges import judge_server
from easyrlhf.judges.judges import find_answering
from easyrlhf.judges.questions import RUBRIC
from easyrlhf.rewards.batch import RewardBatch
from easyrlhf.rewards.server import RewardServer
from easyrlhf.tools.serve_judge import MarkingJudge, read_rubric, serve_judge
from easyrlhf.tools.serve_reward import RewardHTTPServer
from easyrlhf.userfile import load_module

chat = load_module(Path(__file__).parents[1] / "judges" / "chat_server.py")
ASKED = [{"role": "user", "content": "Name a colour."}]
MARKS = {"blue": {"9": 0.5, " 9": 0.25, "8": 0.25}, "go away": {"1": 0.9, "2": 0.1}, "perhaps": {"5": 1.0, "x": 1e-9}}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(judge_server.time, "sleep", lambda seconds: None)


def marks(request) -> tuple[int, bytes]:
    """Marks by MARKS; other answers get no mark."""
    answer = request.question.split("# Answer\n")[1].split("\n\n")[0]
    if answer == "broken":
        return 400, b"no"
    return (
        chat.likely([(t, math.log(p)) for t, p in MARKS[answer].items()]) if answer in MARKS else chat.reply("Sorry.")
    )


@contextmanager
def served(url: str, **more):
    judge = MarkingJudge(find_answering(ServeJudgeConfig(judge_url=url, judge_model="m", **more)))
    with RewardHTTPServer(("127.0.0.1", 0), judge) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def turn(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def batch(*answers: str) -> RewardBatch:
    many = len(answers)
    return RewardBatch([ASKED] * many, [turn(one) for one in answers], [[1]] * many, [True] * many, {})


def test_what_ppo_asks_gets_the_mean_mark_between_minus_1_and_1():
    with chat.chat_server(marks) as (url, requests), served(url) as rewards:
        source = RewardServer(rewards, {})
        scores = source.start(batch("blue", "go away", "perhaps", "blue")).scores()
    assert scores == pytest.approx([(8.75 - 5) / 4, (1.1 - 5) / 4, 0, (8.75 - 5) / 4])
    assert len(requests) == 3
    [first] = [request for request in requests if "# Answer\nblue" in request.question]
    assert (first.body["logprobs"], first.body["top_logprobs"]) == (True, 20)
    assert "# Conversation\n[user]\nName a colour." in first.question
    assert RUBRIC in first.body["messages"][0]["content"]


def test_a_text_is_marked_once_and_another_prompt_is_another_text():
    with chat.chat_server(marks) as (url, requests), served(url) as rewards:
        for prompt in (ASKED, ASKED, "Name a colour:"):
            body = {"prompts": [prompt] * 2, "completions": [turn("blue"), "blue"]}
            assert requests_scores(rewards, body) == pytest.approx([0.9375] * 2)
        assert len(requests) == 2


def requests_scores(url: str, body: dict) -> list:
    answer = requests.post(url, json=body, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.json()["scores"]


def test_an_answer_without_a_mark_is_null_and_says_why():
    with chat.chat_server(marks) as (url, _), served(url) as rewards:
        answer = requests.post(rewards, json={"prompts": [ASKED] * 2, "completions": ["blue", "?"]}, timeout=20).json()
    assert answer == {
        "scores": [pytest.approx(0.9375), None],
        "notes": [None, "the judge gave no mark from 1 to 9"],
    }


def test_when_the_judge_fails_the_client_is_told_and_what_was_marked_is_kept():
    with chat.chat_server(marks) as (url, asked), served(url, judge_workers=1) as rewards:
        answer = requests.post(rewards, json={"prompts": [ASKED] * 2, "completions": ["blue", "broken"]}, timeout=20)
        assert answer.status_code == 500 and "refused a request with HTTP 400" in answer.text
        assert requests_scores(rewards, {"prompts": [ASKED], "completions": ["blue"]}) == [pytest.approx(0.9375)]
        assert Counter("blue" in request.question for request in asked) == {True: 1, False: 1}


@pytest.mark.parametrize(
    "body, words",
    [
        ([], "must be a JSON object"),
        ({"prompts": ["a"], "completions": []}, "1 prompts, but 0 completions"),
        ({"prompts": [1], "completions": ["a"]}, "prompts[0]: must be a string or a list of messages"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(body, words):
    with chat.chat_server(marks) as (url, _), served(url) as rewards:
        answer = requests.post(rewards, json=body, timeout=20)
    assert answer.status_code == 400 and words in answer.json()["error"]


def test_a_server_without_log_probabilities_is_asked_without_them_from_then_on():
    def answer(request):
        return (400, b"unknown field logprobs") if "logprobs" in request.body else chat.reply("7")

    with chat.chat_server(answer) as (url, asked), served(url, judge_workers=1) as rewards:
        assert requests_scores(rewards, {"prompts": ["a", "b"], "completions": ["c", "d"]}) == [0.5, 0.5]
    assert ["logprobs" in request.body for request in asked] == [True, False, False]


def test_the_rubric_of_a_file_takes_the_place_of_ours(tmp_path):
    (tmp_path / "rubric.txt").write_text("Short is good. {answer}\n")
    with chat.chat_server(marks) as (url, asked):
        judge = find_answering(ServeJudgeConfig(judge_url=url, judge_model="m"))
        MarkingJudge(judge, read_rubric(str(tmp_path / "rubric.txt"))).answer({"prompts": ["a"], "completions": ["b"]})
    said = asked[0].body["messages"][0]["content"]
    assert "Short is good. {answer}" in said and RUBRIC not in said


def test_what_cannot_be_served_is_bad_input(tmp_path):
    with pytest.raises(SettingError, match="give one of judge_url, judge_dir"):
        ServeJudgeConfig()
    with pytest.raises(InputError, match=r"--rubric .*nowhere: cannot be read"):
        serve_judge(ServeJudgeConfig(judge_url="http://h", judge_model="m", rubric=str(tmp_path / "nowhere")))
    (tmp_path / "empty").write_text(" \n")
    with pytest.raises(InputError, match="is empty"):
        read_rubric(str(tmp_path / "empty"))
