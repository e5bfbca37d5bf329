"""Partners of feedback rows for KTO's estimate of KL, and their labels."""

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from easyrlhf.data.kto_mismatch import add_partners, partners
from easyrlhf.data.tokens import check_labels, label_counts
from easyrlhf.errors import InputError


def by_walking(prompts: list) -> list[int]:
    """The partners by the plainest way: start half the data further on, walk while prompts are equal."""
    count, found = len(prompts), []
    for row in range(count):
        start = (row + max(1, count // 2)) % count
        walk = [(start + step) % count for step in range(count)]
        found.append(next((other for other in walk if prompts[other] != prompts[row]), start))
    return found


@pytest.mark.parametrize(
    "prompts, expected",
    [
        ([1, 2, 3, 4], [2, 3, 0, 1]),
        ([1, 2, 1, 2], [3, 0, 1, 2]),  # half way on is the same prompt: one more
        ([1, 1, 1, 2], [3, 3, 3, 1]),
        ([2, 1, 1, 1, 1], [2, 0, 0, 0, 0]),
        ([5, 5, 5], [1, 2, 0]),  # no other prompt there is
        ([1, 2], [1, 0]),
        ([1], [0]),
    ],
)
def test_partners_by_hand(prompts, expected):
    assert partners(np.array(prompts)).tolist() == expected == by_walking(prompts)


def test_partners_of_random_prompts_are_those_found_by_walking():
    random = np.random.default_rng(0)
    for _ in range(300):
        prompts = random.integers(0, random.integers(1, 5), size=random.integers(1, 14))
        assert partners(prompts).tolist() == by_walking(prompts.tolist())


def test_a_million_rows_of_which_nearly_all_have_one_prompt_take_no_time():
    prompts = np.zeros(1_000_000, dtype=np.int64)
    prompts[10] = 1
    assert set(partners(prompts)[11:].tolist()) == {10}


def test_partners_are_added_to_a_file_of_several_batches(tmp_path):
    ids = [[1], [1], [1, 2], [3], [3], [], [4]]
    file = tmp_path / "x.arrow"
    schema = pa.schema({"prompt_ids": pa.list_(pa.int32()), "label": pa.bool_()})
    with pa.OSFile(str(file), "wb") as out, pa.ipc.new_stream(out, schema) as writer:
        for start in (0, 3, 6):
            rows = [{"prompt_ids": prompt, "label": True} for prompt in ids[start : start + 3]]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
    add_partners(file)
    rows = Dataset.from_file(str(file))
    assert rows["prompt_ids"][:] == ids
    assert rows["other"][:] == by_walking(ids) == [3, 4, 5, 6, 0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["x.arrow"]


def test_labels_are_counted_and_both_must_be_there():
    rows = Dataset.from_dict({"label": [True, False, True]})
    assert label_counts(rows) == (2, 1)
    check_labels(rows)
    with pytest.raises(InputError, match=r"valid: all 2 completions have the label true; .* with the label false"):
        check_labels(rows.select([0, 2]), "valid")
    with pytest.raises(InputError, match=r"train: all 1 completions have the label false; .* with the label true"):
        check_labels(rows.select([1]))
