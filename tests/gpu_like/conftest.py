"""A machine that looks as if it had one GPU, and a world for whole stages on it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import peft  # noqa: F401  before there seems to be a GPU, of which its imports would ask more
import pytest
import torch

from easyrlhf.models import attention
from easyrlhf.rollout import sampler
from easyrlhf.userfile import load_module

like_cuda = load_module(Path(__file__).with_name("like_cuda.py"))
MEMORY = 80 * 2**30


@pytest.fixture
def watch(monkeypatch):
    """A Watch, on a machine with one GPU of compute capability 9.0; it is entered by the test."""
    cuda = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda *_: (9, 0),
        "get_device_properties": lambda *_: SimpleNamespace(total_memory=MEMORY),
        "mem_get_info": lambda *_: (MEMORY, MEMORY),
        "memory_reserved": lambda *_: 0,
        "memory_allocated": lambda *_: 0,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda *_: None,
        "set_device": lambda *_: None,
        "synchronize": lambda *_: None,
        "manual_seed_all": lambda *_: None,
        "empty_cache": lambda: None,
    }
    for name, stand_in in cuda.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(attention, "varlen_attn", like_cuda.varlen)
    monkeypatch.setattr(sampler, "cuda_graph", lambda step: step)  # what a graph repeats is done again
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a parameter on the GPU is another class
    yield like_cuda.Watch()
    torch.__future__.set_overwrite_module_params_on_conversion(before)


@pytest.fixture(scope="session")
def like() -> SimpleNamespace:
    """The names of the harness."""
    return like_cuda


stages = load_module(Path(__file__).parents[1] / "stages" / "conftest.py")
data, chain, reference_cache = stages.data, stages.chain, stages.reference_cache


@pytest.fixture
def run_stage(watch, data, chain, tmp_path) -> Callable:
    """run_stage(name, **settings) -> the watch, after two steps of the stage of that name on the GPU."""
    import easyrlhf.config
    from easyrlhf.stage_table import STAGES

    (tmp_path / "reward.py").write_text(
        "def words(completions, **_):\n    return [float(len(c)) for c in completions]\n"
    )
    files = {"comparison": data.pairs, "demonstration": data.sft, "feedback": data.pairs, "ranking": data.pairs}
    online = {"train_data": data.prompts, "batch_size": 8, "max_steps": 2, "num_sample_generations": 0}
    own = {
        "ppo": online | {"reward_model": chain.rm, "response_length": 6},
        "grpo": online
        | {"max_completion_length": 6, "num_generations": 2, "reward_funcs": f"{tmp_path}/reward.py:words"},
        "ebft": {
            "train_data": data.sft,
            "batch_size": 8,
            "max_steps": 2,
            "max_completion_length": 6,
            "num_generations": 2,
        },
    }

    def run(name: str, **settings):
        stage = STAGES[name]
        common = {"model": chain.sft, "max_length": 64, "max_prompt_length": 40, "devices": "0", "report_to": "none"}
        common |= {"output_dir": str(tmp_path / f"{name}{len(list(tmp_path.iterdir()))}"), "learning_rate": 1e-3}
        offline = {"train_data": files.get(stage.rows, data.pairs), "batch_size": 8, "max_steps": 2}
        config = getattr(easyrlhf.config, stage.config)(**common | own.get(name, offline) | settings)
        function = getattr(__import__(stage.module, fromlist=["_"]), stage.function)
        with watch:
            function(config)
        return watch

    return run
