"""docs/reward_models.md: its table is that of the code."""

import re
from pathlib import Path

from easyrlhf.report.rm_verdict import CHECKS

PAGE = (Path(__file__).parents[2] / "docs" / "reward_models.md").read_text()


def test_the_table_has_every_check_with_its_numbers():
    rows = PAGE.partition("| check |")[2].splitlines()[2 : 2 + len(CHECKS)]
    for row, check in zip(rows, CHECKS, strict=True):
        name, healthy, _, where = (cell.strip() for cell in row.strip("|").split("|"))
        assert name == check.good[0].lower() + check.good[1:]
        assert where.replace("`", "") == check.metric
        assert set(re.findall(r"\d[\d.e-]*", check.healthy)) <= set(re.findall(r"\d[\d.e-]*", healthy)) | {"0.01"}
