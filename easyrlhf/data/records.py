"""What a row of data means, whatever file and format it came from."""

from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

Message = dict[str, Any]  # {"role": "user", "content": "…"}; data/messages.py says what else it may hold
Messages = list[Message]
Columns = dict[str, Any]  # a row's other fields; `tools` and `chat_template_kwargs` are for the chat template too


@dataclass(frozen=True)
class Prompt:
    """A question without an answer; `columns` are the row's other fields, for reward functions.

    answers  names of the columns that hold the answers which the row had
    """

    prompt: Messages | str
    columns: Columns = field(default_factory=dict)
    place: str = ""  # "file:line", or "file:row 3" where a file has no lines
    answers: tuple[str, ...] = ()

    def as_prompt(self) -> "Prompt":
        """The record itself."""
        return self


@dataclass(frozen=True)
class Demonstration:
    """A prompt and the answer to imitate.

    A conversation's prompt is everything before its first assistant turn; the completion is the
    rest and may hold several assistant turns, all of which are learned from.
    """

    prompt: Messages | str
    completion: Messages | str
    columns: Columns = field(default_factory=dict)
    place: str = ""

    def as_prompt(self) -> Prompt:
        """Everything up to the last assistant turn, which is the one to be sampled again."""
        if isinstance(self.completion, str):
            return Prompt(self.prompt, self.columns, self.place)
        turns = self.prompt + self.completion
        last = max(i for i, turn in enumerate(turns) if turn["role"] == "assistant")
        return Prompt(turns[:last], self.columns, self.place)


@dataclass(frozen=True)
class Comparison:
    """Two answers to one prompt, the first of which was preferred.

    margin              how much better it is, where that is known
    weight              1, or 1/pairs when the comparison is one of all pairs of a ranking
    chosen_probability  how surely it is the better one, ½ to 1, where that is known; ½ is a tie
    """

    prompt: Messages | str
    chosen: Messages | str
    rejected: Messages | str
    margin: float | None = None
    columns: Columns = field(default_factory=dict)
    place: str = ""
    weight: float = 1.0
    chosen_probability: float | None = None

    @property
    def is_tie(self) -> bool:
        """Whether neither answer was preferred."""
        return self.chosen_probability == 0.5

    def as_prompt(self) -> Prompt:
        """The prompt that both answers share."""
        return Prompt(self.prompt, self.columns, self.place)

    def as_demonstration(self) -> Demonstration:
        """The preferred answer, as one to imitate."""
        return Demonstration(self.prompt, self.chosen, self.columns, self.place)

    def as_feedbacks(self) -> "list[Feedback]":
        """The preferred answer as liked, the other as not."""
        labelled = ((self.chosen, True), (self.rejected, False))
        return [Feedback(self.prompt, answer, label, self.columns, self.place) for answer, label in labelled]

    def as_ranking(self) -> "Ranking":
        """A ranking of two, with scores 1 and 0."""
        return Ranking(self.prompt, [self.chosen, self.rejected], [1.0, 0.0], self.columns, self.place)


@dataclass(frozen=True)
class Ranking:
    """Several answers to one prompt, each with a score (higher is better; ties are possible)."""

    prompt: Messages | str
    completions: list[Messages | str]
    scores: list[float]
    columns: Columns = field(default_factory=dict)
    place: str = ""

    def as_prompt(self) -> Prompt:
        """The prompt that all answers share."""
        return Prompt(self.prompt, self.columns, self.place)

    def as_comparisons(self) -> list[Comparison]:
        """All pairs of different answers with different scores; together they weigh as much as one comparison."""
        answers = list(zip(self.completions, self.scores, strict=True))
        pairs = [(a, b) for (a, high), (b, low) in permutations(answers, 2) if high > low and a != b]
        weight = 1 / len(pairs)
        return [Comparison(self.prompt, *pair, None, self.columns, self.place, weight) for pair in pairs]


@dataclass(frozen=True)
class Feedback:
    """One answer and whether it was liked."""

    prompt: Messages | str
    completion: Messages | str
    label: bool
    columns: Columns = field(default_factory=dict)
    place: str = ""

    def as_prompt(self) -> Prompt:
        """The prompt that was answered."""
        return Prompt(self.prompt, self.columns, self.place)


Record = Prompt | Demonstration | Comparison | Ranking | Feedback


def answers_of(record: Record) -> list[Messages | str]:
    """The answers of a record, in its order; a prompt has none."""
    match record:
        case Comparison():
            return [record.chosen, record.rejected]
        case Demonstration() | Feedback():
            return [record.completion]
        case Ranking():
            return record.completions
        case Prompt():
            return []
