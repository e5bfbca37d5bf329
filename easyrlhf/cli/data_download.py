"""The command `easyrlhf data download`."""

import click

from easyrlhf.cli.exit_codes import Job, job
from easyrlhf.cli.path_type import PATH


@click.command()
@click.argument("dataset", metavar="hh-rlhf|slimorca-dedup|OWNER/NAME")
@click.option("--subset", metavar="NAME[,…]", help="Only these parts of hh-rlhf, such as helpful-base.  [default: all]")
@click.option("--output_dir", metavar="DIR", type=PATH, help="Where to put the files.  [default: data/NAME]")
@click.option("--base_url", metavar="URL", help="Take the files from a mirror.  [default: the Hugging Face hub]")
def command(dataset: str, subset: str | None, output_dir: str | None, base_url: str | None) -> Job:
    """Download a data set as .jsonl files; those that are there already are kept.

    Goes in: hh-rlhf (comparisons of a helpful and harmless assistant), slimorca-dedup (demonstrations), or the id of
    any data set of the Hugging Face hub, OWNER/NAME[:CONFIG][@SPLIT].

    Comes out: a .jsonl file for each split, checked and unpacked. The same command goes on with a download that broke
    off. A .jsonl.gz of hh-rlhf that is there already is unpacked without the network.

    \b
      easyrlhf data download hh-rlhf --subset helpful-base
      rm_train --train_data data/hh-rlhf/helpful-base/train.jsonl
      easyrlhf data download slimorca-dedup
      sft_train --train_data data/slimorca-dedup/train.jsonl
      easyrlhf data download trl-lib/ultrafeedback_binarized@train --output_dir data/ultra

    A mirror of hh-rlhf holds SUBSET/SPLIT.jsonl.gz; a mirror of other data sets is one of the whole hub.
    """
    subsets = [name.strip() for name in subset.split(",")] if subset else None
    return job("easyrlhf.tools.downloading.download:download", dataset, output_dir, subsets, base_url)
