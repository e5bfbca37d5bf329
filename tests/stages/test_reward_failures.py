"""Rewards that fail in the middle of a run: exit 1 with the sample, nothing lost, and the same command goes on."""

import json
import re
import threading
from pathlib import Path

import pytest

from easyrlhf.cli.stages import ppo_train as ppo_main
from easyrlhf.config import GRPOConfig, PPOConfig, ServeRewardConfig
from easyrlhf.rewards import server as client
from easyrlhf.stages.online import train_grpo, train_ppo
from easyrlhf.tools.scoring import load_scorer
from easyrlhf.tools.serve_reward import RewardHTTPServer
from easyrlhf.userfile import load_module

http = load_module(Path(__file__).parents[1] / "rewards" / "http_server.py")
CLOCK = ("time/", "tokens_per_second")
FUNCTION = """
import time
calls = 0

def score(prompts, completions, **_):
    global calls
    calls += 1
    scores = [len(completion[0]["content"]) / 10 for completion in completions]
    {fault}
    return scores
"""
FAULTS = {
    "raises": ("if calls == 3: scores[0] / 0 or 1 / 0", "reward function score raised ZeroDivisionError"),
    "hangs": ("if calls == 3: time.sleep(600)", "gave no scores for 8 completions within 2 s (--reward_timeout)"),
    "says nan": ("if calls == 3: scores[2] = float('nan')", "score returned nan, which is not a finite number"),
    "wrong count": ("if calls == 3: scores = scores[1:]", "reward function score returned 7 scores for 8 completions"),
}


