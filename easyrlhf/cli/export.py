"""The command `easyrlhf export`."""

from easyrlhf.cli.helping import HelpPage
from easyrlhf.cli.serve_reward import ServeCommand
from easyrlhf.config import ExportConfig

PAGE = HelpPage(
    summary="Write a reward model as AutoModelForSequenceClassification, for TRL, vLLM and transformers.",
    story=[
        ("Goes in", "A folder with value_head.safetensors beside a causal language model or a LoRA adapter."),
        (
            "Comes out",
            "The same model with score.weight, proven to score alike. The head's bias has no place there: scores are "
            "lower by that constant, which is printed and kept in config.json as score_offset.",
        ),
        ("Next", "easyrlhf serve_reward outputs/rm_classifier"),
    ],
    examples=[
        "easyrlhf export outputs/rm --to sequence_classification --output_dir outputs/rm_classifier",
    ],
)

command = ServeCommand("export", ExportConfig, "easyrlhf.tools.export:export_reward_model", PAGE)
