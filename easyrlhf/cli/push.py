"""The command `easyrlhf push`."""

import click

from easyrlhf.cli.exit_codes import Job, job
from easyrlhf.cli.path_type import PATH


@click.command("push")
@click.argument("folder", metavar="DIR", type=PATH)
@click.argument("repository", metavar="REPO")
@click.option(
    "--hub_private/--no_hub_private",
    "private",
    default=True,
    show_default=True,
    help="Keep a repository that is made to yourself.",
)
def command(folder: str, repository: str, private: bool) -> Job:
    """Upload a finished model to the Hugging Face hub.

    Goes in: the output folder of a stage or of easyrlhf export, or its adapter. Comes out: the repository OWNER/NAME,
    or NAME of yours, made if it is not there, with all files but checkpoints; stage and step are its commit message.
    The token is that of hf auth login or HF_TOKEN. --push_to_hub of a stage does the same when it is complete.

    \b
      easyrlhf push outputs/sft my-sft
      easyrlhf push outputs/dpo/adapter my-team/dpo-lora --no_hub_private
    """
    return job("easyrlhf.tools.push:push_run", folder, repository, private)
