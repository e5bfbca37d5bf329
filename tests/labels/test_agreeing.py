"""easyrlhf label agree: simulated annotators whose numbers are known, and what stands in the files."""

import json
from pathlib import Path

import numpy as np
import pytest

from easyrlhf.config import LabelAgreeConfig
from easyrlhf.errors import InputError
from easyrlhf.labels.measures import measured_labels, read_labels
from easyrlhf.labels.rows import NewItem, NewLabel, StoredItem
from easyrlhf.labels.store import Store
from easyrlhf.labels.votes import Unit, Votes
from easyrlhf.tools.labelling.agreeing import agree, held_against


def fill(folder: Path, said: np.ndarray, names=("ann", "bob", "cid"), *, random=False, shown=None) -> None:
    """Pairs and what each annotator says of each: 1 for the first answer, 0 for the second, -1 for nothing.

    said, shown  [annotators, pairs]
    """
    with Store(folder, create=True) as store:
        before = len(list(store.items()))
        numbers = [
            n
            for n, _ in store.add_items(
                NewItem("pair", f"q{before + n}", [f"a{n}", f"b{n}"], random=random) for n in range(said.shape[1])
            )
        ]
        labels = []
        for a, name in enumerate(names[: len(said)]):
            who = store.annotator(name).id
            for n, number in enumerate(numbers):
                if said[a, n] >= 0:
                    order = [0, 1] if shown is None or shown[a, n] == 0 else [1, 0]
                    value = (1 if said[a, n] else -1) * (1 if order == [0, 1] else -1)
                    labels.append(NewLabel(f"{who} {number}", number, who, value, "2", order, seconds=2.0 + a))
        store.add_labels(labels)


def measured(folder: Path) -> dict:
    with Store(folder) as store:
        return measured_labels(read_labels(store))


def two_who_agree_in(share: float, pairs: int) -> np.ndarray:
    first = np.random.default_rng(0).integers(0, 2, pairs)
    return np.stack([first, np.where(np.arange(pairs) < round(share * pairs), first, 1 - first)])


def test_an_agreement_of_82_percent_has_a_ceiling_of_90(tmp_path):
    fill(tmp_path, two_who_agree_in(0.82, 1000))
    found = measured(tmp_path)
    assert found["ceiling"]["accuracy"] == pytest.approx(0.9, abs=1e-12)
    low, high = found["ceiling"]["ci95"]
    assert 0.88 < low < 0.9 < high < 0.92
    [row] = found["matrix"]
    assert (row["first"], row["second"], row["n"]) == (1, 2, 1000)
    assert row["agreement"][0] == pytest.approx(0.82)
    assert row["kappa"] == pytest.approx(0.64, abs=0.01)  # (.82 - .5) / (1 - .5) for answers in even shares


def test_simulated_annotators_have_the_ceiling_of_their_accuracy(tmp_path):
    generator = np.random.default_rng(1)
    truth = generator.integers(0, 2, 2000)
    right = generator.random((2, 2000)) < 0.9
    fill(tmp_path, np.where(right, truth, 1 - truth))
    assert measured(tmp_path)["ceiling"]["accuracy"] == pytest.approx(0.9, abs=0.02)


def test_pairs_picked_at_random_give_the_ceiling_where_they_are_enough(tmp_path):
    fill(tmp_path, two_who_agree_in(1.0, 100))
    fill(tmp_path, two_who_agree_in(0.82, 50), random=True)
    found = measured(tmp_path)
    assert found["agreement"]["everyone"]["agreement"][0] == pytest.approx(141 / 150)
    assert found["ceiling"]["of"] == "pairs picked at random"
    assert found["ceiling"]["accuracy"] == pytest.approx(0.9)


def test_a_preference_for_what_is_shown_first_is_warned_of(tmp_path, capsys):
    """Ann always takes the first; bob says what he says whatever the side."""
    generator = np.random.default_rng(2)
    shown = generator.integers(0, 2, (2, 200))
    said = np.stack([1 - shown[0], generator.integers(0, 2, 200)])  # shown 0: the first answer stands first
    fill(tmp_path, said, shown=shown)
    rows = {row["number"]: row for row in measured(tmp_path)["annotators"]}
    assert rows[1]["position"]["share"] == 1.0
    assert abs(rows[2]["position"]["share"] - 0.5) < 4 * 0.5 / 200**0.5
    agree(LabelAgreeConfig(labels=tmp_path))
    assert "warning: ann chose what was shown first too often: 100.0%" in capsys.readouterr().out.replace("\n", " ")


