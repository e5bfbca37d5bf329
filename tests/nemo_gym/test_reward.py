"""A resources server as a source of reward: what it is posted, and what is made of everything that it may answer."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from easyrlhf.config import GRPOConfig
from easyrlhf.nemo_gym.reward import GymReward, Verification
from easyrlhf.nemo_gym.servers import GymServers, find_servers
from easyrlhf.online.grpo import objectives
from easyrlhf.online.rollout import scores_by_source
from easyrlhf.rewards.batch import RewardError
from easyrlhf.rewards.combined import Rewards
from easyrlhf.userfile import load_module

gym = load_module(Path(__file__).parent / "gym_server.py")
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


ASKED = [{"role": "user", "content": "A or B?"}]


def source(url: str, timeout: float = 20.0) -> GymReward:
    return GymReward(find_servers(url, None), timeout)


def test_a_completion_is_seeded_and_verified_with_its_whole_row(batch):
    row = {"id": 7, "expected_answer": "A", "messages": '[{"role": "user"}]', "system": None, "n": 1.0}
    with gym.gym_server(verify=gym.graded) as server:
        assert source(server.url).start(batch("A", **row)).scores() == [1.0]
    whole = {"responses_create_params": {"input": [{"role": "user", "content": "A or B?"}]}} | row
    response = {
        "id": "resp_0",
        "created_at": 0,
        "model": "policy",
        "object": "response",
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
        "output": [
            {
                "id": "msg_0",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "A", "annotations": []}],
            }
        ],
    }
    assert server.asked == [("seed_session", whole, ""), ("verify", whole | {"response": response}, "1")]


def test_every_completion_has_a_session_of_its_own_and_keeps_its_reward(batch):
    texts = [["A", "B", "C"][number % 3] for number in range(150)]
    with gym.gym_server(verify=gym.graded) as server:
        found = source(server.url).start(batch(*texts, expected_answer="B")).scores()
    assert found == [float(text == "B") for text in texts]
    sessions = [session for path, _, session in server.asked if path == "verify"]
    assert len(set(sessions)) == 150 and "" not in sessions


def test_64_completions_wait_side_by_side(batch):
    together = threading.Barrier(64, timeout=20)  # broken, and so an error, unless all 64 are asked at once

    def verify(body: dict, session: str):
        together.wait()
        return gym.graded(body, session)

    with gym.gym_server(verify=verify) as server:
        assert source(server.url).start(batch(*["A"] * 64, expected_answer="A")).scores() == [1.0] * 64


REFUSED = {
    "a field is missing": (gym.graded, "refused with /verify HTTP 422 Unprocessable Entity: ", '"expected_answer"'),
    "another status": ((202, {"reward": 1.0}), "refused with /verify HTTP 202 Accepted", '"reward": 1.0'),
    "nan": ((200, {"reward": float("nan")}), "'reward' is nan, which is no finite number", "HTTP 200 OK"),
    "infinite": ((200, {"reward": float("inf")}), "'reward' is inf, which is no finite number", "HTTP 200 OK"),
    "a text": ((200, {"reward": "1.0"}), "'reward' is '1.0', which is no finite number", "HTTP 200 OK"),
    "true": ((200, {"reward": True}), "'reward' is True, which is no finite number", "HTTP 200 OK"),
    "null": ((200, {"reward": None}), "'reward' is None, which is no finite number", "HTTP 200 OK"),
    "no reward": ((200, {"score": 1}), "must be an object with 'reward'", '"score": 1'),
    "a list": ((200, [1.0]), "must be an object with 'reward'", "[1.0]"),
    "no JSON": ((200, "good"), "answers no JSON, but /verify HTTP 200 OK: good", ""),
    "a part that is nan": (
        (200, {"reward": 1.0, "reward_components": {"form": float("nan")}}),
        "'form' is nan, which is no finite number",
        "",
    ),
    "parts that are none": ((200, {"reward": 1.0, "reward_components": [1.0]}), "'reward_components' must be an", ""),
}


@pytest.mark.parametrize("answer, said, body", REFUSED.values(), ids=[name.replace(" ", "_") for name in REFUSED])
def test_any_other_answer_is_an_error_that_names_server_and_row(batch, pauses, answer, said, body):
    with gym.gym_server(verify=answer) as server, pytest.raises(RewardError) as error:
        source(server.url).start(batch("A")).scores()
    first, *_, prompt, completion = str(error.value).splitlines()
    assert first.startswith(f"NeMo Gym server {server.url}, row rows.jsonl:1: ")
    assert said in first and body in first
    assert (prompt, completion) == ("  prompt: 'A or B?'", "  completion: 'A'")
    assert not pauses


def test_a_session_that_is_refused_is_an_error(batch):
    with (
        gym.gym_server(seed_session=(422, {"detail": "no"})) as server,
        pytest.raises(RewardError, match=r'rows.jsonl:1: refused with /seed_session HTTP 422 .*: {"detail": "no"}'),
    ):
        source(server.url).start(batch("A")).scores()


def test_a_verifier_that_raises_is_asked_again_in_a_new_session_and_then_ends_the_run(batch, pauses):
    with gym.gym_server(verify=(500, "division by zero")) as server, pytest.raises(RewardError) as error:
        source(server.url).start(batch("A")).scores()
    assert f"{server.url}, row rows.jsonl:1: failed 7 times in a row, at last with /verify HTTP 500" in str(error.value)
    assert "division by zero" in str(error.value)
    assert [session for path, _, session in server.asked if path == "verify"] == [str(n) for n in range(1, 8)]
    assert {session for path, _, session in server.asked if path == "seed_session"} == {""}
    assert pauses == [0.5, 1, 2, 4, 8, 16]


def test_trouble_that_passes_costs_nothing(batch):
    answers = iter([(503, "busy"), (200, {"reward": 0.25})])
    with gym.gym_server(verify=lambda *_: next(answers)) as server:
        assert source(server.url).start(batch("A")).scores() == [0.25]


def test_a_refused_connection_names_server_and_row(batch):
    with gym.gym_server(verify=gym.graded) as server:
        found = source(server.url)
    with pytest.raises(RewardError, match=rf"{server.url}, row rows.jsonl:1: failed 7 times in a row.*refused"):
        found.start(batch("A", expected_answer="A")).scores()


def test_servers_that_are_late_end_the_wait_with_server_and_row(batch):
    free = threading.Event()

    def verify(body: dict, session: str):
        free.wait(20)
        return gym.graded(body, session)

    with gym.gym_server(verify=verify) as server:
        with pytest.raises(RewardError) as error:
            source(server.url, timeout=0.5).start(batch("A", "B", expected_answer="A")).scores()
        free.set()
    late = (
        f"NeMo Gym server {server.url}, row rows.jsonl:1: gave no reward within 0.5 s (--reward_timeout), in which 0 of"
    )
    assert str(error.value).startswith(late)


def test_the_row_that_is_named_is_the_first_that_waits(batch):
    waits = Verification(GymServers("http://gym", None), batch(*"ABC"), 5.0, late={1, 2}, verdicts={0: (1.0, {})})
    said = (
        "NeMo Gym server http://gym, row rows.jsonl:2: gave no reward within 5 s (--reward_timeout), in which 1 of 3 "
    )
    assert str(waits.too_slow()) == f"{said}completions were verified\n  prompt: 'A or B?'\n  completion: 'B'"


def test_components_are_sources_of_their_own_beside_the_sum(chatml_renderer, prompt_row, tokenizer):
    def verify(body: dict, _: str):
        parts = {"form": 0.5} | ({"right": 1.0} if body["expected_answer"] == "A" else {})
        return 200, {"reward": 3.0 * sum(parts.values()), "reward_components": parts}

    rows = [
        prompt_row([3], ASKED, nemo_gym_row={"expected_answer": expected}) | {"place": f"rows.jsonl:{number}"}
        for number, expected in enumerate("AB", 1)
    ]
    completions = [tokenizer("A", add_special_tokens=False)["input_ids"] + [2]] * 2
    with gym.gym_server(verify=verify) as server:
        rewards = Rewards([source(server.url)], [2.0], None, 0.0, chatml_renderer)
        scores, raw = rewards(rows, completions, torch.tensor([True, True]))
    assert scores.tolist() == [9.0, 3.0]
    assert {name: found.nan_to_num(-1).tolist() for name, found in raw.items()} == {
        "nemo_gym": [4.5, 1.5],
        "nemo_gym/form": [0.5, 0.5],
        "nemo_gym/right": [1.0, -1.0],
    }


def test_where_objectives_are_standardised_apart_a_reward_with_parts_is_its_parts():
    nan = torch.nan
    raw = {"short": [7.0, 8.0, 9.0], "nemo_gym": [3.0, 1.0, 2.0]}
    raw |= {"nemo_gym/form": [1.0, nan, 0.0], "nemo_gym/right": [2.0, nan, nan]}
    config = GRPOConfig(
        model="m", train_data="d", reward_funcs="a.py:short", nemo_gym_url="http://gym", reward_weights="3,2"
    )
    scores, weights = objectives({name: torch.tensor(values) for name, values in raw.items()}, config)
    expected = [[7.0, 8.0, 9.0], [-1.0, 1.0, -1.0], [1.0, -1.0, 0.0], [2.0, -1.0, -1.0]]  # -1 for nan
    assert [one.nan_to_num(-1).tolist() for one in scores] == expected
    assert weights == [3.0, 2.0, 2.0, 2.0]


def test_parts_that_one_rollout_lacks_do_not_apply_there():
    first, second = (
        SimpleNamespace(scores=torch.zeros(2), source_scores={name: torch.ones(2) for name in names})
        for names in (("nemo_gym",), ("nemo_gym", "nemo_gym/form"))
    )
    found = scores_by_source([first, second])
    assert found["nemo_gym"].tolist() == [1, 1, 1, 1]
    assert found["nemo_gym/form"].nan_to_num(-1).tolist() == [-1, -1, 1, 1]
