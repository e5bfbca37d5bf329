"""One process of a run, as launch.py starts it: `python -m easyrlhf.launched MODULE:FUNCTION CONFIG SETTINGS.yaml`."""

import sys

import easyrlhf.config
from easyrlhf.cli.options import build_config
from easyrlhf.cli.running import job, run_and_exit


def main() -> None:
    """Read the settings, run the stage, leave with its exit code."""
    target, name, settings = sys.argv[1:]
    config = build_config(getattr(easyrlhf.config, name), settings, {}, "easyrlhf")
    run_and_exit(lambda: job(target, config))


if __name__ == "__main__":
    main()
