"""Reward servers as a source: what they are posted, what is tried again, and what is refused with its sample."""

import json
import socket
from pathlib import Path

import pytest

from easyrlhf.errors import InputError
from easyrlhf.rewards import server as client
from easyrlhf.rewards.batch import RewardError
from easyrlhf.rewards.server import RewardServer
from easyrlhf.userfile import load_module

http = load_module(Path(__file__).parent / "http_server.py")
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
TOKENIZER = {"tokenizer": "a", "chat_template": "b"}
CHAT = [{"role": "user", "content": "Name a colour."}]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """Pauses between attempts are noted, not taken."""
    pauses = []
    monkeypatch.setattr(client.time, "sleep", pauses.append)
    return pauses


def lengths(request: dict) -> tuple[int, bytes]:
    """Scores that are the lengths of the completions."""
    return http.scores(*map(len, request["completions"]))


def test_a_server_is_posted_everything_that_is_known(batch_of, prompt_row, answer):
    batch = batch_of(
        [prompt_row([3], "first", label="a", finished="the data's own"), prompt_row([4], CHAT, level=1)],
        [answer("blue"), answer("green", ended=False)],
        [True, False],
    )
    with http.reward_server(lambda _: http.scores(0.5, None)) as (url, requests):
        assert RewardServer(url, TOKENIZER).start(batch).scores() == [0.5, None]
    assert requests == [
        {
            "prompts": ["first", CHAT],
            "completions": ["blue", [{"role": "assistant", "content": "green"}]],
            "completion_ids": [answer("blue"), answer("green", ended=False)],
            "finished": [True, False],
            "tokenizer": TOKENIZER,
            "label": ["a", None],
            "level": [None, 1],
        }
    ]


@pytest.mark.parametrize("count, sizes", [(1, [1]), (64, [64]), (65, [64, 1]), (150, [64, 64, 22])])
def test_completions_are_posted_in_batches_and_their_scores_keep_their_order(
    batch_of, prompt_row, answer, count, sizes
):
    rows = [prompt_row([3], str(place)) for place in range(count)]
    batch = batch_of(rows, [answer("x" * (1 + place % 7)) for place in range(count)])
    with http.reward_server(lengths) as (url, requests):
        assert RewardServer(url, TOKENIZER).start(batch).scores() == [1 + place % 7 for place in range(count)]
    assert [len(request["prompts"]) for request in requests] == sizes


