"""What `easyrlhf data check --model` looks at: rows in the model's tokens, and the chat template itself."""

from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from easyrlhf.config import LookConfig
from easyrlhf.data.huge import Huge
from easyrlhf.data.records import Messages, Record, answers_of
from easyrlhf.data.render import APART, CUT, Renderer
from easyrlhf.data.row_errors import ContentFault
from easyrlhf.data.token_rows import ENCODERS
from easyrlhf.data.tokenizer import find_end_of_turn
from easyrlhf.errors import InputError
from easyrlhf.models.load import positions_of
from easyrlhf.run.renderers import open_renderer
from easyrlhf.run.unfinished import shape_of
from easyrlhf.tools.checking.rows import NOT_RENDERABLE, Found, Split

EXCHANGE = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello."}]


@dataclass(frozen=True)
class TokenStretch:
    """A stretch of a row's tokens: the prompt, an answer, or what stands between two answers.

    name  prompt, chosen, rejected, completion, answer 2…       mask  whether training learns from it
    """

    name: str
    ids: list[int]
    mask: bool


def parts_of(row: dict[str, Any]) -> list[list[TokenStretch]]:
    """The sequences of one token row as load_tokens writes it, each in parts; answers share the first, the prompt."""
    if "input_ids" in row:
        runs = groupby(zip(row["input_ids"], row["loss_mask"], strict=True), key=lambda pair: pair[1])
        parts = [TokenStretch("", [i for i, _ in run], bool(learned)) for learned, run in runs]
        names = ["prompt" if not n and not part.mask else "completion" for n, part in enumerate(parts)]
        return [[TokenStretch(name, part.ids, part.mask) for name, part in zip(names, parts, strict=True)]]
    prompt = TokenStretch("prompt", row["prompt_ids"], False)
    answers = {key.removesuffix("_ids"): ids for key, ids in row.items() if key.endswith("_ids")}
    answers.pop("prompt")
    many = answers.pop("completions", [])
    answers |= {f"answer {number}": ids for number, ids in enumerate(many, 1)}
    return [[prompt, TokenStretch(name, ids, True)] for name, ids in answers.items()] or [[prompt]]


def longest_of(sequences: list[list[TokenStretch]]) -> tuple[int, int, int]:
    """Tokens of the longest prompt, of the longest answer and of the longest sequence."""
    prompts = [len(parts[0].ids) if parts[0].name == "prompt" else 0 for parts in sequences]
    totals = [sum(len(part.ids) for part in parts) for parts in sequences]
    answers = [total - prompt for total, prompt in zip(totals, prompts, strict=True)]
    return max(prompts), max(answers), max(totals)


def load_renderer(config: LookConfig) -> Renderer:
    """The renderer that the stage would have. Raises InputError."""
    if (start := shape_of(config.model)) != config.model:
        raise InputError(
            f"--model {config.model}: has no tokenizer of its own, as its run has not ended or it is a checkpoint; "
            f"give --model {start}"
        )
    return open_renderer(config.model, config, samples=False, chat_template=config.chat_template)


def positions_known(config: LookConfig) -> int | None:
    """Tokens that the model was made for; None where a tokenizer lies alone. Raises no error."""
    with suppress(InputError):
        return positions_of(config.model, trust_remote_code=config.trust_remote_code)
    return None