def test_checks_own_pairs_ties_and_speed(tmp_path):
    fill(tmp_path, np.array([[1, 1, 0], [1, 0, -1]]))
    with Store(tmp_path) as store:
        [(check, _)] = store.add_items([NewItem("pair", "1+1?", ["2", "3"], truth=0)])
        store.add_labels([NewLabel("c1", check, 1, 1, "2", [0, 1]), NewLabel("c2", check, 2, -1, "2", [0, 1])])
        with store.write() as connection:  # as if the first pair had been given to ann again
            connection.execute("INSERT INTO lease VALUES (1, 1, 1, 0)")
        store.add_labels([NewLabel("again", 1, 1, -1, "2", [0, 1])])
    ann, bob = measured(tmp_path)["annotators"]
    assert (ann["checks"]["share"], bob["checks"]["share"]) == (1.0, 0.0)
    assert (ann["self_agreement"]["share"], ann["self_agreement"]["n"], bob["self_agreement"]) == (0.0, 1, None)
    assert (ann["labels"], bob["labels"]) == (4, 3)  # a pair shown again is no further label
    assert (ann["seconds"], bob["seconds"]) == (2.0, 3.0)
    assert measured(tmp_path)["ties"] == 0.0


def test_a_decision_of_the_referee_is_no_independent_label(tmp_path):
    fill(tmp_path, two_who_agree_in(0.5, 10))
    with Store(tmp_path) as store:
        who = store.annotator("organiser", "referee").id
        store.add_labels(NewLabel(f"r{n}", n, who, 1, "2", [0, 1]) for n in range(1, 11))
    assert measured(tmp_path)["agreement"]["everyone"]["pairs"] == 10


def test_no_name_of_a_person_stands_in_the_files(tmp_path):
    fill(tmp_path, two_who_agree_in(0.8, 50), names=("Annabel", "Robert"))
    with Store(tmp_path) as store:
        judge = store.annotator("qwen-judge", "judge").id
        store.add_labels(NewLabel(f"j{n}", n, judge, 0.9, "probability", [0, 1]) for n in range(1, 51))
    agree(LabelAgreeConfig(labels=tmp_path))
    for name in ("agreement.json", "agreement.html"):
        text = (tmp_path / name).read_text()
        assert "Annabel" not in text and "Robert" not in text
        assert ("qwen-judge" in text and "annotator 1" in text) or name.endswith("json")
    found = json.loads((tmp_path / "agreement.json").read_text())
    assert set(found["agreement"]) == {"everyone", "people"}
    assert found["ceiling"]["of"] == "people"


def test_only_some_annotators(tmp_path):
    fill(tmp_path, np.array([[1, 1], [1, 0], [0, 0]]))
    with Store(tmp_path) as store:
        found = measured_labels(read_labels(store, exclude=("cid",)))
    assert found["labels"] == 4 and len(found["matrix"]) == 1


def test_one_annotator_alone_has_no_agreement_and_nobody_is_an_error(tmp_path, capsys):
    fill(tmp_path / "one", np.array([[1, 0]]))
    agree(LabelAgreeConfig(labels=tmp_path / "one"))
    assert json.loads((tmp_path / "one/agreement.json").read_text())["annotators"][0]["reliability"] is None
    assert "easyrlhf label serve --overlap 2" in capsys.readouterr().out.replace("\n", " ")
    fill(tmp_path / "none", np.array([[-1]]))
    with pytest.raises(InputError, match="nobody has labelled anything yet"):
        agree(LabelAgreeConfig(labels=tmp_path / "none"))


def test_a_reward_model_is_held_against_majority_and_single_labels():
    """Four pairs: it agrees, it differs by 2, the labels tie, it has no score."""
    share = np.array([1, 1, 1, 0, 1, 0, 1.0])
    votes = Votes(
        [Unit(n) for n in range(1, 5)],
        [1, 2],
        np.array([0, 0, 1, 1, 2, 2, 3]),
        np.array([0, 1, 0, 1, 0, 1, 0]),
        share,
        share,
    )
    votes = votes.only(np.array([True, True, True, False, True, True, True]))
    items = [StoredItem("pair", "q", ["a", "b"], id=n, random=n == 2) for n in range(1, 5)]
    found = held_against(votes, items, np.array([1.0, -2.0, 3.0, np.nan]))
    assert (found["items"], found["left_out"], found["majority"]["share"]) == (2, 1, 0.5)
    assert (found["majority_at_random"]["share"], found["majority_at_random"]["n"]) == (0.0, 1)
    assert (found["labels"]["share"], found["labels"]["n"]) == (3 / 5, 5)
    [one] = found["disagreements"]
    assert (one["item"], one["difference"], one["share"], one["prefers"], one["over"]) == (2, 2.0, 0.0, "b", "a")
