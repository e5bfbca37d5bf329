"""The command `easyrlhf report`."""

import click

from easyrlhf.cli.paths import PATH
from easyrlhf.cli.running import Job, job


@click.command("report")
@click.argument("runs", nargs=-1, required=True, metavar="DIR…", type=PATH)
@click.option(
    "--output",
    metavar="FILE",
    type=PATH,
    default="outputs/report.html",
    show_default=True,
    help="Where the page over several runs goes; that of one run is its own report.html.",
)
def command(runs: tuple[str, ...], output: str) -> Job:
    """Write the report of a run anew, or compare several runs on one page.

    Goes in: folders of training stages, finished or not. Comes out: one self-contained html file with key numbers,
    curves and settings; of several runs, over one another and side by side.

    \b
      easyrlhf report outputs/ppo
      easyrlhf report outputs/ppo outputs/grpo outputs/dpo --output outputs/methods.html
    """
    return job("easyrlhf.tools.report:report", runs, output)
