"""Rows of NeMo Gym with completions, and pauses that are not taken."""

import json
from pathlib import Path

import pytest

from easyrlhf.data.nemo_gym import WHOLE_ROW
from easyrlhf.nemo_gym import client
from easyrlhf.rewards.batch import RewardBatch
from easyrlhf.userfile import load_module

gym = load_module(Path(__file__).parent / "gym_server.py")
ASKED = {"input": [{"role": "user", "content": "A or B?"}]}


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """Pauses between attempts are noted, not taken."""
    noted = []
    monkeypatch.setattr(client, "sleep", noted.append)
    return noted


@pytest.fixture
def batch():
    """batch(*texts, **row) -> RewardBatch of these answers to one row, at lines 1, 2, … of rows.jsonl."""

    def make(*texts: str, **row) -> RewardBatch:
        whole = {"responses_create_params": ASKED} | row
        return RewardBatch(
            prompts=[ASKED["input"]] * len(texts),
            completions=[[{"role": "assistant", "content": text}] for text in texts],
            completion_ids=[[5, 2]] * len(texts),
            finished=[True] * len(texts),
            columns={WHOLE_ROW: [json.loads(json.dumps(whole)) for _ in texts]},
            places=[f"rows.jsonl:{number}" for number in range(1, len(texts) + 1)],
        )

    return make
