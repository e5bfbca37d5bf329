"""NeMo Gym's own servers against what is written for them here: rewards, tools, agents with our policy server.

    python benchmarks/real_nemo_gym.py PYTHON     half a minute; PYTHON is one that has nemo-gym 0.4.0

The servers are started on this machine without Gym's launcher (benchmarks/nemo_gym_servers.py). Their example rows are
verified with right and with wrong answers, and played by a policy that says what a script has for it. Each line of the
table is a check; the exit code is 1 when one of them fails.
"""

import copy
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import requests
import torch
import trl

from easyrlhf import InitConfig, init_model
from easyrlhf.data.batches import pad_right
from easyrlhf.data.nemo_gym import WHOLE_ROW, parse_nemo_gym
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.episodes.chat import EpisodeLimits
from easyrlhf.episodes.environments import Environment
from easyrlhf.episodes.play import Player, own_seed
from easyrlhf.episodes.tools import Tools, enable_parsing
from easyrlhf.errors import ServiceError
from easyrlhf.nemo_gym import client
from easyrlhf.nemo_gym.agents import GymAgents
from easyrlhf.nemo_gym.episodes import GymEpisodes
from easyrlhf.nemo_gym.policy import PolicyServer
from easyrlhf.nemo_gym.reward import GymReward
from easyrlhf.nemo_gym.servers import GymServers, find_servers
from easyrlhf.rewards.batch import RewardBatch
from easyrlhf.rollout.sampler import Samples

NAMES = ("mcqa", "example_multi_step", "example_session_state_mgmt", "example_tool_call_multireward")
READY = 60.0  # seconds that the servers may take to start
LIMITS = EpisodeLimits(turns=12, tokens=20_000, turn=5_000, prompt=50_000)


@dataclass
class Script:
    """Samples what `say` gives, (row, turn) → text, and an end behind it; the log-probability of a token is -id / 8."""

    say: Callable[[int, int], str]
    renderer: Renderer
    said: list[list[int]] = field(default_factory=list)
    pad_id: int = 0
    lm: Any = field(default_factory=lambda: SimpleNamespace(device=torch.device("cpu")))

    def generate(self, prompts, keys, limits) -> Samples:
        """The turns of the script."""
        rows = [self.ids(key[2], key[3] if len(key) > 3 else 0) for key in keys]
        self.said += rows
        return Samples(
            pad_right(rows),
            pad_right([[1] * len(ids) for ids in rows]).float(),
            pad_right([[-token / 8 for token in ids] for ids in rows], 0.0),
            torch.tensor([True] * len(rows)),
        )

    def ids(self, row: int, turn: int) -> list[int]:
        """A turn in tokens: one by one, as no tokenizer would write a text."""
        text = self.say(row, turn)
        tokenizer = self.renderer.tokenizer
        single = [token for letter in text for token in tokenizer(letter, add_special_tokens=False)["input_ids"]]
        return [*single, self.renderer.end_of_turn_id]


@contextmanager
def gym_servers(python: str, policy: int) -> Iterator[GymServers]:
    """Gym's servers, which ask a policy at this port."""
    configs = [f"resources_servers/{name}/configs/{name}.yaml" for name in NAMES]
    configs.append("responses_api_models/vllm_model/configs/vllm_model_for_training.yaml")
    asked = [f"policy_base_url=http://127.0.0.1:{policy}/v1", "policy_api_key=x", "policy_model_name=policy"]
    command = [python, str(Path(__file__).with_name("nemo_gym_servers.py")), ",".join(configs), *asked]
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as out:
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=folder, env=bare)
        try:
            yield find_servers(when_ready(process, log), None)
        finally:
            process.terminate()
            process.wait()


