"""The command `easyrlhf docs`."""

import click

from easyrlhf.cli.exit_codes import Job, job


@click.command()
@click.argument("page", required=False)
def command(page: str | None) -> Job:
    """Read the documentation: list the pages, or show one.

    On a terminal a page is laid out; into a pipe or file it goes as Markdown.

    \b
      easyrlhf docs
      easyrlhf docs metrics
      easyrlhf docs formats | less     # every row format with a sample
    """
    return job("easyrlhf.tools.browse:show_page", page) if page else job("easyrlhf.tools.browse:list_pages")
