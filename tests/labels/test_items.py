"""From rows to items: groups of a prompt, picks, checks, sources; and the commands around them."""

import gzip
import json
import math
from collections import Counter
from pathlib import Path

import pytest

from easyrlhf.config import LabelImportConfig
from easyrlhf.data.records import Demonstration
from easyrlhf.errors import InputError
from easyrlhf.labels.items import ItemPlan, items_of_records
from easyrlhf.labels.store import Store
from easyrlhf.tools.labelling.importing import import_rows


def write(file: Path, rows: list[dict]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def answered(prompt: str, **rewards: float | None) -> list[dict]:
    """Rows as easyrlhf generate writes them: one for each answer, which is its own name."""
    return [
        {"prompt": prompt, "completion": answer, "sample": n, "finished": True}
        | ({} if reward is None else {"reward": reward})
        for n, (answer, reward) in enumerate(rewards.items())
    ]


FOUR = answered("q", a=0.0, b=2.0, c=1.9, d=-1.0)


def items_in(folder: Path) -> list:
    with Store(folder) as store:
        return list(store.items())


@pytest.mark.parametrize(
    ("pick", "expected"), [("spread", {"b", "d"}), (None, {"b", "d"}), ("uncertain", {"b", "c"}), ("top", {"b", "c"})]
)
def test_which_two_of_several_answers(tmp_path, pick, expected):
    file = write(tmp_path / "a.jsonl", FOUR)
    import_rows(LabelImportConfig(data=file, labels=tmp_path / "l", pick=pick, random_share=0))
    [item] = items_in(tmp_path / "l")
    assert set(item.answers) == expected
    assert item.random is False


def test_uncertain_and_top_differ(tmp_path):
    file = write(tmp_path / "a.jsonl", answered("q", a=5.0, b=2.0, c=1.0))
    import_rows(LabelImportConfig(data=file, labels=tmp_path / "l", pick="uncertain", random_share=0))
    import_rows(LabelImportConfig(data=file, labels=tmp_path / "l", pick="top", random_share=0))
    assert [set(item.answers) for item in items_in(tmp_path / "l")] == [{"b", "c"}, {"a", "b"}]


def test_a_share_of_pairs_is_random_and_every_pair_of_a_prompt_as_likely():
    def records(prompts):
        for n in range(prompts):
            for answer, reward in (("a", 0.0), ("b", 2.0), ("c", -1.0)):
                yield Demonstration(f"q{n}", answer, {"reward": reward}, f"f:{n}"), {}

    made = [one.item for one in items_of_records(records(2000), ItemPlan(random_share=0.3), Counter())]
    assert len(made) == 2000
    chance = [item for item in made if item.random]
    assert abs(len(chance) - 600) < 4 * math.sqrt(2000 * 0.3 * 0.7)
    drawn = Counter(frozenset(item.answers) for item in chance)
    assert all(abs(count - len(chance) / 3) < 4 * math.sqrt(len(chance) * 2 / 9) for count in drawn.values())
    assert {frozenset(item.answers) for item in made if not item.random} == {frozenset("bc")}


def test_all_answers_become_a_ranking_and_sources_stay_with_their_answers(tmp_path):
    file = write(tmp_path / "a.jsonl", FOUR)
    settings = {"model": "outputs/sft", "stage of model": "abc", "seed": 7, "temperature": 0.7}
    (tmp_path / "a.jsonl.run.json").write_text(json.dumps({"settings": settings}))
    import_rows(LabelImportConfig(data=file, labels=tmp_path / "l", kind="ranking"))
    [item] = items_in(tmp_path / "l")
    assert item.kind == "ranking" and item.random
    sources = dict(zip(item.answers, item.sources, strict=True))
    assert sources["c"] == {
        "model": "outputs/sft",
        "stage": "abc",
        "seed": 7,
        "temperature": 0.7,
        "sample": 2,
        "finished": True,
        "reward": 1.9,
        "place": f"{file}:3",
    }


def test_equal_and_empty_answers_are_left_out_and_counted(tmp_path, capsys):
    rows = [*answered("q", a=None, b=None), *answered("q", b=None), *answered("alone", a=None)]
    rows += [{"prompt": "empty", "completion": text, "sample": 0} for text in ("x", "  ")]
    import_rows(LabelImportConfig(data=write(tmp_path / "a.jsonl", rows), labels=tmp_path / "l"))
    assert [set(item.answers) for item in items_in(tmp_path / "l")] == [{"a", "b"}]
    said = capsys.readouterr().out
    assert "1 dropped (1 empty completion)" in said
    assert "left out: answers equal to another one 1, prompts with a single answer 2" in said


def test_comparisons_come_with_their_labels_or_without(tmp_path):
    rows = [{"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}", "chosen_reward": 1.5} for n in range(20)]
    file = write(tmp_path / "c.jsonl", rows)
    import_rows(LabelImportConfig(data=file, labels=tmp_path / "l"))
    import_rows(LabelImportConfig(data=file, labels=tmp_path / "hidden", hide_labels=True))
    with Store(tmp_path / "l") as store, Store(tmp_path / "hidden") as hidden:
        labels, items = store.labels(), {item.id: item for item in store.items()}
        assert len(labels) == 20 and {label.role for label in labels} == {"import"}
        assert all("good" in items[label.item].answers[0 if label.value > 0 else 1] for label in labels)
        assert len({label.value for label in labels}) == 2  # the order of an item says nothing
        assert {source.get("reward") for item in items.values() for source in item.sources} == {1.5, None}
        assert hidden.labels() == []


def test_rankings_come_with_their_order_and_its_ties(tmp_path):
    row = {"prompt": "q", "completions": ["a", "b", "c", "d"], "scores": [1, 3, 1, 0]}
    import_rows(LabelImportConfig(data=write(tmp_path / "r.jsonl", [row]), labels=tmp_path / "l"))
    with Store(tmp_path / "l") as store:
        [item], [label] = store.items(), store.labels()
        assert [sorted(item.answers[i] for i in equals) for equals in label.value] == [["b"], ["a", "c"], ["d"]]


def test_single_answers_with_a_label_are_items_of_their_own(tmp_path):
    rows = [{"prompt": "q", "completion": "a", "label": True}, {"prompt": "q", "completion": "b", "label": False}]
    import_rows(LabelImportConfig(data=write(tmp_path / "f.jsonl", rows), labels=tmp_path / "l"))
    with Store(tmp_path / "l") as store:
        assert [(item.kind, item.answers) for item in store.items()] == [("answer", ["a"]), ("answer", ["b"])]
        assert [label.value for label in store.labels()] == [True, False]


def test_the_same_rows_twice_add_nothing(tmp_path, capsys):
    file = write(tmp_path / "a.jsonl", FOUR)
    for _ in range(2):
        import_rows(LabelImportConfig(data=file, labels=tmp_path / "l"))
    assert len(items_in(tmp_path / "l")) == 1
    assert "0 new items, 1 were there" in capsys.readouterr().out


def test_checks_and_shares_are_kept_until_they_are_given_again(tmp_path):
    file = write(tmp_path / "a.jsonl", FOUR)
    checks = write(tmp_path / "c.jsonl", [{"prompt": "1+1?", "chosen": "2", "rejected": "3"}])
    import_rows(LabelImportConfig(data=file, labels=tmp_path / "l", checks=checks, check_share=0.1))
    import_rows(LabelImportConfig(data=file, labels=tmp_path / "l", repeat_share=0))
    with Store(tmp_path / "l") as store:
        [check] = [item for item in store.items() if item.truth is not None]
        assert check.answers[check.truth] == "2"
        assert (store.setting("check_share", ""), store.setting("repeat_share", "")) == ("0.1", "0.0")


@pytest.mark.parametrize(
    ("rows", "more", "expected"),
    [
        ([{"prompt": "q"}], {}, "jsonl:1: a prompt without answers; easyrlhf generate"),
        ([{"text": "words"}], {}, "jsonl:1: a text without a prompt"),
        (
            answered("q", a=1.0, b=2.0, c=None),
            {"pick": "top", "random_share": 0},
            "jsonl:3: --pick top needs a reward",
        ),
        (answered("q", a=1.0), {}, "no item to label; left out: prompts with a single answer 1"),
        ([{"prompt": "q", "chosen": "a"}], {}, r"jsonl:1: .*'rejected'"),
    ],
)
def test_rows_that_nobody_can_label(tmp_path, rows, more, expected):
    file = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(InputError, match=expected):
        import_rows(LabelImportConfig(data=file, labels=tmp_path / "l", **more))


def test_a_packed_file_of_the_toy_world(tmp_path):
    rows = [json.dumps(row) for row in answered("q", a=1.0, b=2.0)]
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write("\n".join(rows))
    import_rows(LabelImportConfig(data=tmp_path / "a.jsonl.gz", labels=tmp_path / "l"))
    assert len(items_in(tmp_path / "l")) == 1
