"""easyrlhf score: the numbers, the rows around them, and going on after a stop."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from easyrlhf.cli import score as command_line
from easyrlhf.models.value_head import ScalarModel
from easyrlhf.tools import output, score


def turn(role: str, content: str) -> list[dict]:
    return [{"role": role, "content": content}]


ASK, GOOD, BAD = turn("user", "Say red."), turn("assistant", "red."), turn("assistant", "blue blue.")


def run(*words: str):
    return CliRunner().invoke(command_line.command, list(map(str, words)), prog_name="easyrlhf score")


def scored(rm, rows: list, tmp_path: Path, *words: str, name: str = "in") -> tuple[list[dict], str]:
    """The rows that come out, and what was printed."""
    write(tmp_path / f"{name}.jsonl", rows)
    out = tmp_path / f"{name}_out.jsonl"
    done = run(rm.folder, "--data", tmp_path / f"{name}.jsonl", "--output", out, "--devices", "cpu", *words)
    assert done.exit_code == 0, done.output
    return read(out), done.stdout


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def by_hand(rm):
    """by_hand(text) -> v_head.summary on transformers' own last hidden state of the text's last token."""
    tokenizer = AutoTokenizer.from_pretrained(rm.folder)
    lm = AutoModelForCausalLM.from_pretrained(rm.folder, dtype=torch.float32)
    head = load_file(Path(rm.folder) / "value_head.safetensors")

    @torch.no_grad()
    def number(text: str) -> float:
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        hidden = lm(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1]
        return (head["v_head.summary.weight"] @ hidden + head["v_head.summary.bias"]).item()

    return number


def chatml(*turns: dict) -> str:
    """The conversation as ChatML writes it, up to the last end-of-turn token."""
    return "\n".join(f"<|im_start|>{t['role']}\n{t['content']}<|im_end|>" for t in turns)


def test_scores_are_the_heads_number_at_the_end_of_the_answer(rm, by_hand, tmp_path):
    more = [*ASK, *GOOD, *turn("user", "Say owl."), *turn("assistant", "owl.")]
    rows = [
        {"prompt": ASK, "completion": GOOD, "id": 1},
        {"prompt": ASK, "completion": turn("assistant", "red"), "finished": False},
    ]
    [one, cut], _ = scored(rm, rows, tmp_path)
    assert one == {**rows[0], "score": pytest.approx(by_hand(chatml(*ASK, *GOOD)), abs=1e-4)}
    assert cut["score"] == pytest.approx(by_hand(chatml(*ASK) + "\n<|im_start|>assistant\nred"), abs=1e-4)

    [pair], said = scored(rm, [{"prompt": ASK, "chosen": GOOD, "rejected": BAD, "margin": 2}], tmp_path, name="pairs")
    good, bad = by_hand(chatml(*ASK, *GOOD)), by_hand(chatml(*ASK, *BAD))
    assert (pair["chosen_score"], pair["rejected_score"]) == pytest.approx((good, bad), abs=1e-4)
    assert (pair["score_margin"], pair["margin"]) == (pytest.approx(good - bad, abs=1e-4), 2)
    assert f"chosen scores higher in {float(good > bad):.1%} of 1 comparisons" in said
    assert f"mean score of 2 answers: {(good + bad) / 2:+.4f}" in said

    tie = {"prompt": ASK, "chosen": GOOD, "rejected": BAD, "chosen_probability": 0.5}
    [same], said = scored(rm, [tie], tmp_path, name="tie")
    assert (same["chosen_score"], same["chosen_probability"]) == (pytest.approx(good, abs=1e-4), 0.5)
    assert "chosen scores higher" not in said  # neither answer was preferred

    ranking = {"prompt": ASK, "completions": [BAD, GOOD, turn("assistant", "r")], "scores": [1, 3, 2]}
    [ranked], _ = scored(rm, [ranking], tmp_path, name="ranking")
    third = by_hand(chatml(*ASK, *turn("assistant", "r")))
    assert ranked == {**ranking, "completion_scores": pytest.approx([bad, good, third], abs=1e-4)}

    [liked], _ = scored(rm, [{"prompt": ASK, "completion": BAD, "label": True}], tmp_path, name="feedback")
    [talk], _ = scored(rm, [{"messages": more}], tmp_path, name="messages")
    [plain], _ = scored(rm, [{"text": "The sky", "n": 1}], tmp_path, name="text")
    assert liked["score"] == pytest.approx(bad, abs=1e-4) and liked["label"] is True
    assert talk == {"messages": more, "score": pytest.approx(by_hand(chatml(*more)), abs=1e-4)}
    assert plain == {"text": "The sky", "n": 1, "score": pytest.approx(by_hand("The sky<|im_end|>"), abs=1e-4)}


def test_without_a_template_prompt_and_answer_are_plain_text_and_that_is_said(rm, by_hand, tmp_path):
    folder = shutil.copytree(rm.folder, tmp_path / "rm", ignore=shutil.ignore_patterns("stage.json"))
    (folder / "chat_template.jinja").unlink()
    done = run(folder, "--prompt", "Say:", "--completion", "red.", "--devices", "cpu")
    assert float(done.stdout) == pytest.approx(by_hand("Say:red.<|im_end|>"), abs=1e-4)
    assert f"note: {folder} has no chat template, so both are read as plain text" in done.stderr


def test_the_score_of_one_text_is_printed(rm, by_hand):
    done = run(rm.folder, "--prompt", "Say red.", "--completion", "red.", "--devices", "cpu")
    assert float(done.stdout) == pytest.approx(by_hand(chatml(*ASK, *GOOD)), abs=1e-4)
    done = run(rm.folder, "--text", "The sky", "--devices", "cpu")
    assert float(done.stdout) == pytest.approx(by_hand("The sky<|im_end|>"), abs=1e-4)


def test_a_sequence_classifier_scores_as_the_reward_model_it_came_from(rm, exported, tmp_path):
    ours, _ = scored(rm, read(Path(rm.one)), tmp_path)
    exported(rm.folder, tmp_path / "classifier")
    out = tmp_path / "theirs.jsonl"
    done = run(tmp_path / "classifier", "--data", rm.one, "--output", out, "--devices", "cpu")
    assert done.exit_code == 0, done.output
    for name in ("chosen_score", "rejected_score"):
        assert [row[name] for row in read(out)] == pytest.approx([row[name] for row in ours], abs=1e-4)


def test_rows_of_several_files_keep_their_order_whatever_the_batches(rm, tmp_path):
    """Lengths differ, so that batches of like lengths would shuffle the rows."""
    rows = [{"prompt": ASK, "completion": turn("assistant", "red " * (7 * i % 23 + 1)), "i": i} for i in range(30)]
    write(tmp_path / "a.jsonl", rows[:11])
    write(tmp_path / "b.jsonl", rows[11:])
    files = f"{tmp_path}/a.jsonl,{tmp_path}/b.jsonl"
    found = []
    for budget in (40, 4000):
        out = tmp_path / f"{budget}.jsonl"
        done = run(rm.folder, "--data", files, "--output", out, "--devices", "cpu", "--micro_batch_tokens", budget)
        assert done.exit_code == 0, done.output
        found.append(read(out))
        assert [{k: v for k, v in row.items() if k != "score"} for row in found[-1]] == rows
    assert [row["score"] for row in found[0]] == pytest.approx([row["score"] for row in found[1]], abs=1e-4)
    assert len({round(row["score"], 4) for row in found[0]}) == 23


def test_a_row_that_is_too_long_has_no_score_and_says_why(rm, by_hand, tmp_path):
    long = turn("assistant", "red " * 40)
    rows = [{"prompt": ASK, "chosen": GOOD, "rejected": long}, {"prompt": ASK, "chosen": GOOD, "rejected": BAD}]
    [first, second], said = scored(rm, rows, tmp_path, "--max_length", "20")
    expected = pytest.approx(by_hand(chatml(*ASK, *GOOD)), abs=1e-4)
    assert [first["chosen_score"], second["chosen_score"]] == [expected, expected]
    assert (first["rejected_score"], first["score_margin"]) == (None, None)
    tokens = len(AutoTokenizer.from_pretrained(rm.folder)(chatml(*ASK, *long))["input_ids"])
    assert first["score_note"] == f"{tokens} tokens, more than 20"
    assert "score_note" not in second and second["rejected_score"] is not None
    assert "warning: 1 answers have no score (null): longer than 20 tokens" in said
    assert "100.0% of 1 comparisons" in said or "0.0% of 1 comparisons" in said


def test_a_stopped_command_goes_on_to_the_same_bytes(rm, tmp_path, monkeypatch):
    monkeypatch.setattr(score, "ROWS_AT_ONCE", 7)
    words = (rm.folder, "--data", rm.one, "--devices", "cpu", "--output")
    assert run(*words, tmp_path / "whole.jsonl").exit_code == 0
    whole = (tmp_path / "whole.jsonl").read_bytes()
    assert whole.count(b"\n") == 40

    remember, calls = output.Output._remember, []

    def killed(self):
        """The third chunk's rows are on disk, but not yet known to be."""
        calls.append(self.done)
        if len(calls) == 4:
            raise KeyboardInterrupt
        remember(self)

    with monkeypatch.context() as patch:
        patch.setattr(output.Output, "_remember", killed)
        assert run(*words, tmp_path / "parts.jsonl").exit_code != 0
    assert calls == [0, 7, 14, 21]
    part = tmp_path / "parts.jsonl.part"
    assert part.read_bytes() == b"".join(whole.splitlines(keepends=True)[:21])
    part.write_bytes(part.read_bytes() + b'{"prompt": [{"ro')  # and half a row behind them
    assert not (tmp_path / "parts.jsonl").exists()

    seen, batches = [], score.scored_rows
    monkeypatch.setattr(score, "scored_rows", lambda *args: seen.append(len(args[1])) or batches(*args))
    done = run(*words, tmp_path / "parts.jsonl")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "parts.jsonl").read_bytes() == whole
    assert seen == [7, 7, 7, 5] and not part.exists()  # rows 14 to 40

    again = run(*words, tmp_path / "parts.jsonl")
    assert again.exit_code == 0 and "is complete already" in again.stdout and seen == [7, 7, 7, 5]
    assert done.stdout.splitlines()[-2:] == again.stdout.splitlines()[-2:]  # means over all rows, not the last sitting


