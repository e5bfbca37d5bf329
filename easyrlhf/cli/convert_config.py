"""The command `easyrlhf convert-config`."""

import click

from easyrlhf.cli.exit_codes import Job, job
from easyrlhf.cli.path_type import PATH
from easyrlhf.tools.converting.draft import CONFIGS

PEERS = ("axolotl", "llamafactory", "swift", "trl", "openrlhf", "verl")


@click.command()
@click.argument("file", metavar="FILE.yaml", type=PATH)
@click.option("--output_file", metavar="FILE.yaml", type=PATH, help="The file to write.  [default: printed]")
@click.option("--from", "peer", type=click.Choice(PEERS), help="Whose file it is.  [default: recognised by its keys]")
@click.option(
    "--stage",
    type=click.Choice([*CONFIGS]),
    help="The stage, where the file does not say it: TRL's do not.  [default: what the keys say]",
)
@click.option(
    "--num_devices",
    "devices",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="GPUs that the file was for: batch sizes of one device are multiplied by it.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file when it is there.")
def command(file: str, **settings) -> Job:
    """Turn a settings file of axolotl, LLaMA-Factory, ms-swift, TRL, OpenRLHF or verl into one of ours.

    Goes in: the other program's YAML file.

    Comes out: a YAML file for --config of the stage that its first line names. Values are translated where units
    differ; what has no counterpart is a comment with its key, its value and why. Read it before you train.

    \b
      easyrlhf convert-config axolotl.yaml --output_file dpo.yaml
      easyrlhf convert-config llama3_lora_sft.yaml --num_devices 8 > sft.yaml
      easyrlhf convert-config grpo.yaml --from trl --stage grpo
    """
    return job("easyrlhf.tools.converting.convert_config:convert_config", file, **settings)
