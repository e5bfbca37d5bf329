"""Marks for the answers of models: scores of reward models and functions, and verdicts of a judge on pairs."""

import math
from collections.abc import Callable
from typing import Any

from easyrlhf.config import CompareConfig
from easyrlhf.data.chat_template import arguments_for, with_answer
from easyrlhf.data.records import Messages
from easyrlhf.errors import InputError
from easyrlhf.judges.judges import Judge
from easyrlhf.judges.pairs import Opinion, Pair, ask_all, merged_opinions
from easyrlhf.models.load import positions_of
from easyrlhf.report.comparison import JudgeVerdict
from easyrlhf.report.console import counting_bar
from easyrlhf.rewards.async_source import RewardFunction
from easyrlhf.rewards.batch import OURS, RewardBatch
from easyrlhf.rewards.combined import numbers
from easyrlhf.tools.comparing.contestants import ANSWER_KEY, Prompts, answer_record
from easyrlhf.tools.journal import Journal, Key
from easyrlhf.tools.scoring import Scorer, load_scorer, reward_folder, scores_of

REWARD_MODEL = "reward_model"
SCORE = "score/"
JUDGEMENT_KEY = (*ANSWER_KEY, "order")
ORDERS = (0, 1)  # the model's answer is A, the first model's is A


def score_all(
    config: CompareConfig, functions: dict[str, RewardFunction], prompts: Prompts, said: Journal, keys: list[Key]
) -> None:
    """Score the answers that have no score yet, each by its text."""
    sources: dict[str, Callable[[list[Key]], list[float | None]]] = {
        name: lambda part, source=source: function_scores(source, prompts, said, part)
        for name, source in functions.items()
    }
    if config.reward_model and said.missing(keys, field_of(REWARD_MODEL)):
        scorer = load_scorer(config)
        limit = positions_of(reward_folder(config), trust_remote_code=config.trust_remote_code)
        sources[REWARD_MODEL] = lambda part: model_scores(scorer, limit, prompts, said, part)
    for name, score in sources.items():
        todo = said.missing(keys, field_of(name))
        for start in range(0, len(todo), config.batch_size):
            part = todo[start : start + config.batch_size]
            said.add(
                answer_record(key, **{field_of(name): value}) for key, value in zip(part, score(part), strict=True)
            )


def field_of(name: str) -> str:
    """The journal's field for a score."""
    return f"{SCORE}{name}"


def scores_in(record: dict[str, Any]) -> dict[str, float | None]:
    """The scores of an answer by name."""
    return {name.removeprefix(SCORE): value for name, value in record.items() if name.startswith(SCORE)}


def model_scores(
    scorer: Scorer, limit: int | None, prompts: Prompts, said: Journal, part: list[Key]
) -> list[float | None]:
    """Scores of a reward model; None for an answer that is too long for it. Raises InputError."""
    asked = [prompts.prompt(number) for _, number, _ in part]
    cells = [prompts.columns(number) for _, number, _ in part]
    records = [said.records[key] for key in part]
    try:
        sequences = [
            scorer.renderer.sequence(
                *with_answer(prompt, record["text"]), record["finished"], arguments_for(prompt, columns)
            )
            for prompt, columns, record in zip(asked, cells, records, strict=True)
        ]
    except InputError as error:
        raise InputError(f"--reward_model: {error}") from error
    return scores_of(scorer, sequences, limit)


def function_scores(source: RewardFunction, prompts: Prompts, said: Journal, part: list[Key]) -> list[float | None]:
    """Scores of a reward function; None where it says that it does not apply. Raises RewardError."""
    records, numbered = [said.records[key] for key in part], [number for _, number, _ in part]
    asked = [prompts.prompt(number) for number in numbered]
    answers = [completion(prompt, record["text"]) for prompt, record in zip(asked, records, strict=True)]
    cells = [prompts.columns(number) for number in numbered]
    columns = {name: [cell.get(name) for cell in cells] for name in sorted(set().union(*cells) - set(OURS))}
    ids, finished = ([record[name] for record in records] for name in ("ids", "finished"))
    batch = RewardBatch(asked, answers, ids, finished, columns)
    found = numbers(source.name, source.start(batch).scores(), batch)
    return [None if math.isnan(score) else score for score in found]


def completion(prompt: Messages | str, text: str) -> Messages | str:
    """An answer in the form of its prompt."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def judge_all(judge: Judge, prompts: Prompts, said: Journal, judged: Journal, keys: list[Key]) -> None:
    """Have every pair of different texts judged in both orders, as far as that is not done."""
    asked = [(*key, order) for key in keys if differs(said, key) for order in ORDERS]
    todo = judged.missing(asked, "prefers_a")
    with counting_bar("judgement", len(asked), len(asked) - len(todo)) as advance:

        def keep(key: Key, opinion: Opinion) -> None:
            fields = {"prefers_a": opinion.prefers_a, "said": opinion.said}
            judged.add([dict(zip(JUDGEMENT_KEY, key, strict=True)) | fields])
            advance(1)

        ask_all(judge, judge.workers, [(key, ordered_pair(prompts, said, key)) for key in todo], keep)


def differs(said: Journal, key: Key) -> bool:
    """Whether a model's answer is another text than the first model's."""
    return key[0] > 0 and said.records[key]["text"] != said.records[(0, *key[1:])]["text"]


def ordered_pair(prompts: Prompts, said: Journal, key: Key) -> Pair:
    """A pair in one of its orders."""
    number, prompt, sample, order = key
    texts = [said.records[(model, prompt, sample)]["text"] for model in (number, 0)]
    return Pair(prompts.prompt(prompt), *texts[:: -1 if order else 1], prompts.columns(prompt))


def verdict_of(said: Journal, judged: Journal, key: Key) -> JudgeVerdict:
    """The judge's verdict on a model's answer, from both orders; a tie for the same text."""
    if not differs(said, key):
        return JudgeVerdict(0.5)
    as_a, as_b = (judged.records[(*key, order)]["prefers_a"] for order in ORDERS)
    return JudgeVerdict(*merged_opinions(as_a, None if as_b is None else 1 - as_b))
