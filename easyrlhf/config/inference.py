"""Commands that use a trained model: chat, generate, score, compare."""

import re
from dataclasses import MISSING, dataclass
from typing import ClassVar

from easyrlhf.config.answers import (
    AnswerLength,
    AnswerSeed,
    DecodedTogether,
    Sampling,
    StopTexts,
    check_room,
    check_stop,
)
from easyrlhf.config.base import DATA, REWARDS, RUN, SAMPLING, SettingError, Settings, opt, restate, split_apart
from easyrlhf.config.common_fields import (
    BadRows,
    IncompleteModels,
    RowLayout,
    wrong_function,
    wrong_reward_function,
)
from easyrlhf.config.rendering import FinalTurn, Rendering, TemplateVariables, template_kwargs
from easyrlhf.config.tools import NeededRewardModel, ScoringConfig
from easyrlhf.paths import split_paths

JUDGE_URL = re.compile(r"https?://[^\s,/@?#]+(/[^\s@?#]*)?")
ORDERS = ("worst", "best", "longest", "furthest")
VARIABLE = re.compile(r"[A-Za-z_]\w*")


@dataclass(kw_only=True, frozen=True)
class AnsweringModel(Settings):
    """What answers, and what scores the answers."""

    group: ClassVar[str] = DATA

    model: str = opt(
        MISSING,
        "The language model: the folder of a stage, an adapter folder, any Hugging Face checkpoint or a hub id.",
        metavar="DIR|HUB_ID",
        model=True,
    )
    adapter: str | None = opt(None, "A LoRA adapter to put on the model, such as outputs/sft/adapter.", metavar="DIR")
    reward_model: str | None = opt(
        None,
        "Scores every answer: the folder of rm_train, or a sequence classifier with one label.",
        metavar="DIR",
        model=True,
    )


@dataclass(kw_only=True, frozen=True)
class PolicyConfig(
    IncompleteModels,
    AnswerSeed,
    StopTexts,
    Sampling,
    AnswerLength,
    FinalTurn,
    Rendering,
    AnsweringModel,
    ScoringConfig,
):
    """What every command that writes answers with a language model, and trains nothing, can be told."""

    def _check(self) -> None:
        super()._check()
        check_stop(self.stop, self.stop_finishes)
        template_kwargs(self)
        check_room(self.max_length, self.max_new_tokens)


@dataclass(kw_only=True, frozen=True)
class SystemPrompt(Settings):
    """What a conversation begins with."""

    group: ClassVar[str] = DATA

    system: str | None = opt(None, "System prompt to begin with.", metavar="TEXT")


@dataclass(kw_only=True, frozen=True)
class ChatConfig(SystemPrompt, PolicyConfig):
    """Settings of `easyrlhf chat`: a conversation with a model."""

    stage: ClassVar[str] = "chat"
    opening: ClassVar[str] = "loading {self.model} …"

    max_new_tokens: int = restate(Sampling, "max_new_tokens", default=512)
    temperature: float = restate(Sampling, "temperature", default=0.7)


@dataclass(kw_only=True, frozen=True)
class PromptsAndOutput(Settings):
    """What is answered, and where the answers go."""

    group: ClassVar[str] = DATA

    prompts: str | None = opt(
        None,
        "Prompts, as ppo_train reads them: rows of any format; answers that they hold are left aside. - reads JSON "
        "from standard input.",
        metavar="FILE[,…]",
        many=True,
    )
    prompt: str | None = opt(
        None,
        "A text to answer in place of prompts: a user turn where the model has a chat template. May be given more than "
        "once; - is the text of standard input.",
        metavar="TEXT",
        apart=True,
    )
    output: str | None = opt(
        None,
        "File for the rows. The same command goes on where it was stopped. - prints them.",
        metavar="FILE.jsonl|-",
        shown="- with prompt, as plain text",
    )


@dataclass(kw_only=True, frozen=True)
class PromptLength(Settings):
    """Which prompts are too long."""

    group: ClassVar[str] = DATA

    max_prompt_length: int | None = opt(
        None,
        "Longest prompt in tokens; longer ones are dropped and counted.",
        low=1,
        shown="max_length - max_new_tokens",
    )


