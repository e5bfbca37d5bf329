"""easyrlhf play: what a model does in an environment, for people to read; docs/environments.md."""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from datasets import Dataset

from easyrlhf.config import PlayConfig
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokens import DataSettings, load_tokens
from easyrlhf.report.console import Console
from easyrlhf.report.transcript import call_counts, counted, transcript_lines
from easyrlhf.tools.answer_rows import GeneratedAnswer
from easyrlhf.tools.episodes import NO_LIMIT, episodes_of, open_player
from easyrlhf.tools.output import printable
from easyrlhf.tools.policy import load_sampler, read_renderer, room_for_prompt

STYLES = {"call": "yellow", "tool": "cyan", "user": "dim", "system": "dim", "thought": "dim"}
WIDTH = 12  # of the names before what is said


def play(config: PlayConfig) -> None:
    """Play episodes and print each. Raises InputError for models, prompts or an environment that cannot be used.

    An environment that fails raises EnvironmentFailed, or is shown as far as it came where failures are dropped.
    """
    renderer, console = read_renderer(config), Console("play")
    with TemporaryDirectory() as scratch:
        rows = rows_to_play(config, renderer, Path(scratch))
        player = open_player(config, renderer, rows)
        sampler = load_sampler(config, renderer, config.batch_size)
        total, answers = min(config.episodes, len(rows)), []
        for start in range(0, total, config.batch_size):
            numbers = range(start, min(start + config.batch_size, total))
            keys = [(config.seed, number, 0) for number in numbers]
            played = episodes_of(player, sampler, [rows[number] for number in numbers], keys)
            for number, answer in zip(numbers, played, strict=True):
                show_episode(console, f"episode {number + 1} of {total}", answer)
            answers += played
    console.note(in_short(answers))


def rows_to_play(config: PlayConfig, renderer: Renderer, scratch: Path) -> Dataset:
    """The prompt rows; without prompts as many empty turns of the user as there are episodes."""
    if config.prompts is None:
        prompt = [{"role": "user", "content": ""}]
        row = {"prompt": json.dumps(prompt), "columns": "{}", "prompt_ids": renderer.prompt_ids(prompt)}
        return Dataset.from_list([row] * config.episodes)
    settings = DataSettings.of(
        config,
        max_length=NO_LIMIT,
        max_prompt_length=config.max_prompt_length or room_for_prompt(config) or NO_LIMIT,
        cache_dir=scratch,
        name="prompts",
        seed=config.seed,
    )
    data = load_tokens(config.prompts, "prompt", renderer, settings)
    return data.rows


def show_episode(console: Console, title: str, answer: GeneratedAnswer) -> None:
    """Print an episode: the prompt, every turn, call and result, and what became of it."""
    console.note(title, "bold")
    for who, text, kind in transcript_lines([*answer.episode.prompt, *answer.episode.messages]):
        first, *more = printable(text).split("\n")
        console.note(f"  {who:>{WIDTH}} │ {first}", STYLES.get(kind, ""))
        for line in more:
            console.note(f"  {'':>{WIDTH}} │ {line}", STYLES.get(kind, ""))
    for line in outcome_lines(answer):
        console.note(f"  {line}", "bold")
    console.note("")


def outcome_lines(answer: GeneratedAnswer) -> Iterator[str]:
    """How an episode ended, in words."""
    episode = answer.episode
    if episode.dropped:
        yield f"the environment failed: {printable(episode.failure).splitlines()[0]}"
    parts = ["no reward" if answer.reward is None else f"reward {answer.reward:+.3f}", counted(episode.turns, "turn")]
    if episode.tool_calls:
        parts.append(call_counts(episode.tool_calls, episode.tool_errors))
    parts.append("finished" if answer.finished else "not finished: cut off, or no turn or room left")
    yield " · ".join(parts)


def in_short(answers: list[GeneratedAnswer]) -> str:
    """All episodes in one line."""
    rewards = [answer.reward for answer in answers if answer.reward is not None]
    said = [counted(len(answers), "episode")]
    said += [f"mean reward {sum(rewards) / len(rewards):+.3f}"] if rewards else []
    said += [f"{sum(answer.episode.turns for answer in answers) / len(answers):.2f} turns"]
    said += [f"{sum(answer.finished for answer in answers)} finished"]
    return " · ".join(said)
