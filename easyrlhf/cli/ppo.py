"""The command `ppo_train`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import PPOConfig

PAGE = HelpPage(
    summary="PPO: let the model answer, score the answers, and make the better ones likelier.",
    story=[
        (
            "Goes in",
            "Prompts (any file the other stages read will do), an SFT model, and a reward: the "
            "model of rm_train, Python functions, or both.",
        ),
        (
            "Comes out",
            "outputs/ppo, the trained policy; its value model in value_model/; report.html.",
        ),
        (
            "Worth a look",
            "objective/scores should rise while objective/kl stays small (below about 10 to 20 "
            "nats). Scores that rise with KL and length are reward hacking: raise --kl_coef.",
        ),
        ("Next", "read the samples before and after in outputs/ppo/report.html"),
    ],
    examples=[
        "ppo_train --train_data prompts.jsonl          # with outputs/sft and outputs/rm in place",
        "ppo_train --model outputs/sft --reward_model outputs/rm --train_data prompts.jsonl",
        "ppo_train --train_data prompts.jsonl --reward_funcs my_rewards.py:is_short",
        "ppo_train --train_data prompts.jsonl --kl_coef 0.1 --kl_target 6 --lora_r 16",
        "ppo_train --config configs/ppo.yaml --dry_run",
    ],
)

main = SettingsCommand("ppo_train", PPOConfig, "easyrlhf.stages.online:train_ppo", PAGE)
