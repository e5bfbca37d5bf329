"""The online methods by the settings that ask for them."""

from easyrlhf.config import EBFTConfig, OnlineConfig, PPOConfig
from easyrlhf.online.ebft import EBFT
from easyrlhf.online.grpo import GROUP_METHODS
from easyrlhf.online.method import Method
from easyrlhf.online.ppo import PPO


def method_of(config: OnlineConfig) -> Method:
    """The method that the settings ask for."""
    if isinstance(config, EBFTConfig):
        return EBFT
    return PPO if isinstance(config, PPOConfig) else GROUP_METHODS[config.advantage]
