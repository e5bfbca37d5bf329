"""What the stages can be told whose samples are scored by rewards."""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

from easyrlhf.config.base import LORA, Settings, opt
from easyrlhf.config.environment_settings import EnvironmentSettings
from easyrlhf.config.lists import split_list
from easyrlhf.config.online import OnlineConfig
from easyrlhf.config.reward_settings import RewardSettings
from easyrlhf.config.rollout_settings import Rerolls
from easyrlhf.errors import SettingError

ADDRESS = re.compile(r"\S+:[1-9]\d{0,4}")
REWARD_URL = re.compile(r"https?://[^\s,/]+\S*")


@dataclass(kw_only=True, frozen=True)
class OneBackbone(Settings):
    """Whether all parts stand on one base model."""

    group: ClassVar[str] = LORA

    share_backbone: bool = opt(
        False,
        "Hold one base model for all parts, each an adapter: reference = adapter off, reward and value model = their "
        "own adapters and heads. The reward model must be a LoRA of the same model. A fraction of the memory.",
    )


@dataclass(kw_only=True, frozen=True)
class ScoredConfig(OneBackbone, EnvironmentSettings, Rerolls, RewardSettings, OnlineConfig):
    """What a stage can be told whose samples are scored by rewards; PPO and GRPO add their own settings."""

    def _check(self) -> None:
        super()._check()
        self._check_backbone()
        self._check_environment()
        self._check_rerolls()
        self._check_rewards()
        self._check_stream()

    def _check_stream(self) -> None:
        if not self.stream_rewards:
            return
        if self.plays or self.nemo_gym_url:
            reason = "episodes of an environment are scored when all have been played"
        elif self.colocates_vllm:
            reason = "a colocated vLLM gives all completions at once; use vllm_mode server, rollout hf"
        elif self.rollout_ahead:
            reason = "with rollout_ahead completions are there, or nearly so, when rewards are asked"
        elif not (self.reward_funcs or self.reward_url):
            reason = "a reward model reads all completions together, at the end; give reward_funcs or reward_url"
        else:
            return
        raise SettingError("stream_rewards", f"stream_rewards true: {reason}, or leave it out")

    def _check_rerolls(self) -> None:
        groups = self.batch_size // self.num_generations
        if self.reroll_max_groups > groups:
            raise SettingError(
                "reroll_max_groups",
                f"reroll_max_groups {self.reroll_max_groups}: a rollout has {groups} prompts (batch_size "
                f"{self.batch_size} / num_generations {self.num_generations}); use {groups} or fewer",
            )
        if self.reroll_max_groups and self.rollout_ahead:
            raise SettingError(
                "reroll_max_groups",
                f"reroll_max_groups {self.reroll_max_groups}: with rollout_ahead the next prompts are asked before it "
                "is known which have failed; leave one of the two out",
            )

    def _check_backbone(self) -> None:
        if self.share_backbone and not self.lora_r:
            raise SettingError("share_backbone", "share_backbone: the parts are LoRA adapters; give lora_r, such as 16")
        if self.share_backbone and self.ref_model not in (None, self.model):
            raise SettingError(
                "ref_model",
                f"ref_model {self.ref_model}: with share_backbone the reference is the policy without its adapter; "
                "leave one of the two out",
            )

    def _check_environment(self) -> None:
        if (self.plays or self.nemo_gym_url) and self.rollout_ahead > 1:
            raise SettingError(
                "rollout_ahead",
                f"rollout_ahead {self.rollout_ahead}: episodes of an environment are played one rollout ahead at most; "
                "use 1",
            )
        if self.plays and self.colocates_vllm and self.vllm_tensor_parallel_size > 1:
            raise SettingError(
                "vllm_tensor_parallel_size",
                f"vllm_tensor_parallel_size {self.vllm_tensor_parallel_size}: episodes of an environment are played by "
                "each process for itself, and colocated processes that share a copy of the model sample together; "
                "leave it at 1, or use vllm_mode server or rollout hf",
            )

    def _check_rewards(self) -> None:
        for url in split_list(self.reward_url):
            if not REWARD_URL.fullmatch(url):
                raise SettingError("reward_url", f"reward_url {url}: must look like http://host:port or https://…")
        self._check_nemo_gym()
        if self.reward_workers and not self.reward_funcs:
            raise SettingError(
                "reward_workers",
                f"reward_workers {self.reward_workers}: call reward functions, and there are none; give reward_funcs, "
                "or leave it at 0",
            )
        weights = split_list(self.reward_weights)
        for weight in weights:
            try:
                usable = math.isfinite(float(weight))
            except ValueError:
                usable = False
            if not usable:
                raise SettingError(
                    "reward_weights",
                    f"reward_weights {self.reward_weights}: '{weight}' is not a number",
                )
        if weights and len(weights) != self.reward_sources:
            raise SettingError(
                "reward_weights",
                f"reward_weights {self.reward_weights}: {len(weights)} for {self.reward_sources} "
                "reward sources; give one for the reward model (when there is one), then one per "
                "function of reward_funcs, then one per server of reward_url, then one for nemo_gym_url",
            )

    def _check_nemo_gym(self) -> None:
        url = self.nemo_gym_url
        for name, what in (("nemo_gym_server", "is one of"), ("nemo_gym_policy", "is for the agents behind")):
            if url is None and self.value(name):
                raise SettingError(name, f"{name} {self.value(name)}: {what} nemo_gym_url, which is not given")
        if self.nemo_gym_policy and not ADDRESS.fullmatch(self.nemo_gym_policy):
            raise SettingError(
                "nemo_gym_policy", f"nemo_gym_policy {self.nemo_gym_policy}: must look like 127.0.0.1:8000"
            )
        if url is not None and not REWARD_URL.fullmatch(url):
            raise SettingError("nemo_gym_url", f"nemo_gym_url {url}: must look like http://host:port or https://…")
        if url is not None and self.plays:
            raise SettingError(
                "nemo_gym_url",
                f"nemo_gym_url {url}: its servers have tools of their own, and verify what was done with those; leave "
                "environment and tools out",
            )

    def resolved(self) -> Self:
        """A copy with every default filled in; ValueError when there is no reward source."""
        config = super().resolved()
        if config.reward_model or config.scored_elsewhere or config.environment:
            return config
        if not Path("outputs/rm").is_dir():
            raise SettingError(
                "reward_model",
                "reward_model: outputs/rm does not exist and reward_funcs is not given; run "
                "rm_train first, or give reward_model, reward_funcs or reward_url",
            )
        return replace(config, reward_model="outputs/rm")
