"""Every setting of every command: its name, default, help and limits exist here and nowhere else.

Flags (`--kl_coef 0.1`), YAML keys (`kl_coef: 0.1`) and keyword arguments (`PPOConfig(kl_coef=0.1)`) are all derived
from these dataclasses and all pass through `Settings.__post_init__`, which converts types and checks limits.
"""

from easyrlhf.config import preference
from easyrlhf.config.ai_feedback import ReviseConfig, ServeJudgeConfig
from easyrlhf.config.ai_labels import LabelAIConfig
from easyrlhf.config.contest import CompareConfig
from easyrlhf.config.ebft import EBFTConfig
from easyrlhf.config.grpo import GRPOConfig
from easyrlhf.config.inference import ChatConfig, GenerateConfig, PlayConfig, PolicyConfig, RolloutsConfig
from easyrlhf.config.label_serving import LabelServeConfig
from easyrlhf.config.labelling import LabelAgreeConfig, LabelExportConfig, LabelForgetConfig, LabelImportConfig
from easyrlhf.config.looking import CheckConfig, LookConfig, PreviewConfig
from easyrlhf.config.online import OnlineConfig
from easyrlhf.config.ppo import PPOConfig
from easyrlhf.config.preference import *  # noqa: F403 - its __all__: a method's settings are named there alone
from easyrlhf.config.reward_models import DoctorConfig, RewardModelConfig, ScoreConfig, ScoringConfig, ServeRewardConfig
from easyrlhf.config.sampling import VLLMServeConfig
from easyrlhf.config.scored import ScoredConfig
from easyrlhf.config.serving import ServeConfig
from easyrlhf.config.tools import ExportConfig, FinishConfig, FitConfig, InitConfig
from easyrlhf.config.training import SFTConfig, TrainConfig
from easyrlhf.stage_table import STAGES

TRAINING: dict[str, type[TrainConfig]] = {  # the stages' names
    stage.name: globals()[stage.config] for stage in STAGES.values()
}

__all__ = [
    *preference.__all__,
    "TRAINING",
    "ChatConfig",
    "CheckConfig",
    "CompareConfig",
    "DoctorConfig",
    "EBFTConfig",
    "ExportConfig",
    "FinishConfig",
    "FitConfig",
    "GRPOConfig",
    "GenerateConfig",
    "InitConfig",
    "LabelAgreeConfig",
    "LabelAIConfig",
    "LabelExportConfig",
    "LabelForgetConfig",
    "LabelImportConfig",
    "LabelServeConfig",
    "LookConfig",
    "OnlineConfig",
    "PPOConfig",
    "PlayConfig",
    "PolicyConfig",
    "PreviewConfig",
    "ReviseConfig",
    "RewardModelConfig",
    "RolloutsConfig",
    "SFTConfig",
    "ScoreConfig",
    "ScoredConfig",
    "ScoringConfig",
    "ServeConfig",
    "ServeJudgeConfig",
    "ServeRewardConfig",
    "TrainConfig",
    "VLLMServeConfig",
]
