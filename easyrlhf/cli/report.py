"""The command `easyrlhf report`."""

import click

from easyrlhf.cli.exit_codes import Job, job
from easyrlhf.cli.path_type import PATH
from easyrlhf.report.opening import opened


@click.command("report")
@click.argument("runs", nargs=-1, required=True, metavar="DIR…", type=PATH)
@click.option(
    "--output",
    metavar="FILE",
    type=PATH,
    help="Where the page goes: by default outputs/report.html over several runs, and DIR/report.html of one.",
)
def command(runs: tuple[str, ...], output: str | None) -> Job:
    """Write the report of a run anew, or compare several runs on one page.

    Goes in: folders of training stages, finished or not. Comes out: one self-contained html file with key numbers,
    curves and settings; of several runs, over one another and side by side.

    \b
      easyrlhf report outputs/ppo
      easyrlhf report outputs/ppo outputs/grpo outputs/dpo --output outputs/methods.html
    """
    return opened(f"reading {', '.join(runs)} …", job("easyrlhf.tools.report:report", runs, output))
