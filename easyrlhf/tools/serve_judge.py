"""easyrlhf serve_judge: a judge's marks as rewards behind HTTP, as d-RLAIF wants them; docs/rlaif.md."""

import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from easyrlhf.config import ServeJudgeConfig
from easyrlhf.data.records import Messages
from easyrlhf.errors import InputError
from easyrlhf.judges.asking import Answering, Ask
from easyrlhf.judges.judges import find_answering
from easyrlhf.judges.marks import MARKS, read_mark, reward_of_mark
from easyrlhf.judges.questions import RUBRIC, mark_question
from easyrlhf.tools.scoring import BadRequest, answer_text_of, check_text, list_of
from easyrlhf.tools.serve_reward import serve_scores

NO_MARK = "the judge gave no mark from 1 to 9"


class MarkingJudge:
    """Answers the requests of the reward server's protocol with a judge's marks; each text is marked once.

    rubric  what makes an answer good
    """

    def __init__(self, judge: Answering, rubric: str = RUBRIC):
        self.judge, self.rubric = judge, rubric
        self._rewards: dict[str, float | None] = {}
        self._lock = threading.Lock()

    def answer(self, body: Any) -> dict[str, list]:
        """Rewards from −1 to 1; null, and a note that says why, for an answer without a mark.

        Raises BadRequest, and RunError where the judge fails.
        """
        prompts, completions = list_of(body, "prompts"), list_of(body, "completions")
        if len(prompts) != len(completions):
            raise BadRequest(f"{len(prompts)} prompts, but {len(completions)} completions: give one for each")
        for place, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            check_text("prompts", place, prompt)
            check_text("completions", place, completion)
        texts = [(prompt, answer_text_of(one)) for prompt, one in zip(prompts, completions, strict=True)]
        keys = [key_of_text(*text) for text in texts]
        with self._lock:
            self.mark({key: text for key, text in zip(keys, texts, strict=True) if key not in self._rewards})
            rewards = [self._rewards[key] for key in keys]
        notes = {"notes": [NO_MARK if one is None else None for one in rewards]} if None in rewards else {}
        return {"scores": rewards, **notes}

    def mark(self, texts: dict[str, tuple[Messages | str, str]]) -> None:
        """Have texts marked, so many side by side as the judge takes; what is marked is kept though another fails."""
        keys, size = list(texts), self.judge.batch
        parts = [keys[start : start + size] for start in range(0, len(keys), size)]

        def mark_part(part: list[str]) -> None:
            asks = [Ask("mark", mark_question(*texts[key], self.rubric), MARKS) for key in part]
            for key, reply in zip(part, self.judge.replies(asks), strict=True):
                mark = read_mark(reply)
                self._rewards[key] = None if mark is None else reward_of_mark(mark)

        with ThreadPoolExecutor(self.judge.workers) as pool:
            for done in [pool.submit(mark_part, part) for part in parts]:
                done.result()


def key_of_text(prompt: Messages | str, answer: str) -> str:
    """What a prompt and an answer are known by."""
    return hashlib.sha256(json.dumps([prompt, answer]).encode()).hexdigest()


def serve_judge(config: ServeJudgeConfig) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises InputError for a judge, rubric or address that cannot be used."""
    rubric = read_rubric(config.rubric) if config.rubric else RUBRIC
    judge = find_answering(config)
    serve_scores(config, f"judge {judge.name}", MarkingJudge(judge, rubric))


def read_rubric(path: str) -> str:
    """The text of a rubric. Raises InputError for one that cannot be read or says nothing."""
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"--rubric {path}: cannot be read ({reason}); give a text file") from error
    if not text:
        raise InputError(f"--rubric {path}: is empty; it says what makes an answer good")
    return text