def when_ready(process: subprocess.Popen, log: Path) -> str:
    """The URL of the head server, once it answers."""
    until = time.monotonic() + READY
    while time.monotonic() < until and process.poll() is None:
        time.sleep(0.2)
        url = next((line for line in log.read_text().splitlines() if line.startswith("http://")), None)
        with suppress(requests.RequestException):
            if url and requests.get(url, timeout=1) is not None:
                return url
    raise SystemExit(f"Gym's servers did not start:\n{log.read_text()[-2000:]}")


def example_rows(python: str, name: str) -> list[dict[str, Any]]:
    """The example rows of a resources server, each with the name of its agent."""
    code = "import nemo_gym, pathlib; print(pathlib.Path(nemo_gym.__file__).parent.parent)"
    root = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    text = (Path(root) / "resources_servers" / name / "data" / "example.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) | {"agent_ref": {"name": f"{name}_simple_agent"}} for line in text.splitlines()]


def rewards(servers: GymServers, rows: list[dict], answers: list[str]) -> tuple[list[float], dict[str, list]]:
    """What single answers are worth, and their components."""
    count = len(rows)
    batch = RewardBatch(
        prompts=["?"] * count,
        completions=answers,
        completion_ids=[[1]] * count,
        finished=[True] * count,
        columns={WHOLE_ROW: rows},
        places=[f"example.jsonl:{number}" for number in range(1, count + 1)],
    )
    pending = GymReward(servers, 120.0).start(batch)
    return pending.scores(), pending.logged.parts


def refusal(servers: GymServers, row: dict) -> str:
    """The first line of what a run ends with for this row."""
    try:
        return f"no error, but {rewards(servers, [row], ['x'])[0]}"
    except ServiceError as error:
        return str(error).splitlines()[0]


def played(environment: Environment, script: Script, rows: list[dict]) -> Samples:
    """Episodes of these rows with a scripted policy."""
    found = []
    for number, row in enumerate(rows, 1):
        record = parse_nemo_gym(row, Counter())
        told = {"tools": record.columns["tools"]} if "tools" in record.columns else {}
        cells = {"prompt": json.dumps(record.prompt), "columns": json.dumps(record.columns)}
        ids = script.renderer.prompt_ids(record.prompt, told)
        found.append({"prompt_ids": ids, "length": len(ids), "place": f"example.jsonl:{number}"} | cells)
    player = Player(environment, script.renderer, LIMITS, Tools(), 1, 60.0, 16, False)
    return player.play(script, found, [(7, 0, number) for number in range(len(rows))])


def call(name: str, **arguments: Any) -> str:
    """A call as Qwen2.5 writes it."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'


def synonyms(rows: list[dict], wrong: bool = False) -> Callable[[int, int], str]:
    """A policy that asks for every value, hands them in, and is done."""

    def say(number: int, turn: int) -> str:
        words, values = rows[number]["expected_synonyms"], rows[number]["expected_synonym_values"]
        if turn < len(words):
            return call("get_synonym_value", synonym=words[turn])
        given = [0, *values[1:]] if wrong else values
        return call("extract_synonym_values", synonym_values=given) if turn == len(words) else "Done."

    return say


def counting(rows: list[dict]) -> Callable[[int, int], str]:
    """A policy that counts up to what is expected, by one call, and looks."""

    def say(number: int, turn: int) -> str:
        missing = rows[number]["expected_count"] - rows[number]["initial_count"]
        return [call("increment_counter", count=missing), call("get_counter_value"), "Done."][turn]

    return say


def exact(found: Samples, script: Script, rows: list[dict]) -> bool:
    """Whether rows hold what was sampled, token for token, with its log-probabilities."""
    expected = -found.completion_ids / 8 * found.action_mask
    close = bool(((found.logprobs - expected).abs() <= 1e-5).all())
    said = Counter(tuple(ids) for ids in script.said)
    for ids, mask in zip(found.completion_ids.tolist(), found.action_mask.tolist(), strict=True):
        run: list[int] = []
        for token, sampled in [*zip(ids, mask, strict=True), (0, 0)]:
            if sampled:
                run.append(token)
            elif run:
                said[tuple(run)] -= 1
                run = []
    return close and not +said and not -said


def renderer_in(folder: Path) -> Renderer:
    """A small byte-level tokenizer with Qwen2.5's template."""
    rows = folder / "rows.jsonl"
    rows.write_text(
        json.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]})
    )
    init_model(InitConfig(train_data=str(rows), output_dir=str(folder / "init"), vocab_size=320))
    tokenizer = copy.deepcopy(load_tokenizer(str(folder / "init")))
    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / "qwen2_5.jinja").read_text()
    renderer = Renderer(tokenizer)
    enable_parsing(renderer)
    return renderer


