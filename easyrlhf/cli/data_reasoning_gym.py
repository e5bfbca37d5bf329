"""The command `easyrlhf data reasoning_gym`."""

import click

from easyrlhf.cli.exit_codes import Job, job
from easyrlhf.cli.path_type import PATH


@click.command("reasoning_gym")
@click.argument("tasks", metavar="TASK[,TASK…]|list")
@click.option("--output", metavar="FILE.jsonl", type=PATH, help="The file to write.")
@click.option("--size", type=click.IntRange(1), default=1000, show_default=True, help="Items of each task.")
@click.option("--seed", type=click.IntRange(0), default=42, show_default=True, help="Seed of the items.")
@click.option("--task_settings", metavar="JSON", help="Settings of the tasks, such as '{\"max_terms\": 2}'.")
@click.option("--system", metavar="TEXT", help="System prompt to begin with.")
@click.option("--ask", metavar="TEXT", help="Text behind each question, such as 'Answer with a number.'")
@click.option("--overwrite", is_flag=True, help="Replace the file when it is there.")
def command(tasks: str, **settings) -> Job:
    """Write items of reasoning-gym's tasks as prompts, which reward functions score by program.

    Goes in: names of tasks; `list` prints them. pip install 'easyrlhf[reasoning_gym]'

    Comes out: a .jsonl file of prompts with all that a scorer needs. ppo_train and grpo_train take --reward_funcs
    reasoning_gym:score, what the task's own scorer gives (many give a little for wrong answers), or
    reasoning_gym:solved, 1 for right answers alone. An answer is what stands between <answer> and </answer>, or all.

    \b
      easyrlhf data reasoning_gym list
      easyrlhf data reasoning_gym chain_sum,gcd --size 2000 --output sums.jsonl
      easyrlhf data reasoning_gym knights_knaves --ask "Answer between <answer> and </answer>." --output k.jsonl
      grpo_train --train_data sums.jsonl --reward_funcs reasoning_gym:solved
    """
    return job("easyrlhf.tools.reasoning_gym_rows:write_rows", tasks, **settings)
