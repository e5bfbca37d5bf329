"""Damaged data files of every kind: `easyrlhf data check` and the readers never raise anything but InputError,
and no row is lost without being counted."""

import contextlib
import gzip
import io
import json
import random
import re
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from easyrlhf.config import CheckConfig
from easyrlhf.data.kinds import KINDS, STAGE_KINDS
from easyrlhf.data.ledger import Ledger
from easyrlhf.data.reader import read_records
from easyrlhf.data.sources import open_sources
from easyrlhf.errors import InputError
from easyrlhf.tools.checking import token_check as check_tokens
from easyrlhf.tools.checking.check import print_check

SKY = [{"role": "user", "content": "The sky?"}]
BLUE = [{"role": "assistant", "content": "Blue, caf\u00e9 \U0001f98a."}]
RED = [{"role": "assistant", "content": "Red."}]
ROWS = [  # rows of many formats, each for its stage
    ("rm", {"prompt": SKY, "chosen": BLUE, "rejected": RED, "margin": 1.5}),
    ("rm", {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}),
    ("dpo", {"chosen": SKY + BLUE, "rejected": SKY + RED}),
    ("simpo", {"chosen": "The sky is blue", "rejected": "The sky is red"}),
    ("rm", {"messages": SKY + BLUE, "rejected_response": "Red."}),
    ("cpo", {"system": "Be brief.", "question": "The sky?", "chosen": "Blue.", "rejected": "Red."}),
    ("orpo", {"prompt": "The sky?", "chosen": SKY + BLUE, "rejected": SKY + RED}),
    ("rrhf", {"prompt": SKY, "completions": [BLUE, RED], "scores": [1, 2.5]}),
    ("rm", {"prompt": "a", "completions": ["b", "c", "d"], "ranks": [1, 2, 2]}),
    ("rrhf", {"instruction": "a", "completions": [{"response": x, "overall_score": ord(x)} for x in "bc"]}),
    ("kto", {"prompt": "The sky is", "completion": " blue", "label": True}),
    ("kto", {"prompt": SKY, "chosen": BLUE, "rejected": RED}),
    ("sft", {"messages": SKY + BLUE + SKY + RED}),
    ("sft", {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}),
    ("sft", {"instruction": "a", "input": "", "output": "b"}),
    ("sft", {"prompt": "The sky is", "completion": " blue"}),
    ("ppo", {"prompt": SKY, "answer": 3}),
    ("grpo", {"prompt": "2 + 3 =", "answer": "5"}),
]
KEYS = sorted({key for _, row in ROWS for key in row} | {"role", "content", "from", "value", "system"})
SUFFIXES = (".jsonl", ".jsonl", ".jsonl", ".jsonl.gz", ".json", ".parquet")
SPLINTERS = [
    b"\xff", b"\x00", b"\r", b"\r\n", b"\n", b"\n\n", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\\ud83d", b"\\u0000", b'"',
    b"{", b"}", b"[", b"]", b",", b"null", b"NaN", b"-1e999", b"[" * 3000, b"9" * 5000, b'{"prompt": ', b"<|im_end|>",
    b"\\n\\nHuman: ", b"user", b"assistant", b" ", b"\xc3", b"\xed\xa0\x80",
]  # fmt: skip


@pytest.fixture(autouse=True)
def known_renderer(monkeypatch, chatml_renderer):
    """The check renders with this tokenizer, whatever --model says."""
    monkeypatch.setattr(check_tokens, "load_renderer", lambda config: chatml_renderer)


def encoded(rows: list, suffix: str) -> bytes:
    """A whole data file."""
    if suffix == ".parquet":
        out = io.BytesIO()
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), out)
        return out.getvalue()
    if suffix == ".json":
        return json.dumps(rows, indent=1).encode()
    lines = b"".join(json.dumps(row, ensure_ascii=len(str(row)) % 2 == 0).encode() + b"\n" for row in rows)
    return gzip.compress(lines, mtime=0) if suffix.endswith(".gz") else lines


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, cut out, put in, doubled or moved."""
    broken = bytearray(data)
    for _ in range(rng.choice([0, 1, 1, 2, 3, 8])):
        start, size = rng.randrange(len(broken) + 1), rng.choice([1, 1, 2, 8, 40])
        match rng.randrange(6):
            case 0:
                broken[start : start + 1] = bytes([rng.randrange(256)])
            case 1:
                del broken[start : start + size]
            case 2 | 3:
                broken[start:start] = rng.choice(SPLINTERS)
            case 4:
                broken[start:start] = broken[start : start + size * 4]
            case 5:
                del broken[start:]
        if not broken:
            break
    return bytes(broken)


def balance_of(path: Path, stage: str, **settings) -> tuple[int, int, int, str]:
    """What the check says: rows read, usable, dropped, and all that it prints. Nothing but InputError may be raised."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(InputError):
        print_check(CheckConfig(train_data=str(path), stage=stage, max_length=48, max_prompt_length=40, **settings))
    found = re.search(r"train: ([\d,]+) rows read = ([\d,]+) usable \+ ([\d,]+) dropped", out.getvalue())
    if not found:
        assert path.stat().st_size == 0, out.getvalue()
        return 0, 0, 0, ""
    return *(int(number.replace(",", "")) for number in found.groups()), out.getvalue()


