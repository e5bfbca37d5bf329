"""easyrlhf generate and play in an environment: whole episodes in the rows and on the screen."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from easyrlhf.cli.main import main
from easyrlhf.cli.stages import sft_train
from easyrlhf.data.batches import pad_right
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.rollout.sampler import Samples
from easyrlhf.tools import generate, output, play

CODE = '''
class Parrot:
    """Asks twice; the reward is how many letters were said."""

    def reset(self, word, seed):
        self.seed, self.said = seed, []
        return f" Number {seed % 10}."

    def respond(self, text):
        self.said.append(text)
        return f"Again, {len(self.said)}." if len(self.said) < 3 else None

    def get_reward(self):
        return sum(map(len, self.said))


class Picky(Parrot):
    def respond(self, text):
        if "red" in text:
            raise KeyError("no red, please")
        return super().respond(text)


class Needs(Parrot):
    def reset(self, word, level):
        pass


class Mute:
    def respond(self, text):
        return None


class Shop:
    """Has a tool."""

    def reset(self):
        return "Buy an egg."

    def price(self, thing: str) -> int:
        """Look up a price.

        Args:
            thing: What is sold.
        """
        return {"egg": 2}[thing]

    def respond(self, text):
        self.right = float("2" in text)

    def get_reward(self):
        return self.right
'''
WORDS = ["red", "blue", "green", "cat", "dog"]
BASIC = ("--max_new_tokens", "500", "--devices", "cpu")


class Says:
    """A sampler whose turns are `say(key)`: texts, and whether each came to its end; cut to the limit as a model's."""

    def __init__(self, folder: str, say):
        self.tokenizer, self.say = load_tokenizer(folder), say
        self.pad_id, self.lm = self.tokenizer.pad_token_id, SimpleNamespace(device=torch.device("cpu"))

    def generate(self, prompts, keys, limits=None) -> Samples:
        said = [self.say(key) for key in keys]
        end = self.tokenizer.eos_token_id
        ids = [self.tokenizer(text)["input_ids"] + [end] * ended for text, ended in said]
        ids = [row[:limit] for row, limit in zip(ids, limits or [500] * len(ids), strict=True)]
        ones = pad_right([[1] * len(row) for row in ids]).float()
        return Samples(pad_right(ids), ones, -ones, torch.tensor([row[-1] == end for row in ids]))


def drawn(key) -> tuple[str, bool]:
    """A word or two that the key decides; one time in five it is cut off."""
    rng = np.random.default_rng(key)
    return " ".join(rng.choice(["a", "cat", "owl", "red"], rng.integers(1, 3))), bool(rng.random() < 0.8)


@pytest.fixture
def call(ending_model, tmp_path, monkeypatch):
    """call(command, *words, code=) -> what `easyrlhf COMMAND` prints, in an environment of CODE."""
    (tmp_path / "acting.py").write_text(CODE)
    rows = [{"prompt": [{"role": "user", "content": f"Say {word}."}], "word": word} for word in WORDS]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(command: str, *words, code: int = 0, say=drawn):
        for tool in (generate, play):
            monkeypatch.setattr(tool, "load_sampler", lambda *_: Says(ending_model, say))
        done = CliRunner().invoke(main, [command, *map(str, words), "--model", ending_model, *BASIC])
        assert done.exit_code == code, done.output
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture
def acting(tmp_path):
    """acting(name) -> the words that name an environment of CODE, and the prompts."""
    return lambda name: (
        "--environment",
        f"{tmp_path / 'acting.py'}:{name}",
        "--prompts",
        str(tmp_path / "prompts.jsonl"),
    )


@pytest.fixture
def rows(call, acting, tmp_path):
    """rows(name, *words, environment=, code=) -> what was printed, and the rows written."""

    def run(name: str, *words, environment: str = "Parrot", code: int = 0):
        out = tmp_path / f"{name}.jsonl"
        done = call("generate", *acting(environment), "--output", out, *words, code=code)
        return done, [json.loads(line) for line in out.read_text().splitlines()] if code == 0 else []

    return run


