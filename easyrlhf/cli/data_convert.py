"""The command `easyrlhf data convert`."""

import click

from easyrlhf.cli.exit_codes import Job, job
from easyrlhf.cli.path_type import PATH
from easyrlhf.report.opening import opened


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILES...", type=PATH)
@click.option("--output", required=True, metavar="FILE.jsonl", type=PATH, help="The file to write.")
@click.option(
    "--kind",
    type=click.Choice(["demonstration", "comparison", "ranking", "feedback", "prompt"]),
    help="The records to write; comparisons become rankings or feedback, rankings comparisons, and every record its "
    "prompt.  [default: what the files hold]",
)
@click.option("--format", metavar="NAME", help="Row format (easyrlhf docs formats).  [default: recognised]")
@click.option("--field", metavar="NAME=KEY[,…]", help="Keys under other names, such as prompt=question,chosen=good.")
@click.option(
    "--transform", metavar="FILE.py:FN", type=PATH, help="Your own function: fn(row) gives a row, several, or None."
)
@click.option(
    "--on_bad_row",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="A malformed row: stop names file and line; skip counts it and keeps it in FILE.bad_rows.jsonl.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file when it is there.")
def command(files: tuple[str, ...], output: str, **settings) -> Job:
    """Write rows of any format in TRL's, which every stage and TRL itself reads.

    Goes in: .jsonl, .json, .csv, .tsv, .parquet, .arrow, folders or hub dataset ids, in any format that
    easyrlhf docs formats shows.

    Comes out: a .jsonl file of demonstrations (prompt, completion), comparisons (prompt, chosen, rejected), rankings
    (prompt, completions, scores), feedback (prompt, completion, label) or prompts. Strings stay strings, messages stay
    messages, and other columns are kept. Rows read = used + dropped is printed.

    \b
      easyrlhf data convert data/hh-rlhf/helpful-base/train.jsonl --output pairs.jsonl
      easyrlhf data convert orca.parquet --format chatml.intel --output pairs.jsonl
      easyrlhf data convert mine.jsonl --field prompt=question,completion=answer --output demos.jsonl
      easyrlhf data convert mine.jsonl --transform rows.py:fix --kind prompt --output prompts.jsonl
    """
    spec = ",".join(files)
    return opened(f"reading {spec} …", job("easyrlhf.tools.convert:convert_data", spec, output, **settings))
