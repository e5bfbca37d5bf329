"""easyrlhf recipes and easyrlhf docs: the settings files, the toy data and the pages that come with the package."""

import difflib
import re
import sys
from pathlib import Path

import click

from easyrlhf import shipped
from easyrlhf.errors import InputError

QUICKSTART = """\
  easyrlhf init --preset tiny --train_data data/toy/sft.jsonl.gz
  sft_train --config configs/recipes/toy_sft.yaml --model outputs/init
  rm_train --config configs/recipes/toy_rm.yaml --model outputs/sft
  ppo_train --config configs/recipes/toy_ppo.yaml --model outputs/sft --reward_model outputs/rm
  python scripts/quickstart_report.py --output_dir outputs"""


def list_recipes() -> None:
    """Print every settings file with a line on it."""
    formatter = click.HelpFormatter(width=100)
    for title, folder in (
        ("A settings file for every stage, with pretrained models and public data", "configs"),
        ("Recipes of the toy world, which run in minutes on a CPU", "recipes"),
    ):
        with formatter.section(title):
            files = {name: file for name, file in shipped.settings_files().items() if file.parent.name == folder}
            formatter.write_dl([(name, leading_sentence(file)) for name, file in files.items()])
    with formatter.section("DeepSpeed configurations to begin your own with; --deepspeed takes their names too"):
        formatter.write_text(" ".join(n for n, file in shipped.settings_files().items() if file.suffix == ".json"))
    with formatter.section("Take them"):
        rows = [
            ("easyrlhf recipes NAME", "prints one: easyrlhf recipes toy_ppo > ppo.yaml"),
            ("easyrlhf recipes --copy DIR", "puts all of them, with toy data, into a folder; shows the quickstart"),
            ("easyrlhf init-config STAGE", "prints a file with every setting of a stage, commented"),
        ]
        formatter.write_dl(rows)
    click.echo(formatter.getvalue().lstrip("\n"), nl=False)


def show_recipe(name: str) -> None:
    """Print a settings file as it is. Raises InputError for a name that is none."""
    file = find_file(name, shipped.settings_files(), "recipe", "recipes")
    click.echo(file.read_text(encoding="utf-8"), nl=False)


def copy_recipes(folder: str) -> None:
    """Put all settings files and the toy data into a folder, and say how the quickstart goes. Raises InputError."""
    copied = shipped.copy_files(Path(folder).expanduser())
    click.echo(f"{len(copied)} files are in {folder}: configs/, data/toy/ and what the quickstart needs. From there:")
    click.echo(QUICKSTART)


def list_pages() -> None:
    """Print the name and the title of every page."""
    formatter = click.HelpFormatter(width=100)
    with formatter.section("Pages"):
        formatter.write_dl([(name, title(file)) for name, file in shipped.pages().items()])
    with formatter.section("Read one"):
        formatter.write_dl([("easyrlhf docs NAME", "in the terminal; easyrlhf docs NAME > page.md for a file")])
    click.echo(formatter.getvalue().lstrip("\n"), nl=False)


def show_page(name: str) -> None:
    """Print a page: laid out on a terminal, as it is into a pipe. Raises InputError for a name that is none."""
    text = find_file(name, shipped.pages(), "page", "docs").read_text(encoding="utf-8")
    if not sys.stdout.isatty():
        click.echo(text, nl=False)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    console.print(Markdown(text, hyperlinks=False), width=min(console.width, 110))


def find_file(name: str, files: dict[str, Path], what: str, command: str) -> Path:
    """The file of a name, of a path in a checkout (configs/ppo.yaml) or of its last part. Raises InputError."""
    paths = {file.relative_to(shipped.root()).as_posix(): file for file in files.values()}
    plain = Path(name).stem.replace("-", "_")
    if found := paths.get(name.removeprefix("./")) or files.get(name) or files.get(plain):
        return found
    near = difflib.get_close_matches(plain, files, 1)
    hint = f"did you mean {near[0]}?" if near else f"easyrlhf {command} lists them"
    raise InputError(f"unknown {what} {name}: {hint}")


def leading_sentence(file: Path) -> str:
    """The first sentence of the comment that a settings file begins with."""
    comment = re.match(r"(?:#.*\n)*", file.read_text(encoding="utf-8"))[0]
    words = " ".join(line.lstrip("# ") for line in comment.splitlines())
    return re.match(r".*?\.(?= |$)", words)[0]


def title(file: Path) -> str:
    """The heading of a page, without its mark."""
    return file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