def test_rows_hold_the_whole_episode_and_its_reward(rows):
    _, found = rows("out", "--samples", 2)
    assert [(row["word"], row["sample"]) for row in found] == [(word, k) for word in WORDS for k in (0, 1)]
    for row in found:
        said = [turn["content"] for turn in row["completion"] if turn["role"] == "assistant"]
        asked = [turn["content"] for turn in row["completion"] if turn["role"] == "user"]
        assert row["turns"] == len(said) and asked == ["Again, 1.", "Again, 2."][: len(asked)]
        assert row["prompt"][0]["content"].startswith(f"Say {row['word']}. Number ")
        assert row["tool_errors"] == 0 and "tools" not in row
        if row["finished"]:
            assert len(said) == 3 and row["reward"] == sum(map(len, said))
    assert any(row["finished"] for row in found) and not all(row["finished"] for row in found)
    # a prompt is one task for all its samples, and another one than the next prompt's
    tasks = [row["prompt"][0]["content"][-2] for row in found]
    assert tasks[::2] == tasks[1::2] and len(set(tasks)) > 1


def test_episodes_do_not_depend_on_the_batch_or_on_how_many_there_are(rows):
    _, found = rows("wide", "--samples", 3)
    for batch_size in (1, 4):
        assert rows(f"narrow{batch_size}", "--samples", 3, "--batch_size", batch_size)[1] == found
    assert rows("few", "--samples", 2)[1] == [row for row in found if row["sample"] < 2]
    assert rows("other", "--samples", 3, "--seed", 1)[1] != found


def test_the_environment_says_which_answers_are_written(rows):
    _, found = rows("all", "--samples", 4)
    groups = [found[start : start + 4] for start in range(0, 20, 4)]
    _, best = rows("best", "--best_of", 4)
    assert best == [max(group, key=lambda row: row["reward"]) for group in groups]
    middle = sorted(row["reward"] for row in found)[10]
    _, good = rows("good", "--samples", 4, "--min_reward", middle)
    assert good == [row for row in found if row["reward"] >= middle]
    _, pairs = rows("pairs", "--samples", 4, "--to", "comparisons")
    for pair, group in zip(pairs, groups, strict=True):
        ends = [pick(group, key=lambda row: row["reward"]) for pick in (max, min)]
        assert [pair["chosen"], pair["rejected"]] == [row["completion"] for row in ends]


def test_what_is_written_is_learned_from(rows, ending_model, tmp_path):
    rows("out", "--only_finished")
    words = [
        "--model",
        ending_model,
        "--train_data",
        str(tmp_path / "out.jsonl"),
        "--output_dir",
        str(tmp_path / "sft"),
    ]
    done = CliRunner().invoke(sft_train, [*words, "--devices", "cpu", "--max_length", "128", "--dry_run"])
    assert done.exit_code == 0, done.output
    assert "0 dropped" in done.output