def lines_of(path: Path) -> int:
    """Rows of a .jsonl file by another count than the reader's."""
    data = path.read_bytes()
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
    return sum(bool(line.strip()) for line in data.split(b"\n"))


def check_one(path: Path, stage: str, number: int) -> None:
    """Through the check and the reader; the counts must add up, and agree."""
    how = {"model": "any"} if number % 3 == 0 else {}
    how |= {"report": str(path.parent / "report.html")} if number % 50 == 7 else {}
    how |= {"on_bad_row": "skip"} if number % 2 else {}
    read, usable, dropped, said = balance_of(path, stage, **how)
    assert read == usable + dropped
    whole = bool(said) and "unreadable_file" not in said and "cannot be read to their end" not in said
    if path.name.endswith(".jsonl") and whole:
        assert read == lines_of(path)
    if path.stat().st_size == 0:
        return
    ledger, used = Ledger("train", path.parent / "bad_rows.jsonl"), 0
    try:
        for source in open_sources(str(path)):
            for _ in read_records(source, STAGE_KINDS[stage], ledger, format=None, on_bad_row="skip"):
                used += 1
    except InputError:
        assert not whole
        assert ledger.read == read
    else:
        assert whole
        assert ledger.read == read == used + ledger.dropped.total()
        assert len(ledger.bad_rows.read_text().splitlines() if ledger.bad_rows.exists() else []) == read - used
    with contextlib.suppress(InputError):
        for source in open_sources(str(path)):
            kind = random.Random(number).choice(list(KINDS))
            list(read_records(source, kind, Ledger("t", path.parent / "b.jsonl"), format=None, on_bad_row="stop"))


def break_bytes(seed: int) -> None:
    """One file, damaged byte by byte."""
    rng = random.Random(seed)
    stage, row = rng.choice(ROWS)
    suffix = rng.choice(SUFFIXES)
    rows = [row] * rng.randint(1, 12) + [rng.choice(ROWS)[1] for _ in range(rng.choice([0, 0, 1]))]
    data = damaged(encoded(rows if suffix != ".parquet" else [row] * 5, suffix), rng)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"x{suffix}")
        path.write_bytes(data)
        check_one(path, stage, seed)


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["\ud800", "<|im_end|>", "\ufdd0", "\n\nAssistant:", "\n\nHuman: x", "user", "\x00", "\ufffd", " "]
    )
    | st.sampled_from([SKY, BLUE, [], "word " * 60]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner),
    max_leaves=4,
)


@st.composite
def odd_files(draw) -> tuple[str, list, int]:
    """A stage, rows of which some have keys replaced, taken away or added, and a number."""
    stage, good = draw(st.sampled_from(ROWS))
    changes = st.dictionaries(st.sampled_from([*good, *KEYS]), JUNK, max_size=2)
    gone = st.sets(st.sampled_from([*good]), max_size=1)
    odd = st.builds(lambda c, g: {k: v for k, v in {**good, **c}.items() if k not in g}, changes, gone) | JUNK
    rows = [good] * draw(st.sampled_from([0, 3, 9])) + draw(st.lists(odd, max_size=4))
    return draw(st.sampled_from(STAGES_FOR[stage])), draw(st.permutations(rows)), draw(st.integers(0, 999))


STAGES_FOR = {stage: (stage, stage, stage, "ppo", "rm", "sft") for stage in STAGE_KINDS}


def break_rows(examples: int):
    """A test of so many files with odd rows."""

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(odd_files())
    def run(file) -> None:
        stage, rows, number = file
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "x.jsonl" if number % 4 else "x.json")
            if path.suffix == ".json":
                path.write_text(json.dumps(rows))
            else:
                path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            check_one(path, stage, number)

    return run


def test_150_files_with_damaged_bytes():
    for seed in range(150):
        break_bytes(seed)


def test_150_files_with_odd_rows():
    break_rows(150)()


@pytest.mark.slow
def test_1000_files_with_damaged_bytes():
    for seed in range(1000):
        break_bytes(seed)


@pytest.mark.slow
def test_1000_files_with_odd_rows():
    break_rows(1000)()
