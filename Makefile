.PHONY: help install test test-all style quality quickstart

help:           ## show this list
	@grep -E '^[a-z-]+: .*##' Makefile | sed 's/:.*## */:	/' | expand -t 14

install:        ## make .venv with everything in it
	scripts/venv.sh dev

test:           ## the quick tests
	scripts/test.sh

test-all:       ## all tests
	scripts/test.sh --all

style: install  ## rewrite the code in the house style
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

quality: install  ## fail when the code is not in the house style
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

quickstart:     ## SFT, reward model and PPO on toy data, with a report
	scripts/quickstart.sh