@dataclass(kw_only=True, frozen=True)
class Selection(Settings):
    """How many answers are drawn, and which of them are written."""

    group: ClassVar[str] = SAMPLING

    samples: int | None = opt(None, "Answers to draw for each prompt; all are written.", low=1, shown="1")
    best_of: int | None = opt(
        None,
        "Draw so many answers and write the one with the highest reward. Needs reward_model.",
        low=2,
    )
    to: str = opt(
        "demonstrations",
        "What a row is: an answer, for sft_train; or the best answer against the worst of the samples, for rm_train "
        "and dpo_train.",
        choices=("demonstrations", "comparisons"),
    )
    min_reward: float | None = opt(None, "Write only demonstrations with at least this reward: rejection sampling.")
    min_margin: float | None = opt(
        None,
        "Write only comparisons whose rewards differ by at least this. Equal ones are never written.",
        above=0,
        shown="any difference",
    )
    only_finished: bool = opt(
        False,
        "Leave out answers that were cut off at max_new_tokens; a stage that learns from them would teach the model "
        "to end there.",
    )


@dataclass(kw_only=True, frozen=True)
class OutputFile(Settings):
    """What becomes of rows that are there."""

    group: ClassVar[str] = RUN

    overwrite: bool = opt(False, "Replace the output file and begin anew.")


