"""The command `easyrlhf recipes`."""

import click

from easyrlhf.cli.exit_codes import Job, job
from easyrlhf.cli.path_type import PATH


@click.command()
@click.argument("name", required=False)
@click.option("--copy", metavar="DIR", type=PATH, help="Put all of them, with the toy data, into this folder.")
def command(name: str | None, copy: str | None) -> Job:
    """Settings files that come with the package: list them, print one, or copy all.

    Without NAME all of them are listed with a line each. With it that file is printed, to be kept and changed.

    \b
      easyrlhf recipes
      easyrlhf recipes toy_ppo > ppo.yaml
      easyrlhf recipes --copy toy     # configs, recipes, toy data: all that the quickstart needs

    A file with every setting of a stage: easyrlhf init-config STAGE.
    """
    if name and copy:
        raise click.UsageError(f"give NAME or --copy, not both: easyrlhf recipes {name} > {name}.yaml keeps one")
    if copy:
        return job("easyrlhf.tools.browse:copy_recipes", copy)
    return job("easyrlhf.tools.browse:show_recipe", name) if name else job("easyrlhf.tools.browse:list_recipes")
