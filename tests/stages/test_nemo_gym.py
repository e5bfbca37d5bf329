"""PPO and GRPO with NeMo Gym's verifiers: they learn, stop with what a server says, and go on as they were."""

import json
import socket
from contextlib import contextmanager
from pathlib import Path

import pytest
import trl

from easyrlhf.cli.stages import ppo_train as ppo_main
from easyrlhf.config import GRPOConfig, PPOConfig
from easyrlhf.errors import InputError, RunStopped, SettingError
from easyrlhf.nemo_gym import client
from easyrlhf.stages import online
from easyrlhf.stages.online import train_grpo, train_ppo
from easyrlhf.userfile import load_module

gym = load_module(Path(__file__).parents[1] / "nemo_gym" / "gym_server.py")
agents = load_module(Path(__file__).parents[1] / "nemo_gym" / "agent.py")
CLOCK = ("time/", "tokens_per_second", "env/seconds_mean")
STAGES = {"ppo": (train_ppo, PPOConfig), "grpo": (train_grpo, GRPOConfig)}


@pytest.fixture(autouse=True)
def no_reports(monkeypatch):
    """Runs are not drawn, and nobody pauses."""
    for name in ("plot_run", "write_report"):
        monkeypatch.setattr(f"easyrlhf.stages.lifecycle.{name}", lambda *_, **__: None)
    monkeypatch.setattr(client, "sleep", lambda _: None)


@pytest.fixture
def rows(data, tmp_path):
    """rows(**changed) -> the file of the prompts as rows of NeMo Gym, with these keys besides."""

    def write(**changed) -> str:
        prompts = [json.loads(line) for line in Path(data.prompts).read_text().splitlines()]
        found = [
            {"responses_create_params": {"input": row["prompt"]}, "expected_answer": row["word"]} | changed
            for row in prompts
        ]
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in found))
        return str(file)

    return write


@pytest.fixture
def train(chain, small_ppo, small_grpo, tmp_path):
    """train(stage, folder, **settings) -> the folder of a run of 3 rollouts."""

    def run(stage: str, name: str, **settings) -> Path:
        function, config = STAGES[stage]
        known = (small_ppo if stage == "ppo" else small_grpo) | {"model": chain.sft, "max_steps": 3, "save_steps": 0}
        known |= {"num_sample_generations": 0}
        return Path(function(config(**known | {"output_dir": str(tmp_path / name)} | settings)))

    return run


def numbers(folder: Path, name: str = "metrics.jsonl") -> list[dict]:
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith(CLOCK)} for row in rows]


def begins(body: dict, _: str) -> gym.Answer:
    """Half a point for the word, and half for its first letter; the halves are components."""
    said, word = gym.text_of(body), body["expected_answer"]
    parts = {"letter": said[:1] == word[:1], "word": said.startswith(word)}
    return 200, {"reward": sum(parts.values()) / 2, "reward_components": {k: v / 2 for k, v in parts.items()}}


@pytest.mark.parametrize("stage", ["ppo", "grpo"])
def test_a_stopped_run_goes_on_with_the_same_rewards(rows, train, stage, stop_after):
    with gym.gym_server(verify=begins) as server:
        settings = {"train_data": rows(), "nemo_gym_url": server.url, "missing_eos_penalty": 0.0}
        whole = train(stage, "whole", **settings)
        go_on = stop_after(2)
        with pytest.raises(RunStopped):
            train(stage, "stopped", **settings)
        go_on()
        assert numbers(train(stage, "stopped", **settings)) == numbers(whole)
    for step, row in enumerate(numbers(whole)):
        asked = [begins(body, "")[1] for body in server.of("verify")[8 * step : 8 * step + 8]]
        parts = {name: [one["reward_components"][name] for one in asked] for name in ("letter", "word")}
        assert row["reward/nemo_gym/mean"] == pytest.approx(sum(one["reward"] for one in asked) / 8, abs=1e-6)
        assert row["objective/scores"] == pytest.approx(row["reward/nemo_gym/mean"], abs=1e-6)
        for name, values in parts.items():
            assert row[f"reward/nemo_gym/{name}/mean"] == pytest.approx(sum(values) / 8, abs=1e-6)


