"""easyrlhf data check: all rows are read as a stage would, and every fault is counted; docs/checking_data.md."""

import os
from pathlib import Path

from easyrlhf.config import CheckConfig
from easyrlhf.data.formats import require_format
from easyrlhf.errors import InputError
from easyrlhf.tools.checking.findings import Finding, findings
from easyrlhf.tools.checking.page import console_lines, write_page
from easyrlhf.tools.checking.rows import STAGE_KINDS, read_split, sources_of


def check_data(config: CheckConfig) -> list[Finding]:
    """Check the data, print what was found, and write the page that `report` asks for; returns the findings.

    Raises InputError, once everything is printed and written, when a finding is an error; and at once for a file or
    a model that is not there.
    """
    if config.format is not None:
        require_format(config.format, STAGE_KINDS[config.stage])
    for spec in filter(None, (config.train_data, config.valid_data)):
        sources_of(config, spec)
    check_report(config.report)
    tokens = None
    if config.model:
        from easyrlhf.tools.checking.tokens import (
            TokenCheck,  # transformers: seconds that a check of files need not wait
        )

        tokens = TokenCheck(config)
        config = config.with_lengths(tokens.places)
    train = read_split("train", config.train_data, config, tokens)
    valid = read_split("valid", config.valid_data, config, tokens) if config.valid_data else None
    if tokens:
        tokens.check_template(train)
    found, splits = findings(config, train, valid), [split for split in (train, valid) if split]
    print("\n".join(console_lines(config, splits, found)))
    if config.report:
        print(write_page(config, splits, found))
    if errors := [one.check for one in found if one.severity == "error"]:
        raise InputError(f"{config.train_data}: not fit for {config.stage}: {', '.join(dict.fromkeys(errors))}")
    return found


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
