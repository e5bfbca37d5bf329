"""From a file to token rows: what is stored, what is dropped, when the run stops."""

import json
import tracemalloc

import pytest

from easyrlhf.data.render import APART, Renderer
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.data.tokens import DataSettings, load_tokens
from easyrlhf.errors import InputError


@pytest.fixture
def load(renderer, tmp_path):
    """load(path, kind, **settings) with long limits unless told otherwise."""

    def _load(path: str, kind: str, **settings):
        limits = {"max_length": 512, "max_prompt_length": 256}
        return load_tokens(path, kind, renderer, DataSettings(cache_dir=tmp_path / "cache", **limits | settings))

    return _load


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def pair(number: int, **other) -> dict:
    answers = {"chosen": f" yes {number}", "rejected": f" no {number}"}
    return {"prompt": f"Question {number}?", **answers, **other}


def ranked(number: int, scores=(0.5, 7, -1)) -> dict:
    completions = [" fair", " good, as answers go", " bad"]
    return {"prompt": f"Question {number}?", "completions": completions, "scores": list(scores)}


def bad_rows(tmp_path) -> list[dict]:
    lines = (tmp_path / "cache" / "bad_rows.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_demonstrations_are_stored_with_their_mask(load, write, renderer):
    turns = [user("Hi"), assistant("Hello!"), user("A colour?"), assistant("Blue.")]
    data = load(write("x.jsonl", [{"messages": turns}]), "demonstration")
    row = data.rows[0]
    assert (row["input_ids"], row["loss_mask"]) == renderer.conversation(turns[:1], turns[1:])
    kept = [t for t, on in zip(row["input_ids"], row["loss_mask"], strict=True) if on]
    assert renderer.tokenizer.decode(kept) == "Hello!<|im_end|>Blue.<|im_end|>"
    assert row["length"] == len(row["input_ids"]) == len(row["loss_mask"])
    assert data.rows.column_names == ["input_ids", "loss_mask", "length"]


def test_comparisons_are_stored_with_margin_and_the_length_of_the_longer_side(load, write, renderer):
    rows = [pair(1), {**pair(2), "chosen": " yes, and more", "margin": 2}]
    data = load(write("x.jsonl", rows), "comparison")
    first, second = data.rows
    assert renderer.tokenizer.decode(second["prompt_ids"]) == "Question 2?"
    assert renderer.tokenizer.decode(second["chosen_ids"]) == " yes, and more<|im_end|>"
    assert renderer.tokenizer.decode(second["rejected_ids"]) == " no 2<|im_end|>"
    assert (first["margin"], second["margin"]) == (0.0, 2.0)
    assert second["length"] == len(second["prompt_ids"]) + len(second["chosen_ids"])
    assert len(second["chosen_ids"]) > len(second["rejected_ids"])
    assert (first["weight"], second["weight"]) == (1.0, 1.0)


def test_rankings_are_stored_with_their_scores_and_the_length_of_the_longest_answer(load, write, renderer):
    data = load(write("x.jsonl", [ranked(1), ranked(2)]), "ranking")
    row = data.rows[1]
    assert data.rows.column_names == ["prompt_ids", "completions_ids", "scores", "length"]
    assert renderer.tokenizer.decode(row["prompt_ids"]) == "Question 2?"
    answers = [renderer.tokenizer.decode(ids) for ids in row["completions_ids"]]
    assert answers == [" fair<|im_end|>", " good, as answers go<|im_end|>", " bad<|im_end|>"]
    assert row["scores"] == [0.5, 7.0, -1.0]
    assert row["length"] == len(row["prompt_ids"]) + len(row["completions_ids"][1])
    assert data.summary.lengths["completions_ids"]["max"] == len(row["completions_ids"][1])
    assert data.summary.notes == {}


def test_a_comparison_is_a_ranking_of_two(load, write, renderer):
    data = load(write("x.jsonl", [pair(1), pair(2)]), "ranking")
    answers = [renderer.tokenizer.decode(ids) for ids in data.rows[0]["completions_ids"]]
    assert (answers, data.rows[0]["scores"]) == ([" yes 1<|im_end|>", " no 1<|im_end|>"], [1.0, 0.0])
    assert data.summary.lines()[1] == "train: 2 comparisons → 2 rankings"


def test_a_ranking_is_all_its_pairs_which_weigh_one_together(load, write, renderer):
    data = load(write("x.jsonl", [ranked(1), ranked(2, scores=[0, 1, 0])]), "comparison")
    sides = [[renderer.decode(row[f"{side}_ids"]) for side in ("chosen", "rejected")] for row in data.rows]
    fair, good, bad = " fair", " good, as answers go", " bad"
    assert sides == [[fair, bad], [good, fair], [good, bad], [good, fair], [good, bad]]
    assert data.rows["weight"][:] == pytest.approx([1 / 3] * 3 + [1 / 2] * 2)
    assert (data.summary.read, data.summary.used, data.summary.rows) == (2, 2, 5)
    first, second = data.summary.lines()
    assert first.startswith("train: 2 rows read = 2 used + 0 dropped · ")
    assert second == "train: 2 rankings → 5 comparisons"


def test_feedback_is_stored_with_its_label_and_the_row_of_another_prompt(load, write, renderer):
    rows = [{"prompt": f"Question {i}?", "completion": f" yes {i}", "label": i == 1} for i in range(3)]
    data = load(write("x.jsonl", rows), "feedback")
    assert data.rows.column_names == ["prompt_ids", "completion_ids", "label", "length", "other"]
    row = data.rows[1]
    assert renderer.tokenizer.decode(row["prompt_ids"]) == "Question 1?"
    assert renderer.tokenizer.decode(row["completion_ids"]) == " yes 1<|im_end|>"
    assert row["length"] == len(row["prompt_ids"]) + len(row["completion_ids"])
    assert (data.rows["label"][:], data.rows["other"][:]) == ([False, True, False], [1, 2, 0])
    assert data.summary.notes == {"desirable completions": 1, "undesirable completions": 2}


def test_a_comparison_is_two_feedbacks_and_the_sum_is_of_rows_of_the_file(load, write, renderer):
    rows = [pair(i) for i in range(700)]  # more than are written at once
    rows[7]["chosen"] = ""
    unpaired = write("b.jsonl", [{"prompt": "a", "completion": "b", "label": True}])
    data = load(f"{write('a.jsonl', rows)},{unpaired}", "feedback")
    summary = data.summary
    assert (summary.read, summary.used, summary.rows, len(data.rows)) == (701, 700, 1399, 1399)
    first, *notes = summary.lines()
    assert first.startswith("train: 701 rows read = 700 used + 1 dropped (1 empty completion) · ")
    assert notes == [
        "train: 699 comparisons → 1,398 feedbacks",
        "train: 700 desirable completions",
        "train: 699 undesirable completions",
    ]
    texts = [renderer.decode(row["completion_ids"]) for row in data.rows.select(range(4))]
    assert texts == [" yes 0", " no 0", " yes 1", " no 1"]
    assert data.rows["label"][:4] == [True, False, True, False]
    assert all(data.rows[row["other"]]["prompt_ids"] != row["prompt_ids"] for row in data.rows)


@pytest.mark.parametrize("kind", ["feedback", "comparison"])
def test_a_row_of_which_one_answer_is_too_long_is_dropped_whole(load, write, tmp_path, kind):
    rows = [pair(i) if kind == "feedback" else ranked(i) for i in range(20)]
    if kind == "feedback":
        rows[3]["rejected"] = " no" * 100
    else:
        rows[3]["completions"][0] = " fair" * 100
    data = load(write("x.jsonl", rows), kind, max_length=90)
    assert data.summary.dropped == {"over length": 1}
    assert (data.summary.used, len(data.rows)) == (19, 19 * (2 if kind == "feedback" else 3))
    assert [row["place"].rsplit(":")[-1] for row in bad_rows(tmp_path)] == ["4"]


def test_faults_of_rankings_are_counted_or_stop_the_run_at_their_line(load, write):
    rows = [ranked(i) for i in range(200)]
    rows[4]["scores"] = [1, 1, 1]
    rows[5] |= {"completions": ["one"], "scores": [1]}
    summary = load(write("x.jsonl", rows), "ranking").summary
    assert summary.dropped == {"all ties": 1, "fewer than two completions": 1}
    with pytest.raises(InputError, match=r"x\.jsonl:5: all ties; 1 of 6 rows"):
        load(write("x.jsonl", rows[:5] + rows[6:7]), "ranking")
    rows[6]["scores"] = [1, 2]
    with pytest.raises(InputError, match=r"x\.jsonl:7: key 'scores': expected one number for each of the 3 compl"):
        load(write("x.jsonl", rows), "comparison")


def test_conversations_that_answer_different_prompts_are_refused_with_their_line(load, write):
    turns = [{side: [user(f"{side} {i}"), assistant("b")] for side in ("chosen", "rejected")} for i in range(3)]
    with pytest.raises(InputError, match=r"x\.jsonl:1: chosen and rejected answer different prompts; 3 of 3 rows"):
        load(write("x.jsonl", turns), "comparison")


def test_rankings_are_no_feedback_and_the_reason_is_said(load, write):
    path = write("x.jsonl", [ranked(1)])
    with pytest.raises(InputError) as error:
        load(path, "feedback")
    said = str(error.value)
    assert f"{path}: holds rankings (format ranking, found keys prompt, completions, scores)" in said
    assert "which are for rrhf_train; this stage needs feedbacks (a ranking does not say which" in said
    assert "unpaired: prompt, completion: strings or messages; label: true or false" in said


@pytest.mark.parametrize("kind", ["demonstration", "comparison", "ranking", "feedback"])
def test_prompts_are_refused_by_every_other_kind(load, write, kind):
    with pytest.raises(InputError, match=rf"holds prompts .*, which are for ppo_train; this stage needs {kind}s:"):
        load(write("x.jsonl", [{"prompt": "a"}]), kind)


def test_prompts_come_from_any_record_with_their_columns(load, write):
    rows = [pair(1, source="x"), pair(1, source="x")]
    data = load(write("x.jsonl", rows), "prompt")
    assert [json.loads(row["prompt"]) for row in data.rows] == ["Question 1?"] * 2  # kept twice
    assert json.loads(data.rows[0]["columns"]) == {"source": "x", "chosen": " yes 1", "rejected": " no 1"}
    turns = [user("Hi"), assistant("Hello!"), user("A colour?"), assistant("Blue.")]
    data = load(write("y.jsonl", [{"messages": turns}]), "prompt")
    assert json.loads(data.rows[0]["prompt"]) == turns[:3]
    assert json.loads(data.rows[0]["columns"]) == {"completion": turns[3:]}
    assert data.rows[0]["length"] == len(data.rows[0]["prompt_ids"])


def test_several_files_are_one_data_set_and_each_has_its_own_format(load, write):
    first = write("a.jsonl", [pair(1), pair(2)])
    second = write("b.jsonl", [{"chosen": "The sky is blue", "rejected": "The sky is red"}])
    summary = load(f"{first},{second}", "comparison").summary
    assert (summary.read, summary.used) == (3, 3)
    assert summary.files == [first, second]
    assert summary.formats == ["preference, standard", "preference, standard, implicit prompt"]


def test_few_content_faults_are_dropped_counted_and_kept_for_the_user(load, write, tmp_path):
    rows = [pair(i) for i in range(200)]
    rows[7]["chosen"] = rows[7]["rejected"]
    rows[9]["chosen"] = " "
    path = write("x.jsonl", rows)
    summary = load(path, "comparison").summary
    assert (summary.read, summary.used) == (200, 198)
    assert summary.dropped == {"chosen equals rejected": 1, "empty completion": 1}
    equal, empty = bad_rows(tmp_path)
    assert equal == {
        "data": "train",
        "reason": "chosen equals rejected",
        "place": f"{path}:8",
        "row": rows[7],
    }
    assert empty["place"] == f"{path}:10"
    load(path, "comparison")
    assert len(bad_rows(tmp_path)) == 2  # written anew, not a second time
    load(path, "comparison", name="valid")
    assert [row["data"] for row in bad_rows(tmp_path)] == ["train", "train", "valid", "valid"]
    load(path, "comparison", bad_rows=tmp_path / "elsewhere.jsonl")
    assert len((tmp_path / "elsewhere.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("rows", [5, 299])
@pytest.mark.parametrize("fault, percent", [("empty completion", 1), ("chosen equals rejected", 5)])
def test_more_content_faults_than_are_tolerated_stop_at_the_first(load, write, rows, fault, percent):
    data = [pair(i) for i in range(rows)]
    most = rows * percent // 100
    for number in range(1, 1 + most):
        data[number]["chosen"] = " " if fault.startswith("empty") else data[number]["rejected"]
    assert load(write("x.jsonl", data), "comparison").summary.dropped == ({fault: most} if most else {})
    data[1 + most]["chosen"] = " " if fault.startswith("empty") else data[1 + most]["rejected"]
    path = write("x.jsonl", data)
    with pytest.raises(InputError) as error:
        load(path, "comparison")
    assert str(error.value).startswith(f"{path}:2: {fault}; {most + 1} of {rows} rows")
    assert f"more than {percent}%" in str(error.value)
    assert "--on_bad_row skip" in str(error.value)
    summary = load(path, "comparison", on_bad_row="skip").summary
    assert summary.read == rows == summary.used + summary.dropped[fault]


def test_the_one_percent_are_counted_file_by_file(load, write):
    good = write("good.jsonl", [pair(i) for i in range(300)])
    bad = write("bad.jsonl", [pair(1), {**pair(2), "chosen": ""}])
    with pytest.raises(InputError, match=r"bad\.jsonl:2: empty completion; 1 of 2 rows"):
        load(f"{good},{bad}", "comparison")


def test_broken_json_at_line_seven_names_line_seven(load, write, tmp_path):
    lines = [pair(i) for i in range(9)]
    lines[6] = '{"prompt": "a", '
    path = write("x.jsonl", lines)
    with pytest.raises(InputError, match=r"x\.jsonl:7: not JSON .*--on_bad_row skip"):
        load(path, "comparison")
    summary = load(path, "comparison", on_bad_row="skip").summary
    assert (summary.read, summary.used, summary.dropped) == (9, 8, {"unreadable row": 1})
    (bad,) = bad_rows(tmp_path)
    assert (bad["place"], bad["row"]) == (f"{path}:7", '{"prompt": "a",')
    assert bad["message"].startswith("not JSON")


@pytest.mark.parametrize(
    "odd, said",
    [
        ({"prompt": "a", "chosen": "b"}, "missing key 'rejected'"),
        (
            {"chosen": "The a", "rejected": "The b"},
            "mixed formats: this row reads as 'preference, ",
        ),
        (
            {"prompt": [user("a")], "chosen": [assistant("b")], "rejected": [assistant("c")]},
            "mixed formats: this row reads as 'preference, conversational'",
        ),
        ({"messages": [user("a"), assistant("b")]}, "missing key 'chosen'; found keys messages"),
        (["a"], "expected a JSON object, found list"),
    ],
)
def test_a_row_unlike_the_others_stops_the_run(load, write, odd, said):
    rows = [pair(i) for i in range(20)]
    rows[15] = odd
    path = write("x.jsonl", rows)
    with pytest.raises(InputError) as error:
        load(path, "comparison")
    assert str(error.value).startswith(f"{path}:16: {said}")
    assert load(path, "comparison", on_bad_row="skip").summary.used == 19


def test_the_format_is_that_of_most_of_the_first_rows(load, write):
    rows = [{"prompt": "a", "completion": "b"}, *(pair(i) for i in range(5))]
    path = write("x.jsonl", rows)
    with pytest.raises(InputError, match=r"x\.jsonl:1: missing key 'chosen'"):
        load(path, "comparison")


def test_a_forced_format_is_not_guessed_against(load, write):
    path = write("x.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c", "completion": "d"}])
    assert load(path, "comparison").summary.used == 1
    with pytest.raises(InputError, match="holds demonstrations"):
        load(path, "comparison", format="prompt_completion")


def test_a_file_of_another_kind_is_refused_with_the_stage_that_reads_it(load, write):
    path = write("x.jsonl", [{"prompt": "Hello", "completion": "Hi", "label": True}])
    with pytest.raises(InputError) as error:
        load(path, "demonstration")
    said = str(error.value)
    assert f"{path}: holds feedbacks (format unpaired, found keys prompt, completion, label)" in said
    assert "which are for kto_train; this stage needs demonstrations:" in said
    assert "messages: list of {role, content}" in said


def test_comparisons_are_demonstrations_of_their_chosen_answer_and_this_is_said(load, write, renderer):
    rows = [{"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}]
    data = load(write("x.jsonl", rows), "demonstration")
    ids, mask = renderer.conversation("The sky is", " blue.")
    assert (data.rows[0]["input_ids"], data.rows[0]["loss_mask"]) == (ids, mask)
    assert data.summary.notes == {"comparisons, of which the chosen answer is imitated": 1}
    assert any("1 comparisons, of which the chosen answer is imitated" in line for line in data.summary.lines())


def test_unknown_rows_are_answered_with_all_formats(load, write):
    with pytest.raises(InputError, match=r"x\.jsonl:1: no known format; found keys texts;(.|\n)*hh:"):
        load(write("x.jsonl", [{"texts": "a"}]), "comparison")
    with pytest.raises(InputError, match="did you mean 'preference'"):
        load(write("x.jsonl", [pair(1)]), "comparison", format="preferences")


def test_a_file_of_blank_lines_holds_no_row(load, write):
    with pytest.raises(InputError, match="the file holds no row"):
        load(write("x.jsonl", ["", " "]), "comparison")


def test_a_file_of_which_nothing_is_left_is_refused(load, write):
    with pytest.raises(InputError, match=r"no usable row; the dropped ones are in .*bad_rows"):
        load(write("x.jsonl", ["broken", pair(1) | {"chosen": ""}]), "comparison", on_bad_row="skip")


def test_a_conversation_the_template_refuses_has_its_place(write, tmp_path, qwen_folder):
    renderer = Renderer(load_tokenizer(str(qwen_folder), chat_template="hh"))
    rows = [{"prompt": [user("a")]}, {"prompt": [user("a"), {"role": "tool", "content": "b"}]}]
    path = write("x.jsonl", rows)
    limits = {"max_length": 64, "max_prompt_length": 64, "cache_dir": tmp_path}
    with pytest.raises(InputError, match=r"x\.jsonl:2: the chat template refuses .*role tool"):
        load_tokens(path, "prompt", renderer, DataSettings(**limits))
    summary = load_tokens(path, "prompt", renderer, DataSettings(on_bad_row="skip", **limits)).summary
    assert summary.dropped == {"not renderable": 1}


def test_the_balance_is_printed_as_a_sum(load, write):
    rows = [pair(i) for i in range(200)]
    rows[7]["chosen"] = ""
    first, *_ = load(write("x.jsonl", rows), "comparison").summary.lines()
    assert first.startswith("train: 200 rows read = 199 used + 1 dropped (1 empty completion) · ")
    assert first.endswith(" · preference, standard")


def test_the_summary_of_lengths_is_that_of_the_used_rows(load, write):
    rows = [{"prompt": "b" * n, "completion": "c"} for n in (1, 2, 3, 40)]
    summary = load(write("x.jsonl", rows), "demonstration").summary
    lengths = summary.lengths["length"]
    assert list(lengths) == ["p50", "p90", "p99", "max"]
    assert lengths["p50"] < lengths["p90"] == lengths["p99"] == lengths["max"]
    assert json.loads(json.dumps(summary.as_dict()))["lengths"]["length"] == lengths


def test_the_hash_is_that_of_the_tokens_in_their_order(load, write):
    def sha(name, rows):
        return load(write(name, rows), "comparison").summary.sha256

    one = sha("a.jsonl", [pair(1), pair(2)])
    assert one == sha("b.jsonl", [pair(1, source="x"), pair(2)])
    assert one != sha("c.jsonl", [pair(2), pair(1)])
    assert one != sha("d.jsonl", [pair(1), pair(2, margin=1)])


def test_the_hash_covers_scores_labels_and_the_borders_between_answers(load, write):
    def sha(kind, *rows):
        return load(write("x.jsonl", rows), kind).summary.sha256

    one = sha("ranking", ranked(1, [0.5, 7, -1]))
    assert one == sha("ranking", ranked(1, [0.5, 7.0, -1.0]))
    assert one != sha("ranking", ranked(1, [0.25, 7, -1]))
    assert one != sha("ranking", ranked(1) | {"completions": [" good, as answers go", " fair", " bad"]})
    liked = {"prompt": "a", "completion": "b", "label": True}
    assert sha("feedback", liked) != sha("feedback", liked | {"label": False})


def test_notes_of_reading_and_rendering_are_counted_for_this_data_only(load, write):
    turns = [user("Hi"), assistant("Hello!"), user("Bye")]
    data = load(write("x.jsonl", [{"messages": turns}]), "demonstration")
    assert data.summary.notes == {"rows with turns after the last answer, left out": 1}
    assert data.summary.lines()[1] == "train: 1 rows with turns after the last answer, left out"
    assert load(write("y.jsonl", [{"messages": turns[:2]}]), "demonstration").summary.notes == {}


def test_a_renderers_notes_are_counted_once_for_each_data_set(write, tmp_path, qwen_folder):
    """As with a template that drops the reasoning of earlier turns: Qwen3's does."""
    (tmp_path / "t.jinja").write_text(
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{{ m['content'] if loop.last else m['content'].split('>')[-1] }}{{ '<|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    template = str(tmp_path / "t.jinja")
    renderer = Renderer(load_tokenizer(str(qwen_folder), chat_template=template))
    turns = [user("a"), assistant("b>c"), user("d"), assistant("e")]
    path = write("x.jsonl", [{"messages": turns}])
    for name in ("train", "valid"):
        settings = DataSettings(max_length=64, max_prompt_length=64, cache_dir=tmp_path, name=name)
        data = load_tokens(path, "demonstration", renderer, settings)
        assert data.summary.notes == {APART: 1}


def prompts_of(data, renderer) -> list[str]:
    return [renderer.tokenizer.decode(ids) for ids in data.rows["prompt_ids"]]


def test_weights_leave_rows_out_and_repeat_them_and_the_balance_adds_up(load, write, renderer, tmp_path):
    some = write("some.jsonl", [pair(i) for i in range(40)])
    twice = write("twice.jsonl", [pair(100 + i) for i in range(20)])
    data = load(f"{some}=0.3,{twice}=2.5", "comparison", seed=7)
    summary, prompts = data.summary, prompts_of(data, renderer)
    assert (summary.read, summary.used, summary.dropped) == (60, 32, {"left out by weight": 28})
    assert summary.rows == len(prompts) == 12 + 50
    counts = [prompts.count(f"Question {100 + i}?") for i in range(20)]
    assert sorted(counts) == [2] * 10 + [3] * 10
    assert max(prompts.count(f"Question {i}?") for i in range(40)) == 1
    assert "train: 20 rows used more than once, by weight" in summary.lines()
    assert summary.lines()[0].startswith("train: 60 rows read = 32 used + 28 dropped (28 left out by weight) · ")
    assert not (tmp_path / "cache" / "bad_rows.jsonl").exists()  # nothing is wrong with them
    assert load(f"{some}=0.3,{twice}=2.5", "comparison", seed=7).summary.sha256 == summary.sha256
    assert load(f"{some}=0.3,{twice}=2.5", "comparison", seed=8).summary.sha256 != summary.sha256


def test_a_weight_is_a_share_of_the_usable_rows(load, write):
    rows = [pair(i) if i % 2 else "broken" for i in range(40)]
    summary = load(write("x.jsonl", rows) + "=0.5", "comparison", on_bad_row="skip").summary
    assert (summary.used, summary.dropped) == (10, {"unreadable row": 20, "left out by weight": 10})


def test_rows_that_a_weight_leaves_out_do_not_dilute_the_share_that_is_too_long(load, write):
    rows = [pair(i) | ({"prompt": "long " * 90} if i % 2 else {}) for i in range(200)]
    with pytest.raises(InputError, match=r"of 20 rows \(.*%\) are too long"):
        load(write("x.jsonl", rows) + "=0.1", "comparison", max_prompt_length=20)


def test_fields_and_a_transform_make_rows_that_are_read(load, write, renderer, tmp_path):
    (tmp_path / "rows.py").write_text(
        "def both(row):\n"
        "    if row['n'] == 2:\n"
        "        return None\n"
        "    return [{'q': row['q'], 'good': ' ' + a, 'bad': ' none', 'n': row['n']} for a in row['answers']]\n"
    )
    rows = [{"q": f"Q{n}?", "answers": ["yes", "no"], "n": n} for n in (1, 2, 3)]
    settings = {"transform": f"{tmp_path}/rows.py:both", "field": "prompt=Say: {q},chosen=good,rejected=bad"}
    data = load(write("x.jsonl", rows), "comparison", **settings)
    assert prompts_of(data, renderer) == ["Say: Q1?", "Say: Q1?", "Say: Q3?", "Say: Q3?"]
    assert (data.summary.read, data.summary.used, data.summary.dropped) == (5, 4, {"dropped by --transform": 1})
    (dropped,) = bad_rows(tmp_path)
    assert (dropped["reason"], dropped["place"]) == ("dropped by --transform", f"{tmp_path}/x.jsonl:2")
    assert dropped["row"] == rows[1]


def test_a_row_that_a_transform_cannot_read_stops_with_its_place_or_is_dropped(load, write, tmp_path):
    (tmp_path / "rows.py").write_text("def fix(row):\n    return row | {'rejected': row['others'][0]}\n")
    rows = [pair(i, others=[" worse"] if i != 1 else []) for i in range(3)]
    settings = {"transform": f"{tmp_path}/rows.py:fix"}
    with pytest.raises(
        InputError, match=r"x\.jsonl:2: --transform .*rows\.py:fix raised IndexError: .* \(rows\.py:2\) \(--on"
    ):
        load(write("x.jsonl", rows), "comparison", **settings)
    summary = load(write("x.jsonl", rows), "comparison", on_bad_row="skip", **settings).summary
    assert (summary.read, summary.used, summary.dropped) == (3, 2, {"unreadable row": 1})


def test_a_format_may_be_named_as_axolotl_does(load, write, renderer):
    rows = [
        {"prompt": "Hi", "completion": "Hello!", "label": True},
        {"prompt": "Hi", "completion": "No.", "label": False},
    ]
    data = load(write("x.jsonl", rows), "feedback", format="llama3.ultra")
    assert renderer.tokenizer.decode(data.rows[0]["prompt_ids"]).endswith(
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    pairs = [{"question": "Hi", "chosen": "Hello!", "rejected": "No."}]
    assert load(write("y.jsonl", pairs), "feedback").summary.rows == 2
    assert load(write("y.jsonl", pairs), "ranking", format="chatml.intel").summary.formats == ["intel"]


@pytest.mark.parametrize("kind", ["prompt", "feedback"])
def test_memory_does_not_grow_with_the_file(load, write, kind):
    row = {"completion": "b", "label": True} if kind == "feedback" else {}

    def peak(name: str, rows: int) -> int:
        path = write(name, [{"prompt": f"{i} " + "a b c " * 10, **row} for i in range(rows)])
        tracemalloc.start()
        try:
            load(path, kind)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak("warm.jsonl", 600)
    assert peak("large.jsonl", 3000) < 1.3 * peak("small.jsonl", 1000)
