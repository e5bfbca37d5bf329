"""The rows of a stage, read from its files as tokens."""

from datasets import Dataset

from easyrlhf.data.ledger import DataSummary
from easyrlhf.data.reader import RowSettings
from easyrlhf.data.render import Renderer
from easyrlhf.data.splitting import Part, hold_out
from easyrlhf.data.tokens import DataSettings, TokenData, dropping, load_tokens
from easyrlhf.engine import processes
from easyrlhf.models.load import positions_of
from easyrlhf.run.run import Run


def read_sets(run: Run, renderer: Renderer, kind: str) -> dict[str, TokenData | None]:
    """The training rows, `train`, and the held-out rows, `valid`: from files of their own, or out of the same ones."""
    config, parts = run.config, {}
    if config.valid_split:
        reading = RowSettings.of(config)
        held_out = processes.on_main(
            lambda: hold_out(reading.open(config.train_data), kind, config.valid_split, config.seed, reading)
        )
        parts = {"train": Part(held_out, validation=False), "valid": Part(held_out, validation=True)}
    sources = {"train": config.train_data, "valid": config.train_data if parts else config.valid_data}
    return {name: read_data(run, renderer, kind, source, name, parts.get(name)) for name, source in sources.items()}


def read_data(
    run: Run, renderer: Renderer, kind: str, source: str | None, name: str, part: Part | None = None
) -> TokenData | None:
    """Tokenise one of the run's data settings, or a part of it; None when it is not given. Raises InputError."""
    if source is None:
        return None
    config = run.config

    def read() -> DataSummary:
        settings = DataSettings.of(
            config,
            max_length=config.max_length,
            max_prompt_length=config.max_prompt_length,
            **dropping(config.overlength),
            cache_dir=run.cache,
            name=name,
            bad_rows=run.folder / "bad_rows.jsonl",
            places=positions_of(config.model, trust_remote_code=config.trust_remote_code),
            seed=config.seed,
            part=part,
        )
        return load_tokens(source, kind, renderer, settings).summary

    summary = processes.on_main(read)
    return TokenData(Dataset.from_file(str(run.cache / f"{name}.arrow")), summary)