def test_another_column_keeps_the_scores_of_two_models_apart(rm, tmp_path):
    scored(rm, [{"prompt": ASK, "completion": GOOD}], tmp_path)
    words = ("--data", tmp_path / "in_out.jsonl", "--output", tmp_path / "both.jsonl", "--devices", "cpu")
    done = run(rm.folder, *words)
    assert done.exit_code == 2
    assert "in_out.jsonl:1: has a column 'score' already" in done.stderr and "--column" in done.stderr
    assert run(rm.folder, *words, "--column", "second").exit_code == 0
    [row] = read(tmp_path / "both.jsonl")
    assert row["second"] == row["score"]


def test_a_bad_row_is_named_or_left_out_and_kept_beside(rm, tmp_path):
    rows = [{"prompt": ASK, "completion": GOOD, "i": 0}, {"prompt": ASK}, {"prompt": ASK, "completion": BAD, "i": 2}]
    write(tmp_path / "in.jsonl", rows)
    words = (rm.folder, "--data", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl", "--devices", "cpu")
    done = run(*words)
    assert done.exit_code == 2 and "in.jsonl:2:" in done.stderr and "--on_bad_row skip" in done.stderr
    assert not (tmp_path / "out.jsonl").exists()
    done = run(*words, "--on_bad_row", "skip", "--overwrite")
    assert done.exit_code == 0, done.output
    assert "3 rows read = 2 used + 1 dropped" in done.stdout
    assert [row["i"] for row in read(tmp_path / "out.jsonl")] == [0, 2]
    assert [row["place"] for row in read(tmp_path / "out.jsonl.bad_rows.jsonl")] == [f"{tmp_path}/in.jsonl:2"]


@pytest.mark.parametrize(
    "row, words, message",
    [
        ({"prompt": ASK}, (), "in.jsonl:1: a prompt without an answer"),
        ({"text": 3}, (), "in.jsonl:1: key 'text': expected a string"),
        ({"prompt": ASK, "completion": GOOD}, ("--max_length", "4096"), "was made for 1024 tokens at most"),
        ({"prompt": ASK, "completion": GOOD}, ("--format", "alpacca"), "did you mean 'alpaca'?"),
        ({"prompt": ASK, "completion": GOOD}, ("--output", "out.json"), "must end with .jsonl"),
        ({"prompt": ASK, "completion": GOOD}, ("--text", "a"), "text: give either data, or text"),
        ({"prompt": ASK, "completion": GOOD}, ("--prompt", "a"), "give completion too"),
        ({"prompt": ASK, "completion": GOOD}, ("--completion", "a"), "give prompt too"),
    ],
)
def test_what_cannot_be_scored_is_refused(rm, tmp_path, row, words, message, monkeypatch):
    monkeypatch.setattr(score, "load_scorer", lambda config: pytest.fail("the model was loaded first"))
    write(tmp_path / "in.jsonl", [row])
    done = run(rm.folder, "--data", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl", *words)
    assert done.exit_code == 2, done.output
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_nothing_to_score_a_language_model_and_scores_that_are_no_numbers_are_refused(rm, tmp_path, monkeypatch):
    done = run(rm.folder)
    assert done.exit_code == 2 and "give either data, or text, or prompt with completion" in done.stderr
    done = run(rm.root / "init", "--text", "a", "--devices", "cpu")
    assert done.exit_code == 2 and "has no value_head.safetensors" in done.stderr
    done = run(rm.folder, "--text", "red " * 2000, "--devices", "cpu")
    assert done.exit_code == 2 and "tokens, more than 1,024" in done.stderr
    monkeypatch.setattr(ScalarModel, "scores", lambda self, ids, lengths: torch.full((len(ids),), torch.nan))
    monkeypatch.setattr("easyrlhf.tools.scoring.check_probes", lambda *_: None)
    done = run(rm.folder, "--text", "a", "--devices", "cpu")
    assert done.exit_code == 2 and "NaN or infinite" in done.stderr


def test_rows_are_scored_from_standard_input_to_standard_output(rm, tmp_path):
    rows = [{"prompt": ASK, "completion": GOOD}, {"prompt": ASK, "completion": BAD}, {"prompt": ASK, "completion": []}]
    expected, _ = scored(rm, rows[:2], tmp_path)
    words = [rm.folder, "--data", "-", "--output", "-", "--devices", "cpu", "--on_bad_row", "skip"]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    done = CliRunner().invoke(command_line.command, words, prog_name="easyrlhf score", input=lines)
    assert done.exit_code == 0, done.output
    assert [json.loads(line) for line in done.stdout.splitlines()] == expected
    assert "data: 3 rows read = 2 used + 1 dropped" in done.stderr