TOOL = {"type": "function", "name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}}


def test_rows_with_tools_are_episodes_of_whatever_turns_they_take(data, train, tmp_path, stop_after):
    prompts = [json.loads(line) for line in Path(data.prompts).read_text().splitlines()]
    found = [
        {"responses_create_params": {"input": row["prompt"], "tools": [TOOL]}, "expected_answer": row["word"]}
        for row in prompts
    ]
    file = tmp_path / "tools.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in found))
    other = tmp_path / "other.jinja"
    other.write_text("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}{{ tools | tojson }}")
    template = str(Path(trl.__file__).parent / "chat_templates" / "qwen2_5.jinja")
    settings = {"train_data": str(file), "chat_template": template, "max_length": 1000, "max_prompt_length": 900}
    settings |= {"reward_weights": "2", "missing_eos_penalty": 0.0, "log_rollouts": 8, "max_steps": 2}

    def verify(body: dict, _: str) -> gym.Answer:
        parts = {"letter": 0.5, "word": float(len(gym.text_of(body)))}
        return 200, {"reward": sum(parts.values()), "reward_components": parts}

    with gym.gym_server(verify=verify) as server:
        settings |= {"nemo_gym_url": server.url}
        whole = train("grpo", "whole", **settings)
        go_on = stop_after(1)
        with pytest.raises(RunStopped):
            train("grpo", "stopped", **settings)
        go_on()
        stopped = train("grpo", "stopped", **settings)
        assert numbers(stopped) == numbers(whole)
        assert numbers(stopped, "rollouts.jsonl") == numbers(whole, "rollouts.jsonl")
        with pytest.raises(InputError, match=f"--nemo_gym_url {server.url}: tools are called in the form that a chat"):
            train("grpo", "other", **settings | {"chat_template": str(other)})
    for row in numbers(whole, "rollouts.jsonl"):
        assert row["score"] == pytest.approx(2 * row["rewards"]["nemo_gym"])
        assert row["rewards"]["nemo_gym"] == row["rewards"]["nemo_gym/letter"] + row["rewards"]["nemo_gym/word"]
    assert {row["env/turns_mean"] for row in numbers(whole)} == {1.0}


@pytest.fixture
def address() -> str:
    """HOST:PORT at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@contextmanager
def agent_server(agent: agents.Agent):
    """URL of a head that knows an agent, and the agent's server."""
    with gym.gym_server(run=agent.run) as server:
        host, port = server.url.removeprefix("http://").split(":")
        config = {"quiz_agent": {"responses_api_agents": {"simple_agent": {"host": host, "port": int(port)}}}}
        with gym.gym_server(config) as head:
            yield head.url, server


def test_agents_play_rows_with_the_policy_and_a_stopped_run_goes_on(rows, train, stop_after, address):
    agent = agents.Agent(f"http://{address}", follow=["Once more."])
    with agent_server(agent) as (url, server):
        settings = {"train_data": rows(agent_ref={"name": "quiz_agent"}), "nemo_gym_url": url, "log_rollouts": 8}
        settings |= {"nemo_gym_policy": address, "max_completion_length": 40, "max_length": 100, "max_turn_length": 12}
        settings |= {"max_steps": 2}
        whole = train("grpo", "whole", **settings)
        go_on = stop_after(1)
        with pytest.raises(RunStopped):
            train("grpo", "stopped", **settings)
        go_on()
        stopped = train("grpo", "stopped", **settings)
    assert numbers(stopped) == numbers(whole)
    assert numbers(stopped, "rollouts.jsonl") == numbers(whole, "rollouts.jsonl")
    assert max(row["env/turns_mean"] for row in numbers(whole)) > 1.0
    assert {row["rewards"]["nemo_gym"] for row in numbers(whole, "rollouts.jsonl")} == {0.5}
    assert {row["health/sampler_mismatch"] < 1e-5 for row in numbers(whole)} == {True}
    seeds = [body["responses_create_params"]["metadata"]["extra_body"] for body in server.of("run")[:16]]
    assert len(set(seeds)) == 16


@pytest.mark.parametrize("taken", [True, False])
def test_agents_need_an_address_for_the_policy_and_a_head_that_knows_them(rows, train, address, taken, monkeypatch):
    monkeypatch.setattr(online, "build", None)
    file = rows(agent_ref={"name": "quiz_agent"})
    host, port = address.split(":")
    with socket.socket() as listener, agent_server(agents.Agent("")) as (url, server):
        settings = {"train_data": file, "dry_run": True, "nemo_gym_policy": address}
        if taken:
            listener.bind((host, int(port)))
            listener.listen()
            with pytest.raises(InputError, match=f"--nemo_gym_policy {address}: .*cannot listen there"):
                train("ppo", "dry", nemo_gym_url=url, **settings)
            return
        train("ppo", "dry", nemo_gym_url=url, **settings)
        with pytest.raises(InputError, match=f"^{file}:1: --nemo_gym_url {server.url}: is no head server"):
            train("ppo", "dry", nemo_gym_url=server.url, **settings)
        file = rows(agent_ref={"name": "other"})
        with pytest.raises(
            InputError, match=f"^{file}:1: --nemo_gym_url {url}: knows no agent other; it has quiz_agent"
        ):
            train("ppo", "dry", nemo_gym_url=url, **settings)
        asked = {"input": "Hi", "metadata": {"extra_body": "[1]"}}
        file = rows(agent_ref={"name": "quiz_agent"}, responses_create_params=asked)
        with pytest.raises(
            InputError, match=f"^{file}:1: responses_create_params.metadata.extra_body must be the JSON"
        ):
            train("ppo", "dry", nemo_gym_url=url, **settings)


def test_a_verifier_that_fails_ends_the_run_with_server_and_row_and_the_run_goes_on(
    rows, chain, small_ppo, tmp_path, capsys
):
    broken = [0]

    def verify(body: dict, session: str):
        broken[0] += 1
        return (422, {"detail": "Field required"}) if broken[0] == 20 else begins(body, session)

    file, folder = rows(), tmp_path / "run"
    with gym.gym_server(verify=verify) as server:
        settings = small_ppo | {"model": chain.sft, "train_data": file, "nemo_gym_url": server.url, "max_steps": 3}
        settings |= {"num_sample_generations": 0}
        command = [f"--{name}={value}" for name, value in (settings | {"output_dir": folder}).items()]
        assert exit_code(command) == 1
        said = capsys.readouterr().err
        assert f"NeMo Gym server {server.url}, row {file}:" in said
        assert 'refused with /verify HTTP 422 Unprocessable Entity: {"detail": "Field required"}' in said
        assert "Safe on disk" in said and [row["step"] for row in numbers(folder)] == [1, 2]
        assert exit_code(command) == 0
        assert [row["step"] for row in numbers(folder)] == [1, 2, 3]


def exit_code(command: list[str]) -> int:
    """How ppo_train ends."""
    with pytest.raises(SystemExit) as end:
        ppo_main(command)
    return end.value.code or 0


def test_a_dry_run_asks_whether_the_servers_answer_and_loads_no_model(rows, train, monkeypatch):
    monkeypatch.setattr(online, "build", None)
    with gym.gym_server(verify=begins) as server:
        settings = {"train_data": rows(), "dry_run": True}
        train("ppo", "dry", nemo_gym_url=server.url, **settings)
    with pytest.raises(InputError, match=f"--nemo_gym_url {server.url}: no server answers at"):
        train("ppo", "dry", nemo_gym_url=server.url, **settings)
    assert server.asked == []
    dead = server.url.removeprefix("http://").split(":")
    quiz = {"quiz": {"resources_servers": {"mcqa": {"host": dead[0], "port": int(dead[1])}}}}
    with gym.gym_server(quiz) as head:
        with pytest.raises(InputError, match=f"--nemo_gym_url {head.url}: no server answers at {server.url}"):
            train("ppo", "dry", nemo_gym_url=head.url, **settings)
        file = rows(agent_ref={"name": "other"})
        with pytest.raises(InputError, match=f"^{file}:1: --nemo_gym_url {head.url}: knows no resources server other"):
            train("ppo", "dry", nemo_gym_url=head.url, train_data=file, dry_run=True)


def test_rows_that_no_verifier_knows_are_refused_by_their_place(data, train):
    with gym.gym_server(verify=begins) as server, pytest.raises(InputError, match=f"^{data.prompts}:1: --nemo_gym_url"):
        train("ppo", "run", train_data=data.prompts, nemo_gym_url=server.url)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"nemo_gym_server": "quiz"}, "nemo_gym_server quiz: is one of nemo_gym_url, which is not given"),
        ({"nemo_gym_url": "localhost:11000"}, "nemo_gym_url localhost:11000: must look like http://host:port"),
        ({"nemo_gym_policy": "a:1"}, "nemo_gym_policy a:1: is for the agents behind nemo_gym_url, which is not given"),
        ({"nemo_gym_url": "http://a:1", "nemo_gym_policy": "8000"}, "nemo_gym_policy 8000: must look like 127.0.0.1:"),
        ({"nemo_gym_url": "http://a:1", "tools": "a.py:f"}, "nemo_gym_url http://a:1: its servers have tools of their"),
        ({"nemo_gym_url": "http://a:1", "reward_weights": "1,2"}, "reward_weights 1,2: 2 for 1 reward sources"),
    ],
    ids=["name", "url", "policy", "address", "tools", "weights"],
)
def test_settings_that_do_not_go_together_are_refused(settings, said):
    with pytest.raises(SettingError) as error:
        PPOConfig(model="m", train_data="d", **settings)
    assert str(error.value).startswith(said)
