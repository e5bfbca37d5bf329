"""The command `easyrlhf init-config STAGE`."""

import difflib

import click

from easyrlhf.cli.exit_codes import Job, job
from easyrlhf.config import TRAINING


@click.command()
@click.argument("stage")
def command(stage: str) -> Job:
    """Print a settings file with every setting of a stage, each explained and commented out.

    The file is one that --config takes. Take the "# " from a line and it sets what it says.

    \b
      easyrlhf init-config sft > sft.yaml
      sft_train --config sft.yaml --train_data demos.jsonl
    """
    name = stage.replace("-", "_").removesuffix("_train")
    if name not in TRAINING:
        near = difflib.get_close_matches(name, TRAINING, 1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(TRAINING)}"
        raise click.UsageError(f"unknown stage {stage}: {hint}")
    return job("easyrlhf.cli.commented:print_commented", TRAINING[name])
