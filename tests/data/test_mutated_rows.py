"""Whatever is in a row: InputError at most, and read = used + dropped."""

import json
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from easyrlhf.data.ledger import LEFT_OUT
from easyrlhf.data.tokens import DataSettings, load_tokens
from easyrlhf.errors import InputError

SKY = [{"role": "user", "content": "The sky?"}]
BLUE = [{"role": "assistant", "content": "Blue."}]
RED = [{"role": "assistant", "content": "Red."}]
HH = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}
PAIR = {"prompt": SKY, "chosen": BLUE, "rejected": RED, "margin": 1.5}
RANKED = {"prompt": SKY, "completions": [BLUE, RED, BLUE + SKY + RED], "scores": [1, 2.5, 1]}
CONVERSATION = {"messages": SKY + BLUE + SKY + RED}
TEXTS = {"chosen": "a", "rejected": "b", "system": "c"}
GOOD = [  # and the kind it is read as
    (HH, "comparison"),
    (HH, "prompt"),
    (PAIR, "comparison"),
    ({"chosen": SKY + BLUE, "rejected": SKY + RED}, "comparison"),
    ({"chosen": "The sky", "rejected": "The sea"}, "comparison"),
    ({"prompt": "a", "completion": "b", "label": True}, "prompt"),
    ({"prompt": "a", "completion": "b"}, "demonstration"),
    (CONVERSATION, "demonstration"),
    (CONVERSATION, "prompt"),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "prompt"),
    ({"instruction": "a", "input": "", "output": "b"}, "demonstration"),
    ({"prompt": SKY, "answer": 3}, "prompt"),
    (PAIR, "feedback"),
    ({"prompt": "a", "completion": "b", "label": True}, "feedback"),
    (PAIR, "ranking"),
    (RANKED, "ranking"),
    (RANKED, "comparison"),
    ({"prompt": "a", "completions": ["b", "c", "d"], "ranks": [1, 2, 2]}, "ranking"),
    ({"prompt": "\n\nHuman: a", "answers": [{"answer": x, "rank": ord(x)} for x in "bc"]}, "comparison"),
    ({"instruction": "a", "completions": [{"response": x, "overall_score": ord(x)} for x in "bc"]}, "ranking"),
    ({"prompt": "The sky?", "chosen": SKY + BLUE, "rejected": SKY + RED}, "comparison"),
    ({"messages": SKY, "chosen": BLUE[0], "rejected": "Red."}, "comparison"),
    ({"messages": SKY + BLUE, "rejected_response": "Red."}, "comparison"),
    ({"messages": SKY + BLUE, "rejected_messages": SKY + RED}, "feedback"),
    ({"query": "a", "response": "b", "rejected_response": "c", "history": [["d", "e"]]}, "ranking"),
    ({"query": "a", "response": "b", "history": [["d", "e"]]}, "demonstration"),
    ({"question": "q", **TEXTS}, "comparison"),
    ({"input": "q", **TEXTS}, "prompt"),
    ({"instruction": "q", "chosen_response": "a", "rejected_response": "b"}, "comparison"),
    ({"instruction": "q", "completion": "a", "label": False}, "feedback"),
    ({"question": "q", "completion": "a", "label": True, "system": "c"}, "feedback"),
    ({"completion": SKY + RED, "label": False}, "feedback"),
    ({**CONVERSATION, "label": True}, "feedback"),
    ({"messages": SKY, "answer": 3}, "prompt"),
]
KEYS = sorted({key for row, _ in GOOD for key in row} | {"role", "content", "from", "value", "rank"})
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["\ud800", "<|im_end|>", "\ufdd0", "\n\nAssistant:", "\n\nHuman: x", "user"])
    | st.sampled_from([SKY, BLUE, [], "word " * 60]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=4,
)


def mutated(good: dict):
    """The good row with some keys replaced, taken away or added; sometimes something else."""
    changed = st.dictionaries(st.sampled_from([*good, *KEYS]), JUNK, max_size=2)
    rows = st.builds(
        lambda change, gone: {k: v for k, v in {**good, **change}.items() if k not in gone},
        changed,
        st.sets(st.sampled_from([*good]), max_size=1) | st.just(set()),
    )
    return rows | st.sampled_from([row for row, _ in GOOD]) | JUNK


def line_of(row, broken: bool) -> bytes:
    line = json.dumps(row).encode()
    return line[: len(line) // 2] + b"\xff" if broken else line


@settings(
    max_examples=350,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    data=st.data(),
    good_and_kind=st.sampled_from(GOOD),
    broken=st.sampled_from([False, False, False, True]),
    on_bad_row=st.sampled_from(["stop", "skip", "skip"]),
    overlength=st.sampled_from(["drop", "truncate"]),
    weight=st.sampled_from(["", "", "=0.3", "=2.5"]),
)
def test_mutated_rows_end_in_an_input_error_or_in_a_balance_that_adds_up(
    renderer, data, good_and_kind, broken, on_bad_row, overlength, weight
):
    good, kind = good_and_kind
    odd = data.draw(st.lists(mutated(good), max_size=4))
    lines = [line_of(good, False)] * 9 + [line_of(row, broken) for row in odd]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.jsonl")
        path.write_bytes(b"\n".join(lines))
        try:
            tokens = load_tokens(
                f"{path}{weight}",
                kind,
                renderer,
                DataSettings(
                    max_length=48,
                    max_prompt_length=40,
                    cache_dir=Path(folder, "cache"),
                    on_bad_row=on_bad_row,
                    overlength=overlength,
                ),
            )
        except InputError as error:
            assert "x.jsonl" in str(error) or "train" in str(error)
            return
        summary = tokens.summary
        assert summary.read == len(lines) == summary.used + sum(summary.dropped.values())
        assert summary.rows == len(tokens.rows) >= summary.used
        bad = Path(folder, "cache", "bad_rows.jsonl")
        written = len(bad.read_text().splitlines()) if bad.exists() else 0
        assert written == sum(summary.dropped.values()) - summary.dropped.get(LEFT_OUT, 0)
        assert all(row["length"] <= 48 for row in tokens.rows)
