"""easyrlhf data preview: what is shown is what training gets, and nothing that is shown is ambiguous."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

from easyrlhf.cli import data_preview
from easyrlhf.cli.main import main
from easyrlhf.config import PreviewConfig
from easyrlhf.data.kinds import STAGE_KINDS
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.data.tokens import DataSettings, load_tokens
from easyrlhf.errors import InputError
from easyrlhf.tools.checking import preview
from easyrlhf.tools.checking.preview import on_one_line, preview_rows, token_pieces
from easyrlhf.tools.checking.token_check import parts_of

SKY = [{"role": "user", "content": "The sky?"}]
BLUE = [{"role": "assistant", "content": "It is blue."}]
RED = [{"role": "assistant", "content": "Red\nnot blue."}]
PAIR = {"prompt": SKY, "chosen": BLUE, "rejected": RED}
TALK = {"messages": [*SKY, *BLUE, *SKY, *RED]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer) -> str:
    """The ChatML tokenizer."""
    path = tmp_path_factory.mktemp("model")
    tokenizer.save_pretrained(path)
    return str(path)


def write(path: Path, rows: list) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def shown(tmp_path, folder, capsys):
    """shown(rows of the file, stage, **settings) -> the lines that are printed."""

    def show(data: list, stage: str, **settings) -> list[str]:
        data = write(tmp_path / "x.jsonl", data)
        preview_rows(PreviewConfig(train_data=data, stage=stage, model=folder, **settings))
        return capsys.readouterr().out.replace(data, "x.jsonl").splitlines()

    return show


def test_a_comparison_in_plain_marks(shown, tokenizer):
    lines = shown([PAIR], "rm")
    assert lines[:4] == [
        "[prompt] read, not learned from",
        "[scored] the reward is read at the last of these tokens",
        "⟦…⟧ a special token, │ between two tokens, ⏎ a new line",
        "",
    ]
    assert lines[4] == "x.jsonl:1 · row 1 · comparison"
    assert [re.sub(r"\d+", "N", line) for line in lines[5::2]] == [
        "  [prompt] N tokens",
        "  [chosen, scored] N tokens",
        "  [rejected, scored] N tokens",
    ]
    for heading, line, text in zip(
        lines[5::2],
        lines[6::2],
        [
            "⟦<|im_start|>⟧user⏎The sky?⟦<|im_end|>⟧⏎⟦<|im_start|>⟧assistant⏎",
            "It is blue.⟦<|im_end|>⟧",
            "Red⏎not blue.⟦<|im_end|>⟧",
        ],
        strict=True,
    ):
        assert line[4:].replace("│", "") == text
        assert heading.endswith(f" {len(line[4:].split('│'))} tokens")
    plain = [tokenizer.decode([i]) for i in tokenizer("It is blue.")["input_ids"]]
    assert lines[8][4:].split("│") == [*plain, "⟦<|im_end|>⟧"]


def test_loss_and_context_of_a_conversation(shown):
    lines = shown([TALK], "sft")
    assert [line.split("]")[0] for line in lines if line.startswith("  [")] == [
        "  [prompt",
        "  [loss",
        "  [context",
        "  [loss",
    ]
    texts = [line[4:].replace("│", "") for line in lines if line.startswith("    ")]
    assert texts[1:] == [
        "It is blue.⟦<|im_end|>⟧",
        "⏎⟦<|im_start|>⟧user⏎The sky?⟦<|im_end|>⟧⏎⟦<|im_start|>⟧assistant⏎",
        "Red⏎not blue.⟦<|im_end|>⟧",
    ]


@pytest.mark.parametrize(
    "stage, row, headings, said",
    [
        ("dpo", {**PAIR, "margin": 2}, ["prompt", "chosen, loss", "rejected, loss"], " · margin 2"),
        (
            "dpo",
            {**PAIR, "chosen_probability": 0.75},
            ["prompt", "chosen, loss", "rejected, loss"],
            " · chosen_probability 0.75",
        ),
        (
            "rm",
            {**PAIR, "chosen_probability": 0.5},
            ["prompt", "chosen, scored", "rejected, scored"],
            " · chosen_probability 0.5 (a tie)",
        ),
        ("kto", {"prompt": SKY, "completion": BLUE, "label": False}, ["prompt", "loss"], " · disliked"),
        ("ppo", PAIR, ["prompt"], ""),
        (
            "rrhf",
            {"prompt": SKY, "completions": [BLUE, RED], "scores": [1, 2.5]},
            ["prompt", "answer 1, loss", "answer 2, loss"],
            " · scores 1, 2.5",
        ),
    ],
)
def test_parts_and_remarks_of_every_kind(shown, stage, row, headings, said):
    lines = shown([row], stage)
    assert re.findall(r"^  \[(.*)\]", "\n".join(lines), flags=re.MULTILINE) == headings
    head = next(line for line in lines if line.startswith("x.jsonl:1"))
    assert head == f"x.jsonl:1 · row 1 · {STAGE_KINDS[stage]}{said}"


@pytest.mark.parametrize("stage", ["sft", "kto", "rrhf"])
def test_a_tie_is_left_out_by_stages_that_want_a_winner(shown, stage):
    lines = shown([{**PAIR, "chosen_probability": 0.5}], stage)
    assert lines[-1] == "x.jsonl:1 · row 1 · left out: labelled a tie"


def test_keys_that_are_not_used_and_fields_that_the_template_drops_are_said(shown, tmp_path):
    template = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    opening = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    (tmp_path / "plain.jinja").write_text(template + opening)
    thought = [{"role": "assistant", "content": "Blue.", "reasoning_content": "Air scatters it.", "id": 3}]
    lines = shown([{"messages": SKY + thought, "source": "x"}], "sft", chat_template=str(tmp_path / "plain.jinja"))
    assert "x.jsonl: keys not used: source (1 row), messages[].id (1 row)" in lines
    assert lines[-1] == "1 rows read the same without their reasoning_content: the chat template drops it"


def test_all_pairs_of_a_ranking(shown):
    row = {"prompt": SKY, "completions": [BLUE, RED, BLUE + SKY + RED], "scores": [1, 3, 2]}
    heads = [line for line in shown([row], "rm") if line.startswith("x.jsonl:1")]
    assert heads == [f"x.jsonl:1 · row 1 · comparison {n} of 3 · weight 0.333" for n in (1, 2, 3)]


@pytest.mark.parametrize("stage, row", [("rm", PAIR), ("sft", TALK), ("ppo", PAIR), ("kto", PAIR), ("rrhf", PAIR)])
def test_the_parts_are_the_rows_of_training(tmp_path, folder, stage, row):
    renderer = Renderer(load_tokenizer(folder))
    how = {"max_length": 999, "max_prompt_length": 99, "cache_dir": tmp_path}
    trained = load_tokens(write(tmp_path / "x.jsonl", [row]), STAGE_KINDS[stage], renderer, DataSettings(**how)).rows
    for one in trained:
        sequences = [[(i, part.mask) for part in parts for i in part.ids] for parts in parts_of(one)]
        if stage == "sft":
            assert sequences == [list(zip(one["input_ids"], map(bool, one["loss_mask"]), strict=True))]
            continue
        prompt = [(i, False) for i in one["prompt_ids"]]
        names = [name for name in ("chosen_ids", "rejected_ids", "completion_ids") if name in one]
        answers = [one[name] for name in names] + one.get("completions_ids", [])
        assert sequences == ([prompt + [(i, True) for i in ids] for ids in answers] or [prompt])


def test_tokens_of_one_character_are_one_piece_and_the_marks_are_escaped(shown, tokenizer):
    text = "é🦊 │⟦⟧⏎ a\\b\t\a<|im_end|>"
    assert len(tokenizer("🦊")["input_ids"]) == 4
    lines = shown([{"messages": [{"role": "user", "content": text}, *BLUE]}], "sft")
    told = next(line for line in lines if "⟦<|im_start|>⟧│" in line)[4:]
    user = told.partition("⟦<|im_end|>⟧")[0]
    assert user.replace("│", "").endswith("⏎é🦊 \\u2502\\u27e6\\u27e7\\u23ce a\\u005cb\\u0009\\u0007<|im_end|>")
    assert "é" in user.split("│") and "🦊" in user.split("│")


@pytest.mark.parametrize("text", ["Hello world", "naïve 🦊🦊 ß", "a\ufffdb", "\ufffd" * 9, "línea\n\n  two", ""])
def test_pieces_together_are_the_text(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert "".join(piece.text for piece in token_pieces(tokenizer, ids)) == text
    assert not any(piece.special for piece in token_pieces(tokenizer, ids))


def test_pieces_of_a_tokenizer_that_drops_the_first_space(tmp_path):
    """Sentence-piece tokens decoded alone lose their space; behind others they keep it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    words = "the sky is blue and the grass is green"
    core.train_from_iterator([words] * 9, trainers.BpeTrainer(special_tokens=["</s>"], show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")
    ids = [*tokenizer("the sky")["input_ids"], tokenizer.eos_token_id]
    found = token_pieces(tokenizer, ids)
    assert [(piece.text, piece.special) for piece in found] == [("the", False), (" sky", False), ("</s>", True)]


def test_dropped_refused_and_long_rows_are_shown_in_their_place(shown):
    rows = [PAIR, "{", {**PAIR, "rejected": BLUE}, PAIR]
    lines = [line for line in shown(rows, "rm", rows=4, max_length=20, max_prompt_length=10) if " · row " in line]
    assert [line.split(" · ")[:2] for line in lines] == [[f"x.jsonl:{n}", f"row {n}"] for n in (1, 2, 3, 4)]
    assert lines[1].startswith("x.jsonl:2 · row 2 · dropped: not JSON")
    assert lines[2] == "x.jsonl:3 · row 3 · dropped: chosen equals rejected"
    over = "longer than --max_length 20 and --max_prompt_length 10: dropped, or cut by --overlength truncate"
    assert lines[0].endswith(over) and lines[3].endswith(over)


@pytest.mark.parametrize("row, rows, expected", [(1, 2, [1, 2]), (3, 1, [3]), (3, 9, [3, 4, 5]), (5, 3, [5])], ids=str)
def test_which_rows_are_shown(shown, row, rows, expected):
    lines = shown([PAIR, PAIR, "no JSON", PAIR, PAIR], "rm", row=row, rows=rows)
    assert [int(line.split("row ")[1].split()[0]) for line in lines if " · row " in line] == expected


def test_rows_are_counted_over_all_files(tmp_path, folder, capsys):
    files = [write(tmp_path / name, [PAIR] * 2) for name in ("a.jsonl", "b.jsonl")]
    preview_rows(PreviewConfig(train_data=",".join(files), stage="rm", model=folder, row=3, rows=1))
    assert f"{files[1]}:1 · row 3 · comparison" in capsys.readouterr().out


def test_a_row_that_is_not_there_is_bad_input(tmp_path, folder):
    data = write(tmp_path / "x.jsonl", [PAIR] * 2)
    with pytest.raises(InputError, match=r"--row 3: .* holds 2 rows"):
        preview_rows(PreviewConfig(train_data=data, stage="rm", model=folder, row=3))


def test_a_row_that_the_template_refuses_says_so(tmp_path, folder, capsys):
    template = tmp_path / "t.jinja"
    template.write_text("{% for m in messages %}{{ raise_exception('no') if m['role'] == 'system' }}{{ m['content'] }}")
    template.write_text(template.read_text() + "<|im_end|>{% endfor %}")
    data = write(tmp_path / "x.jsonl", [{**PAIR, "prompt": [{"role": "system", "content": "x"}, *SKY]}])
    preview_rows(PreviewConfig(train_data=data, stage="rm", model=folder, chat_template=str(template)))
    assert "row 1 · refused: the chat template refuses this conversation (no)" in capsys.readouterr().out


def test_colours_say_the_same(tmp_path, folder, capsys, monkeypatch):
    """In a terminal: special tokens purple, learned ones green, shades in turn, the same texts and counts."""
    data = write(tmp_path / "x.jsonl", [TALK])
    config = PreviewConfig(train_data=data, stage="sft", model=folder)
    preview_rows(config)
    plain = capsys.readouterr().out
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(preview.sys.stdout, "isatty", lambda: True, raising=False)
    preview_rows(config)
    coloured = capsys.readouterr().out
    bare = re.sub(r"\x1b\[[\d;]*m", "", coloured)
    texts = [line for line in plain.splitlines() if line.startswith("    ")]
    assert [line for line in bare.splitlines() if line.startswith("    ")] == [line.replace("│", "") for line in texts]
    green = "".join(re.findall(r"\x1b\[32;48;5;\d+m([^\x1b]*)", coloured))
    assert green == "It is blue.Red⏎not blue."
    purple = re.findall(r"\x1b\[1;35;48;5;\d+m([^\x1b]*)", coloured)
    assert purple == re.findall("⟦<[^⟧]*⟧", plain)
    shades = re.findall(r";48;5;(\d+)m", coloured.splitlines()[-1])
    assert len(set(shades)) == 2 and all(a != b for a, b in pairwise(shades))


def test_escaping():
    assert on_one_line("a\nb") == "a⏎b"
    assert on_one_line("│\\\x07 é🦊") == "\\u2502\\u005c\\u0007 é🦊"


def test_the_command(tmp_path, folder, capsys):
    data = write(tmp_path / "x.jsonl", [PAIR])
    with pytest.raises(SystemExit) as stop:
        main(["data", "preview", data, "--stage", "rm", "--model", folder])
    assert stop.value.code == 0
    assert "row 1 · comparison" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["data", "preview", data, "--stage", "rm"])
    assert stop.value.code == 2
    assert "--model is required" in capsys.readouterr().err


def test_help_teaches(monkeypatch):
    done = CliRunner().invoke(data_preview.command, ["--help"], prog_name="easyrlhf data preview")
    assert done.exit_code == 0 and max(map(len, done.stdout.splitlines())) <= 100
    seen = []
    monkeypatch.setattr("easyrlhf.tools.checking.preview.preview_rows", seen.append)
    for example in data_preview.PAGE.examples:
        assert example in done.stdout
        words = example.split()[3:]
        done_too = CliRunner().invoke(data_preview.command, words, prog_name="easyrlhf data preview")
        assert done_too.exit_code == 0, done_too.output
    assert len(seen) == len(data_preview.PAGE.examples)
