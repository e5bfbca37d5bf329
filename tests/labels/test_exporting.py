"""Labels as rows to train on: every merge by hand, every form, and the way through labels.jsonl and back."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from easyrlhf.cli import label_export
from easyrlhf.config import LabelExportConfig, LabelForgetConfig, LabelImportConfig
from easyrlhf.data.ledger import Ledger
from easyrlhf.data.reader import RowSettings
from easyrlhf.errors import InputError
from easyrlhf.labels.conversations import add_turn, send_message, start_conversation
from easyrlhf.labels.rows import NewItem, NewLabel
from easyrlhf.labels.store import Store
from easyrlhf.tools.labelling.exporting import export_labels
from easyrlhf.tools.labelling.forget import forget_name
from easyrlhf.tools.labelling.importing import import_rows

A, B = "the first", "the second"
PEOPLE = ("ann", "bob", "cid")


@pytest.fixture
def folder(tmp_path) -> Path:
    """One pair, a ranking, two single answers to one prompt, a check, and four annotators but no label."""
    with Store(tmp_path / "labels", create=True) as store:
        sources = [{"model": "m", "reward": 1.0}, {"model": "m", "reward": 2.0}]
        store.add_items([NewItem("pair", "q", [A, B], sources)])
        store.add_items([NewItem("ranking", "r", ["x", "y", "z"])])
        store.add_items([NewItem("answer", "s", [text]) for text in ("good", "poor")])
        store.add_items([NewItem("pair", "check", ["2", "3"], truth=0)])
        for name in PEOPLE:
            store.annotator(name)
        store.annotator("organiser", "referee")
    return tmp_path / "labels"


def label(folder: Path, who: int, item: int, value, scale: str, **more) -> None:
    shown = {1: [0, 1], 2: [0, 1, 2], 5: [0, 1]}.get(item, [0])
    with Store(folder) as store:
        known = len(store.labels(undone=True))
        store.add_label(NewLabel(f"{known}", item, who, value, scale, **{"shown": shown} | more))


def export(folder: Path, **settings) -> list[dict]:
    output = folder.parent / "out.jsonl"
    export_labels(LabelExportConfig(labels=folder, output=output, **settings))
    return [json.loads(line) for line in output.read_text().splitlines()]


def read_again(folder: Path, kind: str) -> list:
    """The rows as a stage reads them, none dropped."""
    reading, ledger = RowSettings(), Ledger("", None)
    [source] = reading.open(str(folder.parent / "out.jsonl"))
    found = [record for record, _ in reading.records(source, kind, ledger)]
    assert not ledger.dropped
    return found


def test_share_counts_wins_and_half_of_the_ties(folder):
    for who, value in ((1, -2), (2, -1), (3, 0)):
        label(folder, who, 1, value, "7", flags=("harmful",) if who == 1 else ())
    [row] = export(folder)
    assert row == {
        "prompt": "q",
        "chosen": B,
        "rejected": A,
        "chosen_probability": 2.5 / 3,
        "labels": 3,
        "annotators": [1, 2, 3],
        "agreement": pytest.approx(2.5 / 3),
        "flags": {"harmful": 1},
        "item": 1,
        "sources": [{"model": "m", "reward": 2.0}, {"model": "m", "reward": 1.0}],
    }
    assert export(folder, ties="drop")[0]["chosen_probability"] == 1
    assert export(folder, merge="majority")[0]["chosen_probability"] == 1


@pytest.mark.parametrize(
    ("values", "settings", "expected"),
    [
        ((1, -1), {}, 0.5),
        ((1, -1, -1), {"annotators": "ann,bob"}, 0.5),
        ((1, -1, -1), {"annotators": "2,cid"}, 1.0),
        ((1, -1, -1), {"exclude": "cid"}, 0.5),
        ((1, -1, -1), {"merge": "majority"}, 1.0),
        ((1, 1, 1), {"min_labels": 3}, 1.0),
    ],
)
def test_whose_labels_count(folder, values, settings, expected):
    for who, value in enumerate(values, 1):
        label(folder, who, 1, value, "3")
    assert export(folder, **settings)[0]["chosen_probability"] == expected


@pytest.mark.parametrize("merge", ["share", "majority", "reliability"])
def test_a_referees_decision_wins_every_merge(folder, merge):
    for who, value in ((1, 1), (2, 1), (3, 1), (4, -1)):
        label(folder, who, 1, value, "3")
    [row] = export(folder, merge=merge, min_labels=9)
    assert (row["chosen"], row["chosen_probability"], row["labels"]) == (B, 1.0, 4)
    [row] = export(folder, write_as="margin")
    assert (row["chosen"], row["margin"]) == (B, 1.0)


def test_a_judges_probability_is_kept(folder):
    label(folder, 1, 1, 0.3, "probability")
    assert export(folder)[0]["chosen_probability"] == pytest.approx(0.7)


def test_margin_is_the_mean_signed_strength(folder):
    for who, value in ((1, -3), (2, -2), (3, 1)):
        label(folder, who, 1, value, "7")
    [row] = export(folder, write_as="margin")
    assert row["chosen"] == B and row["margin"] == pytest.approx((1 + 2 / 3 - 1 / 3) / 3)
    assert "chosen_probability" not in row
    assert read_again(folder, "comparison")[0].margin == row["margin"]


def test_a_ranking_is_a_ranking_and_all_of_its_pairs(folder):
    label(folder, 1, 2, [[2], [0, 1]], "order")
    label(folder, 2, 2, [[2], [1], [0]], "order")
    rows = export(folder)
    assert [(row["chosen"], row["rejected"], row["chosen_probability"]) for row in rows] == [
        ("y", "x", 0.75),
        ("z", "x", 1.0),
        ("z", "y", 1.0),
    ]
    [row] = export(folder, write_as="rankings")
    assert (row["completions"], row["scores"]) == (["x", "y", "z"], [0.125, 0.375, 1.0])
    assert read_again(folder, "ranking")[0].scores == row["scores"]


def test_single_answers_become_feedback_and_a_ranking_of_siblings(folder):
    label(folder, 1, 3, 6, "likert")
    label(folder, 2, 3, 7, "likert")
    label(folder, 1, 4, False, "liked")
    assert [(row["completion"], row["label"]) for row in export(folder, write_as="feedback")] == [
        ("good", True),
        ("poor", False),
    ]
    assert [record.label for record in read_again(folder, "feedback")] == [True, False]
    [row] = export(folder, write_as="rankings")
    assert dict(zip(row["completions"], row["scores"], strict=True)) == {"good": pytest.approx(5.5 / 6), "poor": 0.0}


def test_a_better_answer_is_a_demonstration_and_beats_the_best_that_was_shown(folder):
    label(folder, 1, 1, -1, "3", edit="better")
    label(folder, 1, 2, [[1, 2], [0]], "order", edit="more", shown=[2, 1, 0])
    label(folder, 1, 3, True, "liked", edit="written")
    rows = [row for row in export(folder) if row["chosen"] in ("better", "more", "written")]
    # The ranking is of the answers as they were shown, z, y, x: its best are y and x, of which y was seen first.
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("better", B), ("more", "y"), ("written", "good")]
    shown = export(folder, write_as="demonstrations")
    assert [(row["prompt"], row["completion"]) for row in shown] == [("q", "better"), ("r", "more"), ("s", "written")]
    assert len(read_again(folder, "demonstration")) == 3


def test_flagged_items_and_those_with_few_labels_are_left_out_and_counted(folder, capsys):
    label(folder, 1, 1, 1, "3")
    label(folder, 1, 2, [[0], [1], [2]], "order", flags=("wrong",))
    label(folder, 2, 2, [[0], [1], [2]], "order")
    assert [row["item"] for row in export(folder, drop_flag="wrong,other")] == [1]
    assert "left out: flagged items 1, items without a label 2" in capsys.readouterr().out
    assert {row["item"] for row in export(folder, min_labels=2)} == {2}
    with pytest.raises(
        InputError,
        match="no label gives a row; left out: items with fewer labels than --min_labels 1, flagged",
    ):
        export(folder, drop_flag="wrong", min_labels=2)


def test_a_pair_that_was_shown_again_is_no_second_label(folder):
    label(folder, 1, 1, 1, "3")
    with Store(folder) as store, store.write() as connection:
        connection.execute("INSERT INTO lease VALUES (1, 1, 1, 0)")  # given to ann again
    label(folder, 1, 1, -1, "3")
    [row] = export(folder)
    assert (row["labels"], row["chosen_probability"], row["chosen"]) == (1, 1.0, A)


def test_what_the_chat_template_is_told_comes_out_again(tmp_path):
    tools = [{"type": "function", "function": {"name": "clock"}}]
    asked = [{"role": "user", "content": "What time is it?"}]
    answers = {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": asked, **answers} | more) + "\n" for more in ({"tools": tools}, {})))
    import_rows(LabelImportConfig(data=file, labels=tmp_path / "labels"))
    rows = export(tmp_path / "labels")
    assert [row.get("tools") for row in rows] == [tools, None]
    assert [row["chosen"] for row in rows] == [answers["chosen"]] * 2
    assert [record.columns.get("tools") for record in read_again(tmp_path / "labels", "comparison")] == [tools, None]


def test_checks_are_no_training_rows(folder):
    label(folder, 1, 1, 1, "3")
    label(folder, 1, 5, 1, "3")
    assert [row["item"] for row in export(folder)] == [1]


def test_an_annotator_who_is_not_there_is_named(folder):
    label(folder, 1, 1, 1, "3")
    with pytest.raises(InputError, match=r"--exclude eve: .*there are: ann, bob, cid, organiser"):
        export(folder, exclude="eve")


def test_a_file_of_somebody_else_is_not_replaced(folder):
    label(folder, 1, 1, 1, "3")
    (folder.parent / "out.jsonl").write_text("mine\n")
    with pytest.raises(InputError, match="this command did not write it"):
        export(folder)
    assert export(folder, overwrite=True) == export(folder)


def test_a_conversation_is_a_comparison_a_turn(folder):
    with Store(folder) as store:
        number = start_conversation(store, 1)
        for text, value in (("Hello", 1), ("More", -1)):
            send_message(store, number, text)
            answers = [[{"role": "assistant", "content": f"{text} {side}"}] for side in "ab"]
            given = add_turn(store, number, answers, [{}, {}])
            store.add_label(NewLabel(text, given.item.id, 1, value, "3", [0, 1]))
    rows = export(folder)
    assert [row["chosen"][0]["content"] for row in rows] == ["Hello a", "More b"]
    assert [turn["content"] for turn in rows[1]["prompt"]] == ["Hello", "Hello a", "More"]
    assert len(read_again(folder, "comparison")) == 2


def test_a_wrong_form_is_blamed_on_the_flag_as_it_is_typed():
    done = CliRunner().invoke(label_export.command, ["--as", "rankinks"], prog_name="easyrlhf label export")
    assert done.exit_code == 2
    assert "error: --as rankinks: must be one of probability, margin, rankings" in done.stderr
    assert "--as NAME" in CliRunner().invoke(label_export.command, ["--help"]).output


@pytest.mark.parametrize(
    "write_as, merge",
    [
        *(("probability", merge) for merge in ("share", "majority", "reliability")),
        *((write_as, "share") for write_as in ("margin", "rankings", "feedback", "demonstrations")),
    ],
)
def test_who_pressed_first_is_not_seen_in_the_rows(folder, write_as, merge):
    """.1, .2 and .7 add up to 1 in one order, and to a little less in the other."""
    said = [
        *((who, 1, value, "probability", {"edit": f"by {who}"}) for who, value in ((1, 0.1), (2, 0.2), (3, 0.7))),
        *(
            (who, 2, value, "order", {})
            for who, value in ((1, [[0], [1], [2]]), (2, [[1], [0], [2]]), (3, [[2], [0, 1]]))
        ),
        *((who, 3, value, "likert", {}) for who, value in ((1, 2), (2, 7), (3, 6))),
        *((who, 4, value, "likert", {}) for who, value in ((1, 2), (2, 1), (3, 6))),
    ]
    written = []
    for order in (said, said[::-1]):
        fresh = folder.parent / f"labels {len(written)}"
        shutil.copytree(folder, fresh)
        for who, item, value, scale, more in order:
            label(fresh, who, item, value, scale, **more)
        assert export(fresh, write_as=write_as, merge=merge)
        written.append((folder.parent / "out.jsonl").read_bytes())
    assert written[0] == written[1]


def filled(folder: Path) -> None:
    """Labels of every kind, one taken back, a skip, a note, a reply, and a name that is forgotten."""
    label(folder, 1, 1, 3, "7", shown=[1, 0], note="a secret", seconds=2.5, edit="better")
    label(folder, 2, 1, -1, "7", flags=("wrong",))
    label(folder, 2, 2, [[2], [0, 1]], "order")
    label(folder, 1, 4, 2, "likert")
    label(folder, 1, 5, -1, "2")
    with Store(folder) as store:
        store.undo(2)
        store.skip(3, 1, "both unreadable")
        store.add_reply(store.annotator("a judge", "judge").id, 1, "0,1", {"p": 0.25, "tokens": 12})
        store.keep_setting("repeat_share", 0.25)
        number = start_conversation(store, 1)
        send_message(store, number, "it waits for its answers")
    forget_name(LabelForgetConfig(labels=folder, name="bob"))


@pytest.mark.parametrize("notes", [False, True])
def test_export_import_export_is_the_same(folder, notes):
    filled(folder)
    rows = export(folder, notes=notes)
    written = (folder / "labels.jsonl").read_bytes()
    assert (b"a secret" in written) is notes
    assert not any(f'"{name}"'.encode() in written for name in PEOPLE)
    assert b"a judge" in written
    other = folder.parent / "other"
    for _ in range(2):  # the second time it is there already
        import_rows(LabelImportConfig(data=folder / "labels.jsonl", labels=other))
    assert export(other, notes=notes) == rows
    assert (other / "labels.jsonl").read_bytes() == written


def test_labels_are_restored_into_an_empty_folder_alone(folder):
    filled(folder)
    export(folder)
    with Store(folder.parent / "other", create=True) as store:
        store.annotator("eve")
    with pytest.raises(InputError, match="restores into a folder without any; give a new one"):
        import_rows(LabelImportConfig(data=folder / "labels.jsonl", labels=folder.parent / "other"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda lines: [*lines[:-1], lines[-1][:20]], r"labels.jsonl:\d+: is not JSON .* cut off"),
        (lambda lines: [lines[0].replace("1", "2", 1), *lines[1:]], r"labels.jsonl:1: labels of form 2"),
        (lambda lines: [line.replace('"scale": "order"', '"scale": "3"') for line in lines], r"jsonl:\d+: .*scale"),
        (lambda lines: [line.replace('"table": "reply"', '"table": "replies"') for line in lines], r"unknown table"),
        (lambda lines: [line.replace('"seconds"', '"minutes"') for line in lines], r"minutes, seconds"),
    ],
)
def test_a_damaged_file_of_labels_is_named_by_line_and_restores_nothing(folder, change, expected):
    filled(folder)
    export(folder)
    file, other = folder / "labels.jsonl", folder.parent / "other"
    file.write_text("\n".join(change(file.read_text().splitlines())) + "\n")
    with pytest.raises(InputError, match=expected):
        import_rows(LabelImportConfig(data=file, labels=other))
    with Store(other) as store:
        assert list(store.items()) == []