@pytest.mark.parametrize("size, sizes", [(8, [64, 16]), (24, [48, 32]), (40, [40, 40]), (80, [80])])
def test_a_prompts_completions_are_in_one_request(batch_of, prompt_row, answer, size, sizes):
    batch = batch_of([prompt_row([3], str(place // size)) for place in range(80)], [answer("x")] * 80)
    with http.reward_server(lengths) as (url, requests):
        RewardServer(url, TOKENIZER).start(batch).scores()
    assert [len(request["prompts"]) for request in requests] == sizes


@pytest.mark.parametrize("trouble", [(500, b"busy"), (503, b""), "close", "cut"], ids=["500", "503", "close", "cut"])
def test_trouble_that_passes_is_waited_out(three, trouble, no_pauses):
    answers = [trouble, trouble, trouble, http.scores(1, 2, 3)]
    with http.reward_server(lambda _: answers.pop(0)) as (url, requests):
        assert RewardServer(url, TOKENIZER).start(three).scores() == [1, 2, 3]
    assert len(requests) == 4 and all(request == requests[0] for request in requests)
    assert no_pauses == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    "trouble, message",
    [
        ((500, b"out of memory"), "HTTP 500 Internal Server Error: out of memory"),
        ("close", "RemoteDisconnected: Remote end closed connection without response"),
        ("cut", r"IncompleteRead"),
    ],
    ids=["500", "close", "cut"],
)
def test_trouble_that_stays_is_told_with_a_sample(three, trouble, message, no_pauses):
    with http.reward_server(lambda _: trouble) as (url, requests), pytest.raises(RewardError, match=message) as caught:
        RewardServer(url, TOKENIZER).start(three).scores()
    assert str(caught.value).startswith(f"reward server {url} failed 7 times in a row, at last with ")
    assert str(caught.value).endswith("\n  prompt: 'a'\n  completion: '1'")
    assert len(requests) == 7 and no_pauses == [0.5, 1, 2, 4, 8, 16]


def test_a_server_that_is_gone_is_tried_again_and_named(three, no_pauses):
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RewardError, match=f"{url} failed 7 times in a row, at last with .*Connection refused"):
        RewardServer(url, TOKENIZER).start(three).scores()


@pytest.mark.parametrize("status", [400, 404, 422, 429])
def test_a_refusal_is_not_tried_again_and_its_message_is_shown(three, status, no_pauses):
    text = json.dumps({"error": "no column named label"}).encode()
    with http.reward_server(lambda _: (status, text)) as (url, requests), pytest.raises(RewardError) as caught:
        RewardServer(url, TOKENIZER).start(three).scores()
    assert f"refused a request with HTTP {status}" in str(caught.value)
    assert "no column named label" in str(caught.value) and "completion: '1'" in str(caught.value)
    assert len(requests) == 1 and not no_pauses


@pytest.mark.parametrize(
    "body, message",
    [
        (b"<html>", r'must answer \{"scores": \[…\]\} in JSON; it answered HTTP 200 OK: <html>'),
        (b"", "it answered HTTP 200 OK: no text"),
        (b"[1, 2, 3]", "must answer"),
        (b'{"rewards": [1, 2, 3]}', "must answer"),
        (b'{"scores": [1, 2]}', "returned 2 scores for 3 completions"),
        (b'{"scores": null}', "returned NoneType, which is no list, for 3 completions"),
    ],
)
def test_an_answer_without_a_score_each_is_refused(three, body, message):
    with http.reward_server(lambda _: (200, body)) as (url, _), pytest.raises(RewardError, match=message) as caught:
        RewardServer(url, TOKENIZER).start(three).scores()
    assert str(caught.value).endswith("\n  prompt: 'a'\n  completion: '1'")


@pytest.mark.parametrize("bad", ["NaN", "Infinity", '"3"', "[1]"])
def test_a_score_that_is_no_number_shows_its_own_sample(rewards_of, three, prompt_row, answer, bad):
    import torch

    rows, ids = [prompt_row([3], "first"), prompt_row([3], "second")], [answer("blue"), answer("green")]
    text = f'{{"scores": [1.0, {bad}]}}'.encode()
    with (
        http.reward_server(lambda _: (200, text)) as (url, _),
        pytest.raises(RewardError, match=r"reward_url returned .*not a finite number") as caught,
    ):
        rewards_of([RewardServer(url, TOKENIZER)])(rows, ids, torch.tensor([True, True]))
    assert str(caught.value).endswith("  prompt: 'second'\n  completion: 'green'")


def test_a_server_that_takes_too_long_is_named(three):
    import threading

    held = threading.Event()
    with http.reward_server(lambda _: held.wait() and http.scores(1, 2, 3)) as (url, _):
        with pytest.raises(RewardError, match=f"reward server {url} gave no scores for 3 completions within 0.2 s"):
            RewardServer(url, TOKENIZER, timeout=0.2).start(three).scores()
        held.set()


def test_servers_work_side_by_side(rewards_of, prompt_row, answer):
    import threading

    import torch

    both = threading.Barrier(2, timeout=20)

    def meet(_):
        both.wait()
        return http.scores(1.0)

    with http.reward_server(meet) as (one, _), http.reward_server(meet) as (other, _):
        rewards = rewards_of([RewardServer(one, TOKENIZER), RewardServer(other, TOKENIZER)])
        scores, raw = rewards([prompt_row([3])], [answer("x")], torch.tensor([True]))
    assert scores.item() == 2.0 and list(raw) == ["reward_url", "reward_url_2"]


def test_a_server_that_is_not_there_is_bad_input_before_the_run():
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/score"
    with pytest.raises(InputError, match=rf"--reward_url {url}: no server answers there \(.*refused.*serve_reward"):
        client.check_server(url)


def test_any_sign_of_life_will_do():
    with http.reward_server(lengths) as (url, requests):
        client.check_server(url)  # it answers GET with 405
    assert not requests
