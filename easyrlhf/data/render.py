"""The one renderer of all stages: from prompts and completions to token ids and loss masks."""

import re
from collections import Counter
from collections.abc import Iterable

from transformers import PreTrainedTokenizerFast

from easyrlhf.data.records import Messages
from easyrlhf.errors import InputError

# Put around special-token text in a message while it is rendered. Unicode keeps these two code
# points for such inner uses, they are never text; a message that holds them loses them.
OPEN, CLOSE = "\ufdd0", "\ufdd1"
LAST_ONLY = "rows learned from their last answer only (the chat template rewrites earlier turns)"


class Renderer:
    """Renders and tokenises for one tokenizer, as `load_tokenizer` returns it.

    Prompts and completions are tokenised apart, so that a prompt's ids in training are those it
    has when answers are sampled. Special tokens in the text of a message are encoded as text:
    only the template writes control tokens. Plain strings are tokenised as they are.

    ends   ids that end an answer of the model, as ends_of finds them; without it the end-of-turn token alone
    stops  texts that end a sampled answer: decode cuts behind the first of them
    notes  counts of what was done out of the ordinary, by text
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, ends: Iterable[int] = (), stops: tuple[str, ...] = ()):
        self.tokenizer = tokenizer
        self.ends = tuple(dict.fromkeys([tokenizer.eos_token_id, *ends]))
        self.stops = stops
        self.end_of_turn_id: int = tokenizer.eos_token_id
        self.end_of_turn: str = tokenizer.eos_token
        self.pad_id: int = tokenizer.pad_token_id
        self.notes: Counter = Counter()
        added = tokenizer.added_tokens_decoder.values()
        special = {t.content for t in added if t.special} | {self.end_of_turn}
        self._specials = tuple(sorted(special, key=len, reverse=True))
        self._special = re.compile("|".join(map(re.escape, self._specials)))
        self._end = re.compile(f"(?<!{OPEN}){re.escape(self.end_of_turn)}")
        self._newline = self._plain("\n")
        self._adds_space = self._plain("a") != self._plain("\na")[len(self._newline) :]
        self._last_opening: tuple[list, str] = [], ""
        self._text_prefix = self._find_text_prefix()

    def prompt_ids(self, prompt: Messages | str) -> list[int]:
        """Ids of a prompt, ready to be answered: with the generation prompt, one BOS at most."""
        if isinstance(prompt, str):
            ids = self._text_prefix + self._plain(prompt)
        else:
            ids = self._encode(self._opening(prompt))
        bos = self.tokenizer.bos_token_id
        while bos is not None and ids[:2] == [bos, bos]:
            del ids[0]
        return ids

    def completion_ids(self, prompt: Messages | str, completion: Messages | str) -> list[int]:
        """Ids of a completion up to and including its end-of-turn token.

        A completion of several turns is rendered whole, other roles' turns included.
        Raises InputError when the template does not continue the prompt's rendering.
        """
        return self._completion(prompt, completion)[0]

    def conversation(self, prompt: Messages | str, completion: Messages | str) -> tuple[list[int], list[int]]:
        """Ids of prompt and completion [S], and the loss mask [S].

        The mask is 1 on the completion's assistant turns, each with its end-of-turn token. When
        the template rewrites earlier turns once later ones follow, only the last answer counts.
        """
        try:
            ids, mask = self._completion(prompt, completion)
        except InputError:
            if isinstance(completion, str) or len(completion) == 1:
                raise
            prompt, completion = prompt + completion[:-1], completion[-1:]
            ids, mask = self._completion(prompt, completion)
            self.notes[LAST_ONLY] += 1
        prompt_ids = self.prompt_ids(prompt)
        return prompt_ids + ids, [0] * len(prompt_ids) + mask

    def decode(self, ids: list[int]) -> str:
        """The text of ids without special tokens and those that end an answer, up to the first stop text's end."""
        kept = [int(i) for i in ids if i not in self.ends]
        text = self.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text[: min((found + len(stop) for stop in self.stops if (found := text.find(stop)) >= 0), default=None)]

    def ended(self, ids: list[int]) -> list[int]:
        """The ids of a finished answer with an end: one that a stop text finished gets its end-of-turn token."""
        return ids if ids[-1] in self.ends else [*ids, self.end_of_turn_id]

    def date_dependent(self) -> bool:
        """Whether the template writes today's date, so that the same row differs tomorrow."""
        if not self.tokenizer.chat_template:
            return False
        turns = [{"role": "user", "content": "Hello"}]
        own = self.tokenizer.get_chat_template()
        clock = "{{% macro strftime_now(format) %}}{}{{% endmacro %}}"  # stands before the real one
        first, second = (self._render(turns, True, chat_template=clock.format(day) + own) for day in (1, 2))
        return first != second

    def _completion(self, prompt, completion) -> tuple[list[int], list[int]]:
        """Ids after the prompt, and 1 for those that are the assistant's."""
        if isinstance(prompt, str):
            ids = self._ended(self._plain_after(completion))
            return ids, [1] * len(ids)
        ids: list[int] = []
        mask: list[int] = []
        for text, continues, learned in self._segments(prompt, completion):
            new = self._encode(text, continues)
            ids += new
            mask += [int(learned)] * len(new)
        if ids[-1:] != [self.end_of_turn_id]:  # a template without an end-of-turn token
            ids, mask = [*ids, self.end_of_turn_id], [*mask, 1]
        return ids, mask

    def _segments(self, prompt: Messages, completion: Messages) -> list[tuple[str, bool, bool]]:
        """The rendered completion in pieces: assistant text and what stands between.

        Each piece is (text, whether it goes on from plain text, whether it is learned).
        """
        turns = prompt + completion
        full = self._render(turns)
        pieces, position = [], self._continues(full, prompt)
        for i in range(len(prompt), len(turns)):
            if turns[i]["role"] != "assistant":
                continue
            start = self._continues(full, turns[:i]) if i > len(prompt) else position
            upto = full if i + 1 == len(turns) else self._render(turns[: i + 1])
            end = self._end.search(upto, start)
            stop = end.end() if end else len(upto)
            if full[start:stop] != upto[start:stop]:
                raise self._not_a_prefix()
            pieces += [(position, start, False), (start, stop, True)]
            position = stop
        return [
            (full[start:stop], not full.endswith(self._specials, 0, start), learned)
            for start, stop, learned in pieces
            if start < stop
        ]

    def _continues(self, full: str, turns: Messages) -> int:
        """Where an answer to these turns begins in the rendering of more turns."""
        opening = self._opening(turns)
        if not full.startswith(opening):
            raise self._not_a_prefix()
        return len(opening)

    def _opening(self, turns: Messages) -> str:
        """The rendering up to where an answer begins; kept, since both answers of a pair ask."""
        key = [(turn["role"], turn["content"]) for turn in turns]
        if key != self._last_opening[0]:
            self._last_opening = key, self._render(turns, answer_next=True)
        return self._last_opening[1]

    def _not_a_prefix(self) -> InputError:
        return InputError(
            "the chat template does not render an answer as the continuation of its prompt; "
            "give another with --chat_template chatml|hh|llama3|PATH"
        )

    def _render(self, turns: Messages, answer_next: bool = False, **how) -> str:
        """The template's text; special tokens inside messages are marked with OPEN and CLOSE."""
        if not self.tokenizer.chat_template:
            raise InputError(
                "a conversation needs a chat template and this tokenizer has none; "
                "give one with --chat_template chatml|hh|llama3|PATH"
            )
        marked = [{**turn, "content": self._mark(turn["content"])} for turn in turns]
        try:
            return self.tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=answer_next, **how)
        except Exception as error:  # a template is a program: it may fail in any way
            roles = ", ".join(turn["role"] for turn in turns)
            raise InputError(f"the chat template refuses this conversation ({error}); its roles: {roles}") from error

    def _mark(self, content: str) -> str:
        content = content.replace(OPEN, "").replace(CLOSE, "")
        return self._special.sub(rf"{OPEN}\g<0>{CLOSE}", content)

    def _encode(self, text: str, continues: bool = False) -> list[int]:
        """Ids of rendered text; what is between OPEN and CLOSE never becomes a special token.

        continues  the text goes on from plain text, not from the start or a special token
        """
        if OPEN not in text:
            return self._plain_after(text) if continues else self._plain(text)
        ids: list[int] = []
        for i, piece in enumerate(re.split(f"{OPEN}(.*?){CLOSE}", text, flags=re.S)):
            piece = piece.replace(OPEN, "").replace(CLOSE, "")
            if piece:
                encode = self._plain_after if continues or ids else self._plain
                ids += encode(piece, split_special_tokens=bool(i % 2))
        return ids

    def _plain(self, text: str, **how) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False, **how)["input_ids"]

    def _plain_after(self, text: str, **how) -> list[int]:
        """Ids of text that continues other text: without the space some tokenizers put first."""
        if self._adds_space:
            ids = self._plain("\n" + text, **how)
            if ids[: len(self._newline)] == self._newline:
                return ids[len(self._newline) :]
        return self._plain(text, **how)

    def _find_text_prefix(self) -> list[int]:
        """What the tokenizer puts before a text, such as BOS; what it puts after is left out."""
        with_special, plain = self.tokenizer("a")["input_ids"], self._plain("a")
        if with_special == plain:
            return []
        starts = range(len(with_special) - len(plain) + 1)
        return next(with_special[:i] for i in starts if with_special[i:][: len(plain)] == plain)

    def _ended(self, ids: list[int]) -> list[int]:
        """A text completion cut after its first end-of-turn token, or given one."""
        if self.end_of_turn_id in ids:
            return ids[: ids.index(self.end_of_turn_id) + 1]
        return [*ids, self.end_of_turn_id]
