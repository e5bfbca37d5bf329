"""The command `grpo_train`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import GRPOConfig

PAGE = HelpPage(
    summary="GRPO, RLOO or REINFORCE++: answer each prompt several times, and make the better answers likelier.",
    story=[
        (
            "Goes in",
            "Prompts (any file the other stages read will do), an SFT model, and a reward: the "
            "model of rm_train, Python functions, or both. No value model is needed.",
        ),
        ("Comes out", "outputs/grpo, the trained policy; report.html."),
        (
            "Worth a look",
            "objective/scores should rise, and health/equal_groups stay below one half: a prompt whose answers all "
            "score the same has no advantage. beta is 0 by default, and no reference is held: measure_kl step shows "
            "how far the policy goes.",
        ),
        ("Next", "read the samples before and after in outputs/grpo/report.html"),
    ],
    examples=[
        "grpo_train --train_data prompts.jsonl         # with outputs/sft and outputs/rm in place",
        "grpo_train --train_data prompts.jsonl --reward_funcs my_rewards.py:is_short --num_generations 16",
        "grpo_train --train_data prompts.jsonl --advantage rloo --beta 0.05",
        "grpo_train --train_data prompts.jsonl --epsilon_high 0.28 --dynamic_sampling 3",
        "grpo_train --config configs/grpo.yaml --dry_run",
    ],
)

main = SettingsCommand("grpo_train", GRPOConfig, "easyrlhf.stages.online:train_grpo", PAGE)
