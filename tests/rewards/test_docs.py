"""docs/rewards.md: its programs run, its commands parse."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from easyrlhf.cli import serve_reward
from easyrlhf.cli.stages import grpo_train, ppo_train
from easyrlhf.rewards.async_source import RewardFunction
from easyrlhf.rewards.functions import check_parameters, load_functions
from easyrlhf.rewards.server import RewardServer

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """A folder with the page's programs under the names that their first lines give."""
    monkeypatch.chdir(tmp_path)
    for text in blocks("python"):
        (tmp_path / text.splitlines()[0].removeprefix("# ")).write_text(text)
    return tmp_path


def test_every_command_parses(files, monkeypatch):
    seen = []
    monkeypatch.setattr("easyrlhf.stages.online.train_ppo", seen.append)
    monkeypatch.setattr("easyrlhf.stages.online.train_grpo", seen.append)
    monkeypatch.setattr("easyrlhf.tools.serve_reward.serve_reward", seen.append)
    programs = {"ppo_train": ppo_train, "grpo_train": grpo_train, "easyrlhf": serve_reward.command}
    lines = [shlex.split(line) for text in blocks("bash") for line in text.splitlines()]
    lines = [words for words in lines if words[:3] != ["easyrlhf", "data", "reasoning_gym"]]  # tests/test_docs.py
    for name, *words in lines:
        if name == "python":
            assert (files / words[0]).exists()
            continue
        done = CliRunner().invoke(programs[name], words[name == "easyrlhf" :], prog_name=name)
        assert done.exit_code == 0, done.output
    assert len(seen) == len(lines) - 1 == 11
    for config in seen[:6]:
        if config.reward_funcs and not config.reward_funcs.startswith("reasoning_gym:"):  # which need not be installed
            load_functions(config.reward_funcs.split(","))


def test_the_functions_of_the_page_score(files, ask, prompt_row, answer):
    is_short, repeats = load_functions(["my_rewards.py:is_short", "my_rewards.py:repeats"])
    for function in (is_short, repeats):
        check_parameters("my_rewards.py", function, ["word"])
    rows, ids = [prompt_row([3], word="blue"), prompt_row([3])], [answer("blue"), answer("green " * 20)]
    assert ask(RewardFunction(is_short, "is_short"), rows, ids) == [1.0, 0.0]
    assert ask(RewardFunction(repeats, "repeats"), rows, ids) == [1.0, None]
    assert ask(RewardFunction(repeats, "repeats"), rows[1:], ids[1:]) == [None]


def test_the_server_of_the_page_scores(files, three):
    source = (files / "length_server.py").read_text()
    last = 'ThreadingHTTPServer(("127.0.0.1", 8001), Judge).serve_forever()\n'
    assert source.endswith(last)
    text = source.removesuffix(last)  # the same on a free port
    text += 'server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)\nprint(server.server_port, flush=True)\n'
    command = [sys.executable, "-c", text + "server.serve_forever()\n"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"
        assert RewardServer(url, {}).start(three).scores() == [-0.01] * 3
        server.kill()