def numbers(folder: Path) -> list[dict]:
    """The rows of metrics.jsonl without what depends on the clock."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(CLOCK)} for row in rows]


def checkpoints(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


@pytest.fixture
def run(data, chain, small_ppo, tmp_path, capsys):
    """run(output_dir, main=ppo_main, **flags) -> (exit code, what went to stderr); 4 rollouts, the third fails."""

    def command(folder: Path, main=ppo_main, **flags) -> tuple[int, str]:
        settings = small_ppo | {"model": chain.sft, "train_data": data.prompts, "total_episodes": 32}
        settings |= {"num_sample_generations": 0, "save_steps": 4, "output_dir": folder} | flags
        words = [word for name, value in settings.items() if value is not None for word in (f"--{name}", str(value))]
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(words)
        return end.value.code, capsys.readouterr().err

    return command


@pytest.fixture
def function(tmp_path):
    """function(fault) -> what --reward_funcs takes; called again, it rewrites the file."""

    def write(fault: str = "pass") -> str:
        (tmp_path / "rewards.py").write_text(FUNCTION.format(fault=fault))
        return f"{tmp_path / 'rewards.py'}:score"

    return write


@pytest.mark.parametrize("how", FAULTS)
def test_a_function_that_fails_stops_the_run_and_mended_continues_it(run, function, tmp_path, how):
    fault, message = FAULTS[how]
    folder = tmp_path / "run"
    code, errors = run(folder, reward_funcs=function(fault), reward_timeout=2)
    assert code == 1 and message in errors and "Traceback" not in errors
    assert "  prompt: 'Say " in errors and "\n  completion: '" in errors
    assert f"Safe on disk: {folder}/checkpoints/step-2. The same command continues the run." in errors
    assert checkpoints(folder) == {"step-2"} and len(numbers(folder)) == 2
    assert run(folder, reward_funcs=function(), reward_timeout=60)[0] == 0  # a limit may be raised on the way
    if how == "raises":
        assert run(tmp_path / "whole", reward_funcs=function())[0] == 0
        assert numbers(folder) == numbers(tmp_path / "whole")
    assert [row["step"] for row in numbers(folder)] == [1, 2, 3, 4]


def test_a_function_that_fails_in_an_evaluation_loses_no_step(run, function, data, tmp_path):
    folder, evaluated = tmp_path / "run", {"valid_data": data.prompts, "eval_steps": 2}
    # six calls for the 48 prompts at the start, one for each of two steps, then those of the evaluation
    code, errors = run(folder, reward_funcs=function("if calls == 9: 1 / 0"), **evaluated)
    assert code == 1 and "ZeroDivisionError" in errors
    assert checkpoints(folder) == {"step-2"}
    assert [row["step"] for row in numbers(folder)] == [0, 1, 2] and "eval/scores" not in numbers(folder)[2]
    assert run(folder, reward_funcs=function(), **evaluated)[0] == 0
    assert run(tmp_path / "whole", reward_funcs=function(), **evaluated)[0] == 0
    assert numbers(folder) == numbers(tmp_path / "whole")  # the evaluation is made up for
    assert [row["step"] for row in numbers(folder) if "eval/scores" in row] == [0, 2, 4]


def test_a_worker_that_dies_stops_the_run_and_leaves_no_process(run, function, tmp_path):
    folder, pids = tmp_path / "run", tmp_path / "pids"
    log = f"import os; open({str(pids)!r}, 'a').write(str(os.getpid()) + ' ')"
    code, errors = run(folder, reward_funcs=function(f"{log}; calls == 3 and os._exit(9)"), reward_workers=2)
    lost = r"lost its worker process \(--reward_workers\), it ended with exit code 9, on [35] compl"  # prompts whole
    assert code == 1 and re.search(lost, errors)
    assert "  prompt: 'Say " in errors and checkpoints(folder) == {"step-2"}
    assert run(folder, reward_funcs=function(log), reward_workers=3)[0] == 0
    started = set(pids.read_text().split())
    assert len(started) == 5 and not any(Path(f"/proc/{pid}").exists() for pid in started)
    assert run(tmp_path / "whole", reward_funcs=function())[0] == 0
    assert numbers(folder) == numbers(tmp_path / "whole")  # this function does not mind seeing a part at a time


@pytest.mark.parametrize(
    "trouble, message",
    [((500, b"the judge is out"), "HTTP 500 Internal Server Error: the judge is out"), ("cut", "IncompleteRead")],
    ids=["500 for ever", "closes in mid-answer"],
)
def test_a_server_that_fails_stops_the_run_and_mended_continues_it(run, tmp_path, monkeypatch, trouble, message):
    monkeypatch.setattr(client, "PAUSE", 0.0)
    folder, good = tmp_path / "run", []

    def answer(request: dict):
        good.append(len(good) < 2 or mended.is_set())
        return http.scores(*(len(c[0]["content"]) for c in request["completions"])) if good[-1] else trouble

    mended = threading.Event()
    with http.reward_server(answer) as (url, _):
        code, errors = run(folder, reward_url=url)
        assert code == 1 and f"reward server {url} failed 7 times in a row, at last with " in errors
        assert message in errors and "  prompt: 'Say " in errors and "Traceback" not in errors
        assert checkpoints(folder) == {"step-2"} and good.count(False) == 7
    mended.set()
    with http.reward_server(answer) as (moved, _):
        assert run(folder, reward_url=moved)[0] == 0  # at another port
    assert [row["step"] for row in numbers(folder)] == [1, 2, 3, 4]


# --- before a model is loaded


@pytest.mark.parametrize(
    "source, expected",
    [
        ("def score(completions): ...", "takes no parameter prompts, completion_ids"),
        ("def score(prompts, completions, completion_ids): ...", "takes no parameter word"),
        ("def score(completions, answer, **_): ...", "needs answer, which is no column of --train_data; it has word"),
    ],
)
def test_a_function_that_cannot_be_called_is_bad_input(run, tmp_path, monkeypatch, source, expected):
    (tmp_path / "rewards.py").write_text(source)
    monkeypatch.setattr("easyrlhf.stages.online.build", lambda *_: pytest.fail("a model was loaded"))
    code, errors = run(tmp_path / "run", reward_funcs=f"{tmp_path}/rewards.py:score")
    assert code == 2 and expected in errors


def test_a_server_that_is_not_there_is_bad_input(run, tmp_path, monkeypatch):
    monkeypatch.setattr("easyrlhf.stages.online.build", lambda *_: pytest.fail("a model was loaded"))
    code, errors = run(tmp_path / "run", reward_url="http://127.0.0.1:9")
    assert code == 2 and "--reward_url http://127.0.0.1:9: no server answers there" in errors


# --- several sources in one run


def test_a_served_reward_model_trains_as_the_same_one_here(data, chain, small_ppo, tmp_path):
    """Metrics agree to the last digits that batching moves; the value model starts from the same folder."""
    settings = small_ppo | {"model": chain.sft, "value_model": chain.rm, "train_data": data.prompts}
    settings |= {"total_episodes": 16, "num_sample_generations": 0}
    train_ppo(PPOConfig(output_dir=str(tmp_path / "here"), reward_model=chain.rm, **settings))
    with RewardHTTPServer(
        ("127.0.0.1", 0), load_scorer(ServeRewardConfig(reward_model=chain.rm, devices="cpu"))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        train_ppo(PPOConfig(output_dir=str(tmp_path / "there"), reward_url=url, **settings))
        server.shutdown()
    here, there = numbers(tmp_path / "here"), numbers(tmp_path / "there")
    for one, other in zip(here, there, strict=True):
        assert other["objective/scores"] == pytest.approx(one["objective/scores"], abs=1e-5)
        assert other["reward/reward_url/std"] == pytest.approx(one["reward/reward_model/std"], abs=1e-5)
        assert other["loss/value_avg"] == pytest.approx(one["loss/value_avg"], abs=1e-4)


@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_a_reward_for_some_rows_and_the_punishment_of_long_ones_train_together(
    data, chain, small, tmp_path, aggregation
):
    """Two functions, each None where the other applies; every answer is judged by one, and by its length."""
    (tmp_path / "rewards.py").write_text(
        "def short_words(completions, word, **_):\n"
        "    return [1.0 if len(w) < 4 else None for w in word]\n"
        "async def long_words(completions, word, **_):\n"
        "    return [2.0 if len(w) > 3 else None for w in word]\n"
    )
    funcs = f"{tmp_path}/rewards.py:short_words,{tmp_path}/rewards.py:long_words"
    settings = small | {"max_completion_length": 6, "num_generations": 2, "total_episodes": 24}
    settings |= {"reward_funcs": funcs, "reward_weights": "1,10", "soft_punish_cache": 4}
    settings |= {"multi_objective_aggregation": aggregation, "model": chain.sft, "train_data": data.prompts}
    folder = train_grpo(GRPOConfig(output_dir=str(tmp_path / "run"), **settings))
    rows = numbers(folder)
    assert all(row.get("reward/short_words/mean", 1.0) == 1.0 for row in rows)
    assert all(row.get("reward/long_words/mean", 2.0) == 2.0 for row in rows)
    assert {"reward/short_words/mean", "reward/long_words/mean"} <= set().union(*rows)
    for row in rows:
        punishment = row["reward/soft_overlong_punishment/mean"]
        assert -1 <= punishment <= 0
        long_ones = (row["objective/scores"] - punishment - 1) * 8 / 19  # of 8, each 10 · 2; the others 1 · 1
        assert long_ones == pytest.approx(round(long_ones), abs=1e-4) and 0 <= long_ones <= 8


def test_a_reward_that_never_applies_leaves_its_metrics_out(run, tmp_path):
    (tmp_path / "rewards.py").write_text(
        "def always(completions, **_):\n    return [1.0] * len(completions)\n"
        "def never(completions, **_):\n    return [None] * len(completions)\n"
    )
    funcs = f"{tmp_path}/rewards.py:always,{tmp_path}/rewards.py:never"
    assert run(tmp_path / "run", reward_funcs=funcs, total_episodes=8)[0] == 0
    row = numbers(tmp_path / "run")[0]
    assert row["reward/always/mean"] == 1.0 and "reward/never/mean" not in row and "reward/never/std" not in row


def test_a_sequence_classifier_is_a_reward_model_and_no_value_model(run, chain, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tmp_path / "classifier"
    AutoModelForSequenceClassification.from_pretrained(chain.sft, num_labels=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(chain.sft).save_pretrained(folder)
    code, errors = run(tmp_path / "run", reward_model=folder, total_episodes=8)
    assert code == 0, errors
    assert (tmp_path / "run" / "value_model" / "value_head.safetensors").exists()
    code, errors = run(tmp_path / "other", reward_model=folder, value_model=folder)
    assert code == 2 and f"--value_model {folder}: has no value_head.safetensors" in errors
