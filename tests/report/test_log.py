"""metrics.jsonl and samples.jsonl: exact numbers, safe resume, nothing undeclared."""

import json
import math

import pytest

from easyrlhf.report.log import MetricsLog, amend, read_rows


def written(folder, steps, last_step=0):
    """Log loss = step / 10 and one sample at each step."""
    log = MetricsLog(folder, last_step=last_step, report_to="none")
    for step in steps:
        log.log(step, {"loss": step / 10})
        log.samples(step, [{"prompt": "p", "completion": f"c{step}", "score": 1.0}])
    log.close()


def test_a_number_is_read_back_as_the_very_same_float(tmp_path):
    log = MetricsLog(tmp_path, report_to="none")
    log.log(1, {"loss": 0.1 + 0.2, "grad_norm": 1e-17})
    log.close()
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"step": 1, "loss": 0.30000000000000004, "grad_norm": 1e-17}\n'
    )


def test_a_row_is_on_disk_before_the_log_is_closed(tmp_path):
    log = MetricsLog(tmp_path, report_to="none")
    log.log(3, {"loss": 0.5})
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 3, "loss": 0.5}]
    log.close()


def test_what_is_not_finite_becomes_null_however_deep(tmp_path):
    log = MetricsLog(tmp_path, report_to="none")
    log.log(1, {"loss": math.nan, "grad_norm": -math.inf})
    log.samples(1, [{"prompt": "p", "rewards": {"a": [math.inf, 2.0]}}])
    log.close()
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": None, "grad_norm": None}]
    assert read_rows(tmp_path / "samples.jsonl")[0]["rewards"] == {"a": [None, 2.0]}


def test_an_undeclared_metric_is_refused_and_nothing_is_written(tmp_path):
    log = MetricsLog(tmp_path, report_to="none")
    with pytest.raises(KeyError, match="lossy"):
        log.log(1, {"loss": 0.5, "lossy": 1.0})
    log.close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_resuming_cuts_both_files_back_to_the_checkpoints_step(tmp_path):
    written(tmp_path, [1, 2, 3, 4])
    before = (tmp_path / "metrics.jsonl").read_bytes()
    written(tmp_path, [3, 4], last_step=2)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert [row["completion"] for row in read_rows(tmp_path / "samples.jsonl")] == [
        "c1",
        "c2",
        "c3",
        "c4",
    ]


def test_starting_anew_empties_both_files(tmp_path):
    written(tmp_path, [0, 1, 2])
    written(tmp_path, [])
    assert read_rows(tmp_path / "metrics.jsonl") == read_rows(tmp_path / "samples.jsonl") == []


def test_a_half_written_last_line_is_dropped_even_inside_a_character(tmp_path):
    written(tmp_path, [1, 2])
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 2, "note": "caf\xc3')
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2]
    written(tmp_path, [3], last_step=2)
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_numbers_come_into_the_row_of_their_step_and_leave_the_others_as_they_were(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step":1, "loss":0.50}\n{"step": 2, "loss": 0.25, "eval/loss": 9.0}\n{"step": 3, "lo')
    amend(file, 2, {"eval/loss": 0.125, "eval/rewards/margins": float("inf")})
    assert file.read_text() == (
        '{"step":1, "loss":0.50}\n{"step": 2, "loss": 0.25, "eval/loss": 0.125, "eval/rewards/margins": null}\n'
    )


def test_no_draft_of_the_cut_back_stays_behind(tmp_path):
    written(tmp_path, [1, 2])
    written(tmp_path, [], last_step=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "samples.jsonl"]


@pytest.mark.parametrize("text", ["line\u2028separator\u0085", "lone \ud800 surrogate", 'a "b"\n⏎ 日本'])
def test_any_text_survives_as_one_line(tmp_path, text):
    log = MetricsLog(tmp_path, report_to="none")
    log.samples(1, [{"prompt": text, "completion": ""}])
    log.close()
    assert (tmp_path / "samples.jsonl").read_text(encoding="utf-8").count("\n") == 1
    assert read_rows(tmp_path / "samples.jsonl")[0]["prompt"] == text


def test_rows_are_plain_json_for_other_tools(tmp_path):
    numpy = pytest.importorskip("numpy")
    log = MetricsLog(tmp_path, report_to="none")
    log.log(1, {"loss": numpy.float32(0.5), "episode": 128})
    log.close()
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail) == {"step": 1, "loss": 0.5, "episode": 128}
