"""SFT, reward model and PPO for language models: `easyrlhf.train_sft(easyrlhf.SFTConfig(train_data="demos.jsonl"))`."""

import functools
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from easyrlhf.config import TrainConfig

from easyrlhf.stage_table import STAGES

# name → module; imported when it is first asked for, so that `import easyrlhf` costs nothing
PUBLIC = {
    **{stage.config: "easyrlhf.config" for stage in STAGES.values()},
    "InitConfig": "easyrlhf.config",
    "ServeRewardConfig": "easyrlhf.config",
    "DoctorConfig": "easyrlhf.config",
    "ExportConfig": "easyrlhf.config",
    **{stage.function: stage.module for stage in STAGES.values()},
    "init_model": "easyrlhf.tools.init",
    "serve_reward": "easyrlhf.tools.serve_reward",
    "examine_reward_model": "easyrlhf.tools.doctor",
    "export_model": "easyrlhf.tools.exporting.export",
    "load_policy": "easyrlhf.tools.loaded",
    "load_reward_model": "easyrlhf.tools.loaded",
    "generate": "easyrlhf.tools.loaded",
    "compare": "easyrlhf.tools.comparing.compare",
    "check_data": "easyrlhf.tools.checking.check",
    "InputError": "easyrlhf.errors",
    "SettingError": "easyrlhf.config.base",
    "RunError": "easyrlhf.errors",
    "RunStopped": "easyrlhf.errors",
}
__all__ = list(PUBLIC)


def __getattr__(name: str):
    if name not in PUBLIC:
        raise AttributeError(f"module 'easyrlhf' has no attribute '{name}'")
    found = getattr(importlib.import_module(PUBLIC[name]), name)
    return in_processes(f"{PUBLIC[name]}:{name}", found) if name.startswith("train_") else found


def in_processes(target: str, stage):
    """The function of a stage, run in as many processes as its settings ask for."""

    @functools.wraps(stage)
    def run(config: "TrainConfig"):
        return importlib.import_module("easyrlhf.launch").start(target, config)

    return run


def __dir__() -> list[str]:
    return [*globals(), *PUBLIC]
