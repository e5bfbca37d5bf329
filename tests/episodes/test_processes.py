"""Two processes play the episodes of one, each a part of them."""

import json
from pathlib import Path

import pytest

from easyrlhf.launch import free_port
from easyrlhf.userfile import load_module

ForkServer = load_module(Path(__file__).parents[1] / "forking" / "fork_server.py").ForkServer
pytestmark = [pytest.mark.distributed, pytest.mark.slow]

CODE = """
import os
import time


class Twice:
    def reset(self, number, seed):
        self.number, self.seed, self.said = number, seed, []
        return f" {seed % 1000}"

    def respond(self, text):
        time.sleep((self.number * 7 + int(os.environ.get("RANK", 0))) % 5 / 500)
        self.said.append(text)
        return f"{self.number}?" if len(self.said) <= self.number % 3 else None

    def get_reward(self):
        return len("".join(self.said)) % 7 / 7
"""
SETTINGS = {
    "max_completion_length": 100,
    "max_turn_length": 12,
    "max_prompt_length": 80,
    "max_length": 200,
    "num_generations": 3,
    "batch_size": 9,
    "learning_rate": 1e-3,
    "max_grad_norm": 0.7,
    "report_to": "none",
    "deepspeed": "none",
    "stop": "e",
    "save_steps": 0,
    "log_rollouts": 9,
    "max_steps": 2,
}


def test_two_processes_give_the_rows_of_one(tmp_path, model_folder):
    model = model_folder(max_position_embeddings=256)
    acting, rows = tmp_path / "acting.py", tmp_path / "rows.jsonl"
    acting.write_text(CODE)
    asked = [{"prompt": [{"role": "user", "content": f"Go {number}"}], "number": number} for number in range(12)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in asked))
    server, found = ForkServer(), {}
    try:
        for count in (1, 2):
            folder = tmp_path / f"run-{count}"
            settings = SETTINGS | {"model": model, "train_data": rows, "environment": f"{acting}:Twice"}
            words = ["grpo_train", *(f"--{name}={value}" for name, value in settings.items())]
            if count > 1:  # which changes no row either
                words += ["--environment_concurrency=4", "--environment_workers=2"]
            words += [
                "--log_rollout_ids",
                "--stop_finishes",
                f"--devices=cpu{':2' * (count > 1)}",
                f"--output_dir={folder}",
            ]
            port = str(free_port())
            shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            ranks = [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"] if count > 1 else [{}]
            log = tmp_path / f"{count}.log"
            assert not any(server.run(words, tmp_path, ranks, output=str(log))), log.read_text()
            found[count] = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    finally:
        server.close()
    assert len(found[1]) == 18
    assert {sum(turn["role"] == "assistant" for turn in row["messages"]) for row in found[1]} >= {1, 2}
    for one, two in zip(found[1], found[2], strict=True):
        assert one.keys() == two.keys()
        exact = {"score"} | {name for name in one if not isinstance(one[name], float)}
        assert "completion_ids" in exact
        assert {name: one[name] for name in exact} == {name: two[name] for name in exact}