def test_a_stopped_command_goes_on_to_the_same_bytes(rows, tmp_path, monkeypatch):
    words = ("--samples", 2, "--batch_size", 2)
    rows("whole", *words)
    remember, done = output.Output._remember, []

    def killed(self):
        done.append(self.done)
        if len(done) == 3:
            raise KeyboardInterrupt
        remember(self)

    with monkeypatch.context() as patch:
        patch.setattr(output.Output, "_remember", killed)
        rows("parts", *words, code=3)
    rows("parts", *words, "--environment_workers", 1)
    assert (tmp_path / "parts.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    # another environment in the same file is another question
    (tmp_path / "acting.py").write_text(CODE.replace("Again", "More"))
    refused, _ = rows("parts", *words, code=2)
    assert "was begun with other settings" in refused.stderr and "code of environment" in refused.stderr


def test_a_file_that_was_begun_before_there_were_environments_goes_on(call, tmp_path):
    words = ("--prompts", tmp_path / "prompts.jsonl", "--output", tmp_path / "out.jsonl")
    call("generate", *words)
    record = tmp_path / "out.jsonl.run.json"
    known = json.loads(record.read_text())
    known["settings"] = {k: v for k, v in known["settings"].items() if "turn" not in k and "environment" not in k}
    record.write_text(json.dumps(known))
    assert "is complete already" in call("generate", *words).stdout


def test_an_environment_that_fails_ends_the_command_or_is_left_out(rows, tmp_path):
    failed, _ = rows("stops", environment="Picky", code=1)
    assert "prompts.jsonl:1): respond raised KeyError: 'no red, please' (acting.py:" in failed.stderr
    many, _ = rows("many", "--on_environment_error", "drop", environment="Picky", code=1)
    assert "--on_environment_error drop leaves out at most 10% of them" in many.stderr


REFUSED = {
    "no_column": (("Needs",), "reset needs level, which is no column of the prompts data; it has word"),
    "no_reward": (("Mute", "--best_of", 2), "has no get_reward, and answers are to be chosen by their rewards"),
    "two_judges": (("Parrot", "--reward_model", "."), "the environment scores; leave one of the two out"),
    "no_such": (("Nobody",), "has no function Nobody"),
    "begun": (("Parrot", "--continue_final_message"), "an episode begins with a turn of the policy's own"),
}


@pytest.mark.parametrize("words, said", REFUSED.values(), ids=REFUSED)
def test_what_is_refused_before_anything_is_sampled(call, acting, tmp_path, words, said):
    name, *more = words
    done = call("generate", *acting(name), "--output", tmp_path / "out.jsonl", *more, code=2)
    assert said in done.stderr.replace("\n", " ")


# --- play


PRICE = '<tool_call>\n{"name": "price", "arguments": {"thing": "%s"}}\n</tool_call>'


def test_a_transcript_shows_calls_results_and_the_reward(call, tmp_path):
    turns = ("Let me see.\n" + PRICE % "egg", PRICE % "ham", "It is 2.\nWell.")
    shop = f"{tmp_path / 'acting.py'}:Shop"
    done = call("play", shop, "--episodes", 2, say=lambda key: (turns[key[3] if len(key) > 3 else 0], True))
    episode = """
          user │ Buy an egg.
     assistant │ Let me see.
     assistant │ → price(thing="egg")
    tool price │ 2
     assistant │ → price(thing="ham")
    tool price │ {"error": "KeyError: 'ham'"}
     assistant │ It is 2.
               │ Well.
  reward +1.000 · 3 turns · 2 calls, 1 failed · finished
"""
    assert done.stdout == (
        f"episode 1 of 2{episode}\nepisode 2 of 2{episode}\n2 episodes · mean reward +1.000 · 3.00 turns · 2 finished\n"
    )


def test_play_plays_what_generate_writes(call, rows, acting):
    _, found = rows("out")
    shown = call("play", *acting("Parrot"), "--episodes", 3).stdout
    for row in found[:3]:
        assert f"{row['prompt'][0]['content']}\n" in shown and f"reward {row['reward']:+.3f} · " in shown
    assert "episode 3 of 3" in shown and "not finished: cut off" in shown
    assert call("play", *acting("Parrot"), "--episodes", 3, "--batch_size", 1).stdout == shown
    assert call("play", *acting("Parrot"), "--episodes", 3, "--seed", 1).stdout != shown
    assert "5 of 5" in call("play", *acting("Parrot"), "--episodes", 99).stdout  # there are no more prompts


def test_an_episode_that_failed_is_shown_as_far_as_it_came(call, acting):
    shown = call("play", *acting("Picky"), "--episodes", 4, "--on_environment_error", "drop").stdout
    assert re.search(r"the environment failed: the environment Picky \(.*\): respond raised KeyError", shown)
    assert "no reward · 1 turn" in shown


def test_what_play_refuses(call, acting, tmp_path):
    name = f"{tmp_path / 'acting.py'}:Parrot"
    for words, said in (
        ((), "environment: nothing to act in; give FILE.py:NAME, or tools"),
        ((name,), "Parrot: reset needs word, which is no column of the prompts data; it has none beside the prompt"),
        ((name, "--max_prompt_length", 9), "belongs to prompts; leave it out"),
        ((*acting("Parrot"), "--reward_model", "."), "the environment scores; leave it out"),
    ):
        assert said in call("play", *words, code=2).stderr.replace("\n", " ")
