"""The command `easyrlhf data split`."""

import click

from easyrlhf.cli.exit_codes import Job, job
from easyrlhf.cli.path_type import PATH
from easyrlhf.report.opening import opened


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILES...", type=PATH)
@click.option("--output_dir", required=True, metavar="DIR", type=PATH, help="Folder for train.jsonl and valid.jsonl.")
@click.option(
    "--valid", type=float, default=0.05, show_default=True, metavar="X", help="Share of the rows to hold out."
)
@click.option("--seed", type=int, default=42, show_default=True, metavar="N", help="Chooses the prompts held out.")
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
    help="A malformed row: stop names file and line; skip counts it and keeps it in bad_rows.jsonl.",
)
@click.option("--overwrite", is_flag=True, help="Replace the files when they are there.")
def command(files: tuple[str, ...], output_dir: str, **settings) -> Job:
    """Hold out a share of the rows for validation: whole prompts, so that no prompt is on both sides.

    Goes in: .jsonl, .json, .csv, .tsv, .parquet, .arrow, folders or hub dataset ids, in any format of data/README.md.

    Comes out: DIR/train.jsonl and DIR/valid.jsonl with the rows as they were (with --field or --transform: as these
    make them). Files of several formats give a file for each, DIR/train/FORMAT.jsonl, which --train_data DIR@train
    reads. The seed and the prompts alone decide: the same command gives the same files, in whatever order rows come.

    \b
      easyrlhf data split pairs.jsonl --output_dir data/pairs
      easyrlhf data split a.jsonl b.parquet --valid 0.1 --seed 1 --output_dir data/both
      rm_train --train_data data/pairs/train.jsonl --valid_data data/pairs/valid.jsonl
    """
    spec = ",".join(files)
    return opened(f"reading {spec} …", job("easyrlhf.tools.split:split_data", spec, output_dir, **settings))
