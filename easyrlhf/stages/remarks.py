"""What a stage says of its inputs before it trains, where they are good enough to go on and other than they look."""

from easyrlhf.config import TrainConfig
from easyrlhf.data.overlap import trained_on
from easyrlhf.data.tokens import TokenData
from easyrlhf.models.value_head import HEAD_FILE, has_head
from easyrlhf.report.console import Console


def say_what_is_left_out(config: TrainConfig, console: Console) -> None:
    """Warn where a model is a reward model's, whose head no stage goes on with from there."""
    for flag, path in (("model", config.model), ("ref_model", config.ref_model)):
        if path and has_head(path) and (flag == "model" or path != config.model):
            console.warn(
                f"--{flag} {path}: is a reward model or a value model; its language model alone is used, without its "
                f"head ({HEAD_FILE})"
            )


def say_what_is_trained_on(config: TrainConfig, data: dict[str, TokenData | None], console: Console) -> None:
    """Warn of held-out rows that are trained on as well: what is said of them is no measure."""
    train, valid = data.get("train"), data.get("valid")
    if train and valid and not config.valid_split and (shared := trained_on(valid.rows, train.rows)):
        console.warn(
            f"held-out figures are of rows that were trained on: {shared:,} of {len(valid.rows):,} rows of "
            f"--valid_data {config.valid_data} are in --train_data {config.train_data}"
        )
