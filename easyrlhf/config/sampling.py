"""What answers are sampled with: this package's own loop, or vLLM."""

from dataclasses import dataclass
from typing import ClassVar

from easyrlhf.config.base import DATA, FREE, VLLM, Settings, opt
from easyrlhf.config.training import TrainConfig
from easyrlhf.errors import SettingError


@dataclass(kw_only=True, frozen=True)
class VLLMPlace(Settings):
    """Where vLLM runs and what it may take: for the program that samples with it, and for the one that starts it."""

    group: ClassVar[str] = VLLM

    vllm_host: str = opt(
        "127.0.0.1",
        "Address of the vLLM server. It has no password, and who reaches it can change its model: only inside a "
        "network you trust.",
        metavar="ADDRESS",
        on_resume=FREE,
    )
    vllm_port: int = opt(8000, "Port of the vLLM server.", low=1, high=65535, on_resume=FREE)
    vllm_tensor_parallel_size: int = opt(
        1,
        "GPUs that each copy of the model is cut over. Colocated: processes of the run, whose number it must divide.",
        low=1,
        on_resume=FREE,
    )
    vllm_gpu_memory_utilization: float = opt(
        0.3,
        "Share of a GPU's memory for vLLM's weights and cache: 0.2 to 0.5 colocated, 0.9 on a GPU of its own.",
        above=0,
        below=1,
        on_resume=FREE,
    )
    vllm_weight_transfer: str = opt(
        "files",
        "How all weights get to a vLLM server. files: through a folder that both see. nccl: from the run's first GPU "
        "to the server's; both have to be told.",
        choices=("files", "nccl"),
        on_resume=FREE,
    )


@dataclass(kw_only=True, frozen=True)
class VLLMServeConfig(VLLMPlace):
    """What `easyrlhf vllm_serve` can be told beside the file of the run."""

    stage: ClassVar[str] = "vllm_serve"
    group: ClassVar[str] = DATA

    model: str | None = opt(
        None,
        "The policy that the run starts from.",
        metavar="DIR|HUB_ID",
        model=True,
        shown="as in the file, else outputs/sft",
    )


@dataclass(kw_only=True, frozen=True)
class RolloutConfig(VLLMPlace, TrainConfig):
    """How the answers of a rollout are sampled."""

    group: ClassVar[str] = VLLM

    rollout: str = opt(
        "hf",
        "What answers are sampled with: hf, this program's own loop, which needs nothing else; vllm, many times faster "
        "on GPUs (pip install 'easyrlhf[vllm]').",
        choices=("hf", "vllm"),
    )
    vllm_mode: str = opt(
        "colocate",
        "colocate: vLLM lives in every process of the run, and sleeps while the run trains. server: vLLM has devices "
        "of its own, where easyrlhf vllm_serve has started it.",
        choices=("colocate", "server"),
        on_resume=FREE,
    )
    vllm_timeout: float = opt(
        600.0,
        "Seconds to wait for a vLLM server that does not answer: to start, to come back, to finish a rollout. Then the "
        "run is saved and fails.",
        above=0,
        high=1e6,
        on_resume=FREE,
    )
    vllm_sync_interval: int = opt(
        1,
        "Rollouts after which vLLM gets the policy's new weights. More are cheaper, and sample with an older policy.",
        low=1,
    )
    importance_correction: str = opt(
        "token",
        "Weight what vLLM sampled by how likely it is to the policy, as vLLM rounds otherwise and may have older "
        "weights: each token by itself, the completion as a whole, or off.",
        choices=("token", "sequence", "off"),
    )
    importance_cap: float = opt(3.0, "Largest weight of importance_correction; larger ones are cut to it.", low=1)
    off_policy_mask_threshold: float | None = opt(
        None,
        "Do not learn to avoid completions that the policy has left behind: those of negative advantage whose "
        "log-probability has fallen by more than X nats a token since they were sampled.",
        above=0,
        shown="off",
    )
    rollout_ahead: int = opt(
        0,
        "Rollouts that a vLLM server samples while scores are computed and the policy is updated. 1: the next one, "
        "whose weights are one update old then. More, up to 8, for dynamic sampling or vllm_sync_interval.",
        low=0,
        high=8,
    )

    @property
    def uses_vllm(self) -> bool:
        """Whether vLLM samples."""
        return self.rollout == "vllm"

    @property
    def colocates_vllm(self) -> bool:
        """Whether it does so inside the run's own processes."""
        return self.uses_vllm and self.vllm_mode == "colocate"

    @property
    def corrects_sampling(self) -> bool:
        """Whether samples are weighted by their importance."""
        return self.uses_vllm and self.importance_correction != "off"

    def _check(self) -> None:
        super()._check()
        served = (self.rollout, self.vllm_mode) == ("vllm", "server")
        if self.vllm_weight_transfer == "nccl" and not served:
            raise SettingError(
                "vllm_weight_transfer",
                "vllm_weight_transfer nccl: is a way to a server; give rollout vllm and vllm_mode server, or leave it "
                "at files",
            )
        if self.vllm_weight_transfer == "nccl" and self.lora_r:
            raise SettingError(
                "vllm_weight_transfer",
                f"vllm_weight_transfer nccl: sends all weights, but with lora_r {self.lora_r} the server gets the "
                "adapter alone, in a folder; leave it at files",
            )
        if self.rollout_ahead and not served:
            raise SettingError(
                "rollout_ahead",
                f"rollout_ahead {self.rollout_ahead}: needs something that samples while this program trains; give "
                "rollout vllm and vllm_mode server, or leave it at 0",
            )
