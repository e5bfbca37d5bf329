"""Every setting of every command: its name, default, help and limits exist here and nowhere else.

Flags (`--kl_coef 0.1`), YAML keys (`kl_coef: 0.1`) and keyword arguments (`PPOConfig(kl_coef=0.1)`) are all derived
from these dataclasses and all pass through `Settings.__post_init__`, which converts types and checks limits.
"""

from easyrlhf.config.grpo import GRPOConfig
from easyrlhf.config.inference import (
    ChatConfig,
    CompareConfig,
    GenerateConfig,
    PolicyConfig,
    RewardModelConfig,
    RolloutsConfig,
    ScoreConfig,
)
from easyrlhf.config.online import OnlineConfig
from easyrlhf.config.ppo import PPOConfig
from easyrlhf.config.preference import (
    CPOConfig,
    DPOConfig,
    IPOConfig,
    KTOConfig,
    ORPOConfig,
    PreferenceConfig,
    ReferenceConfig,
    RMConfig,
    RRHFConfig,
    SimPOConfig,
)
from easyrlhf.config.sampling import VLLMServeConfig
from easyrlhf.config.serving import ServeConfig
from easyrlhf.config.tools import (
    CheckConfig,
    DoctorConfig,
    ExportConfig,
    FinishConfig,
    FitConfig,
    InitConfig,
    LookConfig,
    PreviewConfig,
    ScoringConfig,
    ServeRewardConfig,
)
from easyrlhf.config.training import SFTConfig, TrainConfig

TRAINING: dict[str, type[TrainConfig]] = {  # the stages' names
    config.stage: config
    for config in (
        SFTConfig,
        RMConfig,
        PPOConfig,
        GRPOConfig,
        DPOConfig,
        IPOConfig,
        KTOConfig,
        ORPOConfig,
        SimPOConfig,
        CPOConfig,
        RRHFConfig,
    )
}

__all__ = [
    "TRAINING",
    "CPOConfig",
    "ChatConfig",
    "CheckConfig",
    "CompareConfig",
    "DPOConfig",
    "DoctorConfig",
    "ExportConfig",
    "FinishConfig",
    "FitConfig",
    "GRPOConfig",
    "GenerateConfig",
    "IPOConfig",
    "InitConfig",
    "KTOConfig",
    "LookConfig",
    "ORPOConfig",
    "OnlineConfig",
    "PPOConfig",
    "PolicyConfig",
    "PreferenceConfig",
    "PreviewConfig",
    "RMConfig",
    "RRHFConfig",
    "ReferenceConfig",
    "RewardModelConfig",
    "RolloutsConfig",
    "SFTConfig",
    "ScoreConfig",
    "ScoringConfig",
    "ServeConfig",
    "ServeRewardConfig",
    "SimPOConfig",
    "TrainConfig",
    "VLLMServeConfig",
]
