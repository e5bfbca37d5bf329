"""Commands around the stages: new models, runs that are ended, export, memory."""

import re
from dataclasses import MISSING, dataclass
from typing import ClassVar

from easyrlhf.config.base import DATA, RUN, Settings, opt, restate
from easyrlhf.config.common_fields import IncompleteModels, RemoteCode
from easyrlhf.config.reporting import Hub, check_hub, push_to_hub
from easyrlhf.config.reward_models import check_one_device
from easyrlhf.errors import SettingError

MACHINE = re.compile(r"(?:(?P<count>[1-9]\d*)x|cpu:)?(?P<memory>\d+(?:\.\d+)?)(?:GB|GiB)|cpu|\d+", re.IGNORECASE)
SHARD_SIZE = re.compile(r"[1-9]\d*(KB|MB|GB)")


@dataclass(kw_only=True, frozen=True)
class NewModel(Settings):
    """What a new model is made of, and where it goes."""

    group: ClassVar[str] = DATA

    train_data: str = opt(
        MISSING,
        "Texts to learn the tokenizer's vocabulary from: the files that sft_train will read.",
        metavar="FILE[,…]",
        many=True,
    )
    output_dir: str = opt("outputs/init", "Folder for the new model.", metavar="DIR")
    preset: str = opt(
        "tiny",
        "Size: tiny (2 layers, below a million weights) learns the toy world in a minute on CPU; "
        "small is for real text.",
        choices=("tiny", "small"),
    )
    vocab_size: int | None = opt(
        None,
        "Tokens in the vocabulary; a small one suits a small model.",
        low=300,
        shown="the preset's",
    )
    chat_template: str = opt(
        "chatml",
        "Template that marks the turns: chatml, hh, llama3 or a Jinja file.",
        metavar="NAME|FILE",
    )


@dataclass(kw_only=True, frozen=True)
class InitConfig(NewModel):
    """Settings of `easyrlhf init`: a tokenizer and a small random model, without a download."""

    stage: ClassVar[str] = "init"
    opening: ClassVar[str] = "reading {self.train_data} …"
    group: ClassVar[str] = RUN

    seed: int = opt(42, "Seed of the random weights.", low=0, below=2**32)
    overwrite: bool = opt(False, "Replace what is in output_dir.")


@dataclass(kw_only=True, frozen=True)
class StoppedRun(Settings):
    """The run, and the step where it is ended."""

    group: ClassVar[str] = DATA

    run: str = opt(MISSING, "The folder of a run that has stopped or failed.", metavar="DIR")
    step: int | None = opt(
        None,
        "The step whose weights the model gets; those of a checkpoint.",
        low=1,
        shown="that of the newest checkpoint; with keep_best, the best one up to it",
    )


@dataclass(kw_only=True, frozen=True)
class FinishConfig(StoppedRun):
    """Settings of `easyrlhf finish`: a run that has stopped is ended where it is, with a complete model."""

    stage: ClassVar[str] = "finish"
    opening: ClassVar[str] = "reading {self.run} …"
    group: ClassVar[str] = RUN

    devices: str | None = opt(
        None,
        "Where to compute: one GPU index such as 0, cpu, or mps, an Apple GPU.",
        metavar="N|cpu|mps",
        shown="the first GPU, else cpu",
    )

    def _check(self) -> None:
        check_one_device(self.devices)


@dataclass(kw_only=True, frozen=True)
class ExportedModel(Settings):
    """What is exported, in which form and to where."""

    group: ClassVar[str] = DATA

    model: str = opt(
        MISSING,
        "The model to export: a folder of a stage, one of its checkpoints, or an adapter folder of peft.",
        metavar="DIR",
        model=True,
    )
    step: int | None = opt(
        None,
        "The step of the run whose weights are exported; those of a checkpoint, whether the run goes on or has ended.",
        low=1,
        shown="the model's end",
    )
    to: str = opt(
        "full",
        "The form: full is one causal language model, adapters merged; sequence_classification is a reward model as "
        "AutoModelForSequenceClassification with one label.",
        choices=("full", "sequence_classification"),
    )
    output_dir: str | None = opt(
        None, "Folder for the exported model.", metavar="DIR", shown="with step, model-step-N beside it"
    )
    max_shard_size: str = opt("5GB", "Largest weight file, as 5GB or 500MB; a larger model is split.", metavar="SIZE")
    precision: str = opt(
        "auto",
        "Number format of the weights: auto keeps that of the model; heads stay float32.",
        choices=("auto", "float32", "bf16"),
    )


@dataclass(kw_only=True, frozen=True)
class WriteOver(Settings):
    """Whether files that are there may be written over."""

    group: ClassVar[str] = RUN

    overwrite: bool = opt(False, "Write into output_dir although it is not empty.")


@dataclass(kw_only=True, frozen=True)
class ExportConfig(Hub, RemoteCode, IncompleteModels, WriteOver, ExportedModel):
    """Settings of `easyrlhf export`: a model in the form that other programs read."""

    stage: ClassVar[str] = "export"
    opening: ClassVar[str] = "loading {self.model} …"

    allow_incomplete: bool = restate(
        IncompleteModels, "allow_incomplete", "Export a model whose own run did not finish."
    )
    push_to_hub: str | None = push_to_hub("Upload output_dir, once it is written,")

    @property
    def folder(self) -> str:
        """Where the model goes."""
        return self.output_dir or f"{self.model.rstrip('/')}-step-{self.step}"

    def _check(self) -> None:
        check_hub(self.push_to_hub, self.hub_private)
        if self.output_dir is None and self.step is None:
            raise SettingError("output_dir", "output_dir: give the folder for the exported model")
        if not SHARD_SIZE.fullmatch(self.max_shard_size):
            raise SettingError(
                "max_shard_size", f"max_shard_size {self.max_shard_size}: write a number with KB, MB or GB, such as 5GB"
            )


@dataclass(kw_only=True, frozen=True)
class FitConfig(Settings):
    """Settings of `easyrlhf fit` beside those of the stage whose memory it works out."""

    stage: ClassVar[str] = "fit"
    opening: ClassVar[str] = "working out the memory …"
    group: ClassVar[str] = RUN

    devices: str | None = opt(
        None,
        "Where the stage is to run: so many devices with so much memory each, such as 80GB or 8x80GB; a GPU index; "
        "cpu, with this machine's memory, or cpu:64GB.",
        metavar="NxMEMORY",
        shown="the first GPU, else cpu",
    )
    deepspeed: str = opt(
        "none",
        "What is split among the devices: zero2 gradients and optimiser, zero3 weights too; with _offload it lies in "
        "the host's memory.",
        choices=("none", "zero2", "zero3", "zero2_offload", "zero3_offload"),
    )

    def _check(self) -> None:
        if self.devices and not MACHINE.fullmatch(self.devices.replace(" ", "")):
            raise SettingError(
                "devices",
                f"devices {self.devices}: must look like 80GB, 8x80GB, cpu, cpu:64GB or be one GPU index such as 0",
            )