@dataclass(kw_only=True, frozen=True)
class GenerateConfig(
    OutputFile, DecodedTogether, Selection, BadRows, PromptLength, RowLayout, PromptsAndOutput, PolicyConfig
):
    """Settings of `easyrlhf generate`: answers to prompts, all of them or the best."""

    stage: ClassVar[str] = "generate"
    opening: ClassVar[str] = "loading {self.model} …"

    format: str | None = restate(RowLayout, "format", "Row format of the prompts, when recognising it is not wanted.")

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts to answer."""
        return split_apart(self.prompt)

    @property
    def to_screen(self) -> bool:
        """Whether answers go to standard output."""
        return self.output in (None, "-")

    @property
    def readable(self) -> bool:
        """Whether they are printed for a reader, and not as rows."""
        return self.to_screen and bool(self.prompt) and self.to == "demonstrations"

    @property
    def draws(self) -> int:
        """Answers drawn for each prompt."""
        return self.best_of or self.samples or 1

    @property
    def selects(self) -> bool:
        """Whether rewards decide which answers are written."""
        return bool(self.best_of) or self.min_reward is not None or self.to == "comparisons"

    def _check(self) -> None:
        super()._check()
        self._check_places()
        pairs, low = self.to == "comparisons", self.min_reward is not None
        rules = (
            ("samples", self.samples and self.best_of, f"best_of {self.best_of} says how many are drawn; give one"),
            ("best_of", self.best_of and not self.reward_model, "needs reward_model, which says what is best"),
            ("min_reward", low and not self.reward_model, "needs reward_model"),
            ("to", pairs and not self.reward_model, "needs reward_model, which tells the best from the worst"),
            ("to", pairs and self.best_of, "compares the best with the worst; give samples instead of best_of"),
            ("to", pairs and self.draws < 2, "needs two answers or more; give samples"),
            ("min_reward", pairs and low, "belongs to demonstrations; for comparisons there is min_margin"),
            ("min_margin", not pairs and self.min_margin is not None, "belongs to comparisons; give to comparisons"),
            ("temperature", self.draws > 1 and not self.temperature, "draws the same answer every time; raise it"),
        )
        for name, broken, rule in rules:
            if broken:
                raise SettingError(name, f"{name} {getattr(self, name)}: {rule}")

    def _check_places(self) -> None:
        """Where prompts come from, and where answers go."""
        if bool(self.prompts) == bool(self.texts):
            both = self.prompts and self.texts
            raise SettingError(
                "prompt" if both else "prompts",
                "prompt: prompts are given as well; give one of the two"
                if both
                else "prompts: nothing to answer; give a file of prompts, or a text with prompt",
            )
        if empty := [text for text in self.texts if not text.strip()]:
            raise SettingError("prompt", f"prompt {empty[0]!r}: says nothing; give a text to answer")
        if self.prompts and self.output is None:
            raise SettingError(
                "output", "output: give the file for the answers, such as answers.jsonl, or - for standard output"
            )
        if not self.to_screen:
            _check_rows_file("output", self.output)
        rows = ("format", "field", "transform", "max_prompt_length")
        if self.texts and (stray := next((name for name in rows if getattr(self, name) is not None), None)):
            raise SettingError(stray, f"{stray} {getattr(self, stray)}: belongs to prompts; leave it out")


@dataclass(kw_only=True, frozen=True)
class ScoredLength(Settings):
    """How long a text may be that is scored."""

    group: ClassVar[str] = DATA

    max_length: int | None = opt(
        None,
        "Longest sequence in tokens, prompt and answer together; longer ones get the score null and a note.",
        low=2,
        shown="what the model was made for",
    )


@dataclass(kw_only=True, frozen=True)
class RewardModelConfig(IncompleteModels, ScoredLength, TemplateVariables, NeededRewardModel, ScoringConfig):
    """What everything that scores texts with a reward model can be told."""

    whose: ClassVar[str] = "the reward model"

    allow_incomplete: bool = restate(
        IncompleteModels, "allow_incomplete", "Score with a model whose own run did not finish."
    )

    def _check(self) -> None:
        super()._check()
        template_kwargs(self)


@dataclass(kw_only=True, frozen=True)
class Scored(Settings):
    """What is scored, and where the scores go."""

    group: ClassVar[str] = DATA

    data: str | None = opt(
        None,
        "Rows to score: answers, comparisons or rankings in any format (easyrlhf docs formats), or rows with a 'text'; "
        "- for JSON on standard input.",
        metavar="FILE[,…]",
        many=True,
    )
    output: str | None = opt(
        None,
        "File for the rows with their scores. The same command goes on where it was stopped. - prints them.",
        metavar="FILE.jsonl|-",
    )
    text: str | None = opt(None, "One text to score as it is, without a chat template.", metavar="TEXT")
    prompt: str | None = opt(None, "One prompt; completion is scored as the answer to it.", metavar="TEXT")
    completion: str | None = opt(None, "The answer to prompt.", metavar="TEXT")
    column: str = opt(
        "score",
        "Name of the new columns: score, chosen_score… Another name keeps the scores of several models apart.",
        metavar="NAME",
    )


@dataclass(kw_only=True, frozen=True)
class ScoreConfig(OutputFile, BadRows, RowLayout, Scored, RewardModelConfig):
    """Settings of `easyrlhf score`: scores of a reward model for the rows of a file, or for one text."""

    stage: ClassVar[str] = "score"
    opening: ClassVar[str] = "loading {self.reward_model} …"

    def _check(self) -> None:
        super()._check()
        if self.prompt is not None and self.completion is None:
            raise SettingError("prompt", "prompt: give completion too, the answer to be scored")
        if self.completion is not None and self.prompt is None:
            raise SettingError("completion", "completion: give prompt too, or text for a text that stands alone")
        given = [name for name in ("data", "text", "prompt") if getattr(self, name) is not None]
        if len(given) != 1:
            name, found = (given or ["data"])[-1], " and ".join(given) or "nothing"
            raise SettingError(name, f"{name}: give either data, or text, or prompt with completion; {found} was given")
        if self.data and not self.output:
            raise SettingError("output", "output: give the file for the scores of data, such as scores.jsonl, or -")
        if self.output and not self.data:
            raise SettingError("output", f"output {self.output}: belongs to data; the score of one text is printed")
        if self.output and self.output != "-":
            _check_rows_file("output", self.output)


@dataclass(kw_only=True, frozen=True)
class Contest(Settings):
    """Which models answer what, and where the findings go."""

    group: ClassVar[str] = DATA

    models: str = opt(
        MISSING,
        "The language models, the first of which the others are compared with. Given as the first words, they need no "
        "flag and no commas.",
        metavar="DIR,DIR[,…]",
        model=True,
        many=True,
    )
    prompts: str = opt(
        MISSING,
        "Prompts that no model was trained on: rows of any format; answers that they hold are left aside.",
        metavar="FILE[,…]",
        many=True,
    )
    output_dir: str = opt(
        "outputs/compare",
        "Folder for compare.html, compare.json, answers.jsonl and judgements.jsonl. The same command goes on where it "
        "was stopped.",
        metavar="DIR",
    )


@dataclass(kw_only=True, frozen=True)
class Judges(Settings):
    """Who judges the answers."""

    group: ClassVar[str] = REWARDS

    reward_model: str | None = opt(
        None,
        "Scores every answer; the higher score wins: the folder of rm_train, or a sequence classifier with one label.",
        metavar="DIR",
        model=True,
    )
    reward_funcs: str | None = opt(
        None,
        "Python reward functions, each of which is a judge of its own: fn(prompts, completions, **columns) returns one "
        "number per completion, or None where it does not apply, as in TRL; trl:NAME is one of TRL's own, such as "
        "trl:think_format_reward.",
        metavar="FILE.py:FN[,…]",
        many=True,
        functions=True,
        wrong=wrong_reward_function,
    )
    reward_timeout: float = opt(
        600.0,
        "Seconds that a reward function may take over batch_size completions.",
        above=0,
        high=1e6,
    )
    judge: str | None = opt(
        None,
        "A python function that judges a pair: fn(prompt, answer_a, answer_b, **columns) returns 'A', 'B', 'tie', or "
        "the chance from 0 to 1 that A is better. It sees each pair in both orders.",
        metavar="FILE.py:FN",
        functions=True,
        wrong=wrong_function,
    )
    judge_url: str | None = opt(
        None,
        "An OpenAI-compatible server whose model judges each pair in both orders, by POST URL/v1/chat/completions. "
        "Needs judge_model.",
        metavar="URL",
    )
    judge_model: str | None = opt(None, "Name of the judging model, as judge_url knows it.", metavar="NAME")
    judge_key_env: str | None = opt(
        None,
        "Environment variable that holds the key for judge_url. The key itself is never written anywhere.",
        metavar="VARIABLE",
        shown="OPENAI_API_KEY, if it is set",
    )
    judge_temperature: float | None = opt(
        0.0,
        "Temperature that judge_url is asked for; none leaves it out, for models that take no other than their own.",
        low=0,
        high=100,
    )
    judge_workers: int = opt(8, "Requests to judge_url that wait for their answers side by side.", low=1)


@dataclass(kw_only=True, frozen=True)
class ComparedAnswers(Settings):
    """How the answers are drawn."""

    group: ClassVar[str] = SAMPLING

    samples: int = opt(1, "Answers of each model to each prompt.", low=1)
    max_new_tokens: int = opt(128, "Longest answer, in tokens.", low=1)
    temperature: float = opt(
        1.0,
        "Softmax temperature; 0 takes the likeliest token, always, and leaves no KL to measure.",
        low=0,
        high=100,
    )


@dataclass(kw_only=True, frozen=True)
class CompareConfig(
    IncompleteModels,
    OutputFile,
    DecodedTogether,
    AnswerSeed,
    ComparedAnswers,
    Judges,
    BadRows,
    PromptLength,
    AnswerLength,
    FinalTurn,
    Rendering,
    RowLayout,
    Contest,
    ScoringConfig,
):
    """Settings of `easyrlhf compare`: several models answer the same prompts, and their answers are judged."""

    stage: ClassVar[str] = "compare"
    opening: ClassVar[str] = "reading {self.prompts} …"
    whose: ClassVar[str] = "each model"

    format: str | None = restate(RowLayout, "format", "Row format of the prompts, when recognising it is not wanted.")
    chat_template: str | None = opt(
        None,
        "Template for those models that have none: chatml, hh, llama3 or a Jinja file.",
        metavar="NAME|FILE",
    )
    max_prompt_length: int | None = restate(
        PromptLength,
        "max_prompt_length",
        "Longest prompt in tokens; longer ones are dropped for all models and counted.",
    )
    overwrite: bool = restate(
        OutputFile, "overwrite", "Replace what this command wrote into output_dir, and begin anew."
    )

    @property
    def paths(self) -> tuple[str, ...]:
        """The models, the first one first."""
        return split_paths(self.models)

    def _check(self) -> None:
        super()._check()
        template_kwargs(self)
        paths, judges = self.paths, (self.reward_model, self.reward_funcs, self.judge, self.judge_url)
        twice = next((path for i, path in enumerate(paths) if path in paths[:i]), None)
        rules = (
            ("models", len(paths) < 2, "a comparison needs two models or more"),
            ("models", twice, f"{twice} is there twice; its answers would be the same both times"),
            ("judge_url", self.judge and self.judge_url, f"judge {self.judge} judges already; give one of the two"),
            ("judge_url", self.judge_url and not self.judge_model, "needs judge_model, the name of the model there"),
            ("judge_model", self.judge_model and not self.judge_url, "belongs to judge_url, the server to ask"),
            ("judge_key_env", self.judge_key_env and not self.judge_url, "belongs to judge_url"),
            ("samples", self.samples > 1 and not self.temperature, "temperature 0 draws the same answer every time"),
        )
        for name, broken, rule in rules:
            if broken:
                raise SettingError(name, f"{name} {getattr(self, name)}: {rule}")
        if not any(judges):
            raise SettingError("judge", "judge: nothing judges; give reward_model, reward_funcs, judge or judge_url")
        if self.judge_url is not None and not JUDGE_URL.fullmatch(self.judge_url):
            raise SettingError(  # what was given may hold a key: it is not repeated
                "judge_url",
                "judge_url: must be an address such as https://api.openai.com or http://127.0.0.1:8000/v1, without a "
                "name, a password or a query; a key goes into the environment variable of judge_key_env",
            )
        if self.judge_key_env is not None and not VARIABLE.fullmatch(self.judge_key_env):
            raise SettingError(
                "judge_key_env", "judge_key_env: must be the name of an environment variable, not the key itself"
            )
        check_room(self.max_length, self.max_new_tokens)


@dataclass(kw_only=True, frozen=True)
class PickedRollouts(Settings):
    """Which samples are shown."""

    group: ClassVar[str] = DATA

    run: str = opt(MISSING, "The output folder of ppo_train or grpo_train.", metavar="DIR")
    step: int | None = opt(None, "Only this step.", low=1, shown="the last one; every step where others pick")
    worst: int | None = opt(None, "So many completions with the lowest score.", low=1)
    best: int | None = opt(None, "So many completions with the highest score.", low=1)
    longest: int | None = opt(None, "So many of the longest completions.", low=1)
    furthest: int | None = opt(
        None, "So many completions that have become likeliest beside the reference, by KL.", low=1
    )


@dataclass(kw_only=True, frozen=True)
class RolloutsConfig(PickedRollouts):
    """Settings of `easyrlhf rollouts`: a look at what an online run sampled."""

    stage: ClassVar[str] = "rollouts"
    group: ClassVar[str] = RUN

    json: bool = opt(False, "Print the rows as they are, one JSON object a line.")

    @property
    def order(self) -> tuple[str | None, int]:
        """What rows are picked by, and how many; no word and 0 for all."""
        return next(((name, count) for name in ORDERS if (count := getattr(self, name))), (None, 0))

    def _check(self) -> None:
        super()._check()
        if len(given := [name for name in ORDERS if getattr(self, name)]) > 1:
            raise SettingError(given[1], f"{given[1]} {getattr(self, given[1])}: {given[0]} picks already; give one")


def _check_rows_file(name: str, file: str) -> None:
    if not file.endswith(".jsonl"):
        raise SettingError(name, f"{name} {file}: must end with .jsonl, one row a line")