class TokenCheck:
    """Renders every record as training does; measures it, and checks how its sequences begin and end."""

    def __init__(self, config: LookConfig):
        self.renderer = load_renderer(config)
        self.name = config.model
        self.places = positions_known(config)
        self.huge = Huge.of(self.renderer.tokenizer, config.with_lengths(self.places).max_length)
        tokenizer = self.renderer.tokenizer
        self._bos_id, self._bos = tokenizer.bos_token_id, tokenizer.bos_token
        self._adds_bos = self._bos_id is not None and self._bos_id in self.renderer.prompt_ids("a")
        self._opens_turns = bool(self._bos and tokenizer.chat_template) and self._bos in self._later_turns()

    def measure(self, records: list[Record], place: str, split: Split) -> tuple[int, int, int] | None:
        """Tokens of the longest prompt, answer and row of the records that a row became; finds go to the split.

        None, and the row is dropped from the split, when the chat template cannot render it.
        """
        noted = self.renderer.notes.copy()
        if estimated := next(filter(None, map(self.huge.lengths, records)), None):
            return *estimated, sum(estimated)
        rows = self._token_rows(records, place, split)
        if rows is None:
            return None
        sequences = [sequence for one in rows for sequence in parts_of(one)]
        self._check_ends(sequences, place, split, plain=isinstance(records[0].prompt, str))
        self._check_texts(records[0], place, split)
        for note in (self.renderer.notes - noted).keys() - {CUT}:  # which _check_texts has found
            split.found.add("answers_apart" if note == APART else "field_dropped", place, note.partition(":")[0])
        if split.kind == "comparison" and len(rows) == 1:
            split.compare_lengths(records[0], len(rows[0]["chosen_ids"]), len(rows[0]["rejected_ids"]))
        return longest_of(sequences)

    def _token_rows(self, records: list[Record], place: str, split: Split) -> list[dict[str, Any]] | None:
        """The token rows of the records; None where the row cannot be rendered, of which the split is told."""
        try:
            return [row for record in records for row in ENCODERS[split.kind](record, self.renderer)]
        except ContentFault as fault:
            split.ledger.drop(fault.reason, place, None)
        except InputError as error:
            split.ledger.dropped[NOT_RENDERABLE] += 1
            split.found.add("not_renderable", place, str(error))
        return None

    def _check_ends(self, sequences: list[list[TokenStretch]], place: str, split: Split, *, plain: bool) -> None:
        """One BOS at most that the template does not write, and the end-of-turn token behind all that is learned.

        plain  the row is text: what stands in a conversation's messages never becomes a BOS, but the template may write
               one before every turn
        """
        learned = [part.ids for parts in sequences for part in parts if part.mask]
        if any(ids[-1] != self.renderer.end_of_turn_id for ids in learned):
            split.found.add("missing_eos", place)
        if self._bos_id is None:
            return
        for parts in sequences:
            ids = [i for part in parts for i in part.ids]
            several = plain and not self._opens_turns and ids.count(self._bos_id) > 1
            if several or ids[:2] == [self._bos_id] * 2:
                split.found.add("double_bos", place)
                return

    def _check_texts(self, record: Record, place: str, split: Split) -> None:
        """Plain texts are tokenised as they are: a BOS of their own, or an end before their end, is read as such."""
        if self._adds_bos and isinstance(record.prompt, str) and record.prompt.startswith(self._bos):
            split.found.add("own_bos", place)
        end = self.renderer.end_of_turn
        for answer in answers_of(record) if record.prompt else ():  # a text without a prompt is learned as a whole
            if isinstance(answer, str) and answer.partition(end)[2].strip():
                split.found.add("cut_at_eos", place)
                return

    def check_template(self, split: Split) -> None:
        """Faults of the template itself, once for all rows."""
        tokenizer = self.renderer.tokenizer
        if not tokenizer.chat_template:
            return
        if find_end_of_turn(tokenizer, self.name) is None:
            split.found["template_without_end"] = Found(1, [self.name])
        if self.renderer.date_dependent():
            split.found["template_with_date"] = Found(1, [self.name])
        if self._bos and self._rendered(EXCHANGE).startswith(self._bos * 2):
            split.found["template_with_two_bos"] = Found(1, [self.name])

    def _later_turns(self) -> str:
        """An exchange as the template writes it, without what it begins with."""
        text = self._rendered(EXCHANGE)
        while text.startswith(self._bos):
            text = text.removeprefix(self._bos)
        return text

    def _rendered(self, turns: Messages) -> str:
        return self.renderer.tokenizer.apply_chat_template(turns, tokenize=False)