def checks(
    python: str, servers: GymServers, policy: PolicyServer, renderer: Renderer
) -> Iterator[tuple[str, str, bool]]:
    """What was tried, what came of it, and whether that is right."""
    mcqa, steps, counts, multi = (example_rows(python, name) for name in NAMES)
    many = (mcqa * 13)[:64]
    began = time.monotonic()
    found, _ = rewards(servers, many, [f"\\boxed{{{row['expected_answer']}}}" for row in many])
    seconds = time.monotonic() - began
    yield (
        "64 right answers to mcqa's rows",
        f"rewards {set(found)} in {seconds:.1f} s",
        set(found) == {1.0} and seconds < 5,
    )
    found, _ = rewards(servers, mcqa, ["\\boxed{Z}"] * len(mcqa))
    yield "wrong ones", f"rewards {set(found)}", set(found) == {0.0}
    _, parts = rewards(servers, multi, ["No call."] * len(multi))
    yield "components of a reward", f"{sorted(parts)}", sorted(parts) == ["correctness", "format", "schema_valid"]
    lacking = refusal(servers, {key: value for key, value in steps[0].items() if key != "expected_synonyms"})
    yield "a row without a field", lacking[:150], "row example.jsonl:1: refused with /verify HTTP 422" in lacking
    raising = refusal(servers, steps[0] | {"expected_synonym_values": []})
    yield "a verifier that raises", raising[:150], "at last with /verify HTTP 500" in raising

    driven = Environment("nemo_gym", None, None, {}, True, GymEpisodes(servers, 60.0).play)
    agents = GymAgents(servers, policy)
    by_agents = Environment("nemo_gym", None, None, {}, True, agents.play, agents.serving)
    for who, environment in (("tools driven from here", driven), ("agents with our policy server", by_agents)):
        for name, rows, say, reward in (
            ("multi-step, right", steps, synonyms(steps), 1.0),
            ("multi-step, wrong", steps, synonyms(steps, wrong=True), 0.0),
            ("counters, a session each", counts, counting(counts), 1.0),
        ):
            script = Script(say, renderer)
            samples = played(environment, script, rows)
            given = {episode.reward for episode in samples.episodes}
            turns = sum(episode.turns for episode in samples.episodes)
            right = given == {reward} and exact(samples, script, rows)
            yield f"{who}: {name}", f"rewards {given}, {turns} turns, ids and log-probabilities as sampled", right


@click.command(help=__doc__)
@click.argument("python", type=click.Path(exists=True, dir_okay=False))
def main(python: str):
    """Try everything, and print a line for each."""
    client.PAUSE = 0.01  # nobody has to wait for a server that goes on failing
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
    with tempfile.TemporaryDirectory() as folder:
        renderer = renderer_in(Path(folder))
        with gym_servers(python, address[1]) as servers:
            print("| check | what came of it | |\n|---|---|---|")
            all_right = True
            for name, said, right in checks(python, servers, PolicyServer(address, renderer), renderer):
                all_right &= right
                print(f"| {name} | {said} | {'ok' if right else 'WRONG'} |", flush=True)
    print(f"seeds such as {own_seed((7, 0, 0))} went with every sample" if all_right else "something is wrong")
    sys.exit(not all_right)


if __name__ == "__main__":
    main()
