"""The command `easyrlhf export`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import ExportConfig

PAGE = HelpPage(
    summary="Write a model in the form that other programs read, proven to be the same.",
    story=[
        (
            "Goes in",
            "A folder of a stage, of peft or of LLaMA-Factory: full weights or an adapter, with a head or not.",
        ),
        (
            "Comes out",
            "With --to full, a causal language model, adapter merged, in files of max_shard_size, its head beside. "
            "With --to sequence_classification, a reward model with score.weight. The head's bias has no place there: "
            "scores are lower by that constant, which is printed and kept in config.json as score_offset.",
        ),
        ("Next", "easyrlhf serve_reward outputs/rm_classifier"),
    ],
    examples=[
        "easyrlhf export outputs/sft/adapter --to full --output_dir outputs/merged",
        "easyrlhf export outputs/ppo --to full --precision bf16 --output_dir outputs/ppo_bf16",
        "easyrlhf export outputs/rm --to sequence_classification --output_dir outputs/rm_classifier",
    ],
)

command = SettingsCommand("export", ExportConfig, "easyrlhf.tools.exporting.export:export_model", PAGE, first="model")
