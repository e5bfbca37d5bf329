"""The command `easyrlhf vllm_serve CONFIG`."""

from dataclasses import fields
from typing import Any

import click

from easyrlhf.cli.exit_codes import Job, job
from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand, build_config
from easyrlhf.config import GRPOConfig, OnlineConfig, PPOConfig, VLLMServeConfig
from easyrlhf.config.yaml_file import read_yaml

UNREAD = {"train_data": "none"}  # the stage wants it, and no row is read here
SERVED = {"rollout": "vllm", "vllm_mode": "server"}  # which the run may be told by its own flags

PAGE = HelpPage(
    summary="Start a vLLM server that samples for ppo_train or grpo_train --rollout vllm --vllm_mode server.",
    story=[
        (
            "Goes in",
            "The YAML file of the run that will be served: its model, lengths, precision, lora_r and vllm_ settings "
            "count. The flags below beat the file. CUDA_VISIBLE_DEVICES says which GPUs vLLM takes.",
        ),
        (
            "Comes out",
            "vLLM's own server, which takes the policy's new weights while the run goes on. Ctrl-C ends it; the run "
            "waits for it to come back, up to --vllm_timeout seconds.",
        ),
        ("Next", "ppo_train --config ppo.yaml --rollout vllm --vllm_mode server"),
    ],
    examples=[
        "easyrlhf vllm_serve configs/ppo.yaml --vllm_gpu_memory_utilization 0.9",
        "easyrlhf vllm_serve configs/ppo.yaml --model outputs/sft --vllm_port 8001",
    ],
)


class ServeCommand(SettingsCommand):
    """Takes the file of an online stage, and flags of its own that beat it."""

    def prepare(self, config: str | None, **flags: Any) -> Job:
        """The call of the tool with the settings of the stage."""
        if config is None:
            raise click.UsageError("give the YAML file of the run to serve: easyrlhf vllm_serve configs/ppo.yaml")
        given = {name: value for name, value in flags.items() if value is not None}
        known = UNREAD | SERVED | given
        return job(self.target, build_config(stage_of(config), config, known, click.get_current_context().command_path))


def stage_of(path: str) -> type[OnlineConfig]:
    """The settings that a file is one of: those of GRPO where it has keys that PPO does not know."""
    try:
        keys = read_yaml(path).keys()
    except ValueError:
        return PPOConfig  # whoever builds it says what is wrong
    grpo = {setting.name for setting in fields(GRPOConfig)} - {setting.name for setting in fields(PPOConfig)}
    return GRPOConfig if keys & grpo else PPOConfig


command = ServeCommand("vllm_serve", VLLMServeConfig, "easyrlhf.tools.vllm_serve:vllm_serve", PAGE, first="config")
