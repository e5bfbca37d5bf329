"""easyrlhf data check: all rows are read as a stage would, and every fault is counted; docs/checking_data.md."""

import os
from pathlib import Path
from typing import Any

from easyrlhf.config import CheckConfig
from easyrlhf.data.formats import require_format
from easyrlhf.data.kinds import STAGE_KINDS
from easyrlhf.errors import InputError
from easyrlhf.tools.checking.page import console_lines, write_check_page
from easyrlhf.tools.checking.row_findings import RowFinding, findings
from easyrlhf.tools.checking.rows import Split, read_split, sources_of


def check_data(files: Any, **settings: Any) -> list[RowFinding]:
    """Check data as `easyrlhf data check` does; prints nothing and returns all findings, errors first.

    files     a file, folder or hub id, a comma list or a list of them
    settings  those of the command: stage, which is to learn from the rows (sft, rm, ppo…), valid_data, model, field…
    Raises InputError for a file or a model that is not there, and SettingError for a setting; what is wrong with rows
    is a finding.
    """
    return examined(CheckConfig(train_data=files, **settings))[2]


def print_check(config: CheckConfig) -> list[RowFinding]:
    """Check the data, print what was found, and write the page that `report` asks for; returns the findings.

    Raises InputError, once everything is printed and written, when a finding is an error; and at once for a file or
    a model that is not there.
    """
    config, splits, found = examined(config)
    print("\n".join(console_lines(config, splits, found)))
    if config.report:
        print(write_check_page(config, splits, found))
    if errors := [one.check for one in found if one.severity == "error"]:
        raise InputError(f"{config.train_data}: not fit for {config.stage}: {', '.join(dict.fromkeys(errors))}")
    return found


def examined(config: CheckConfig) -> tuple[CheckConfig, list[Split], list[RowFinding]]:
    """The settings with their lengths filled in, what was read, and what was found. Raises InputError."""
    if config.format is not None:
        require_format(config.format, STAGE_KINDS[config.stage])
    for spec in filter(None, (config.train_data, config.valid_data)):
        sources_of(config, spec)
    check_report(config.report)
    tokens = None
    if config.model:
        from easyrlhf.tools.checking.token_check import (
            TokenCheck,  # transformers: seconds that a check of files need not wait
        )

        tokens = TokenCheck(config)
        config = config.with_lengths(tokens.places)
    train = read_split("train", config.train_data, config, tokens)
    valid = read_split("valid", config.valid_data, config, tokens) if config.valid_data else None
    if tokens:
        tokens.check_template(train)
    return config, [split for split in (train, valid) if split], findings(config, train, valid)


def check_report(report: str | None) -> None:
    """Raise InputError when the page could not be written there, before hours of reading."""
    if report is None:
        return
    if os.path.isdir(report):
        raise InputError(
            f"--report {report}: is a folder; give the name of a file, such as {Path(report, 'check.html')}"
        )
    if not os.path.isdir(Path(report).parent):
        raise InputError(f"--report {report}: there is no folder {Path(report).parent}")
