"""Fixtures for every room: a tokenizer and random two-layer models, both made here, so that no test downloads."""

import gc
import json
import os
from collections.abc import Callable
from html import escape
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # models this small only lose time to threads
os.environ.pop("COLUMNS", None)  # lines are as long as they are, wherever the tests are started

import pytest
from hypothesis import settings

settings.register_profile("easyrlhf", derandomize=True, database=None)  # the same examples in every run
settings.load_profile("easyrlhf")

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SENTENCES = [
    "Name a colour. The sky is blue, the grass is green.",
    "Please tell me, in two sentences, why the sky looks blue. Hello user assistant system",
]


DEALT = ("tests/mutations/test_breaks.py",)  # files of many slow tests that share little: any worker takes the next one


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first, those of DEALT last: a long one at the end would keep one worker busy while others wait."""

    def turn(item: pytest.Item) -> int:
        if item.nodeid.startswith(DEALT):
            return 2
        return 0 if item.get_closest_marker("slow") or item.get_closest_marker("real") else 1

    items.sort(key=turn)


def pytest_collection_finish() -> None:
    """What is imported by now outlives the tests: no garbage collection has to walk through it again."""
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """With --dist loadfile one file goes to one worker, except the files of DEALT, which go test by test."""
    from xdist.scheduler import LoadFileScheduling

    if config.getoption("dist") != "loadfile":
        return None

    class FilesAndDealt(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if nodeid.startswith(DEALT) else super()._split_scope(nodeid)

    return FilesAndDealt(config, log)


def blank_png(_, path: Path) -> Path:
    """A file where the picture of a chart would be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    return path


@pytest.fixture(scope="session", autouse=True)
def drawing():
    """How a chart is drawn. Here it stays blank: to draw takes most of the time of runs as short as the tests'."""
    from easyrlhf.report.charts import Chart

    drawn = {"png": Chart.png, "svg": Chart.svg}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Chart, "png", blank_png)
        patch.setattr(Chart, "svg", lambda chart: f'<svg role="img" aria-label="{escape(chart.title)}"></svg>')
        yield drawn


@pytest.fixture(scope="module")
def pictures(drawing):
    """Charts are drawn, for the tests of a file that looks at them."""
    from easyrlhf.report.charts import Chart

    with pytest.MonkeyPatch.context() as patch:
        for name, method in drawing.items():
            patch.setattr(Chart, name, method)
        yield


def build_tokenizer(vocab_size: int, eos: str = "<|im_end|>"):
    """A byte-level BPE tokenizer with the ChatML template; pad and end-of-turn are tokens of their own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(SENTENCES, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=eos, pad_token="<|pad|>")
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    """A ChatML tokenizer: <|pad|> is 0, <|im_start|> 1, <|im_end|> (end of turn) 2."""
    return build_tokenizer(280)


@pytest.fixture(scope="session")
def chatml_renderer(tokenizer):
    """The renderer of the ChatML tokenizer."""
    from easyrlhf.data.render import Renderer

    return Renderer(tokenizer)


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
WIDE = {"intermediate_size": 64, "num_key_value_heads": 2, "initializer_range": 0.3}


def family_config(family: str, vocab: int, **changed):
    """The configuration of a tiny model of a family; weights wide enough for uneven distributions."""
    import transformers as hf

    small, wide = SMALL | {"vocab_size": vocab}, SMALL | WIDE | {"vocab_size": vocab}
    makers = {
        "llama": lambda: (hf.LlamaConfig, wide | {"tie_word_embeddings": False}),
        "llama-tied": lambda: (hf.LlamaConfig, wide | {"tie_word_embeddings": True}),
        "qwen2": lambda: (hf.Qwen2Config, wide | {"tie_word_embeddings": False}),
        "mistral": lambda: (hf.MistralConfig, wide | {"tie_word_embeddings": False, "sliding_window": 4}),
        "gpt2": lambda: (
            hf.GPT2Config,
            {
                "n_embd": 32,
                "n_layer": 2,
                "n_head": 4,
                "n_positions": 128,
                "initializer_range": 0.3,
                "vocab_size": vocab,
            },
        ),
        "gpt-neox": lambda: (
            hf.GPTNeoXConfig,
            small | {"intermediate_size": 64, "initializer_range": 0.3, "tie_word_embeddings": False},
        ),
        "opt": lambda: (
            hf.OPTConfig,
            small | {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.3},
        ),
        "bloom": lambda: (
            hf.BloomConfig,
            {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3, "vocab_size": vocab},
        ),
        "falcon": lambda: (
            hf.FalconConfig,
            {
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "initializer_range": 0.3,
                "vocab_size": vocab,
            },
        ),
        "starcoder": lambda: (
            hf.GPTBigCodeConfig,
            {
                "n_embd": 32,
                "n_layer": 2,
                "n_head": 4,
                "n_positions": 128,
                "initializer_range": 0.3,
                "vocab_size": vocab,
            },
        ),
        "gemma2": lambda: (
            hf.Gemma2Config,
            wide | {"head_dim": 8, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
        ),
        "cohere": lambda: (hf.CohereConfig, wide | {"logit_scale": 0.25}),
        "granite": lambda: (hf.GraniteConfig, wide | {"logits_scaling": 4.0}),
        "falcon-h1": lambda: (
            hf.FalconH1Config,
            wide
            | {
                "lm_head_multiplier": 0.25,
                "mamba_d_ssm": 32,
                "mamba_n_heads": 4,
                "mamba_d_head": 8,
                "mamba_d_state": 8,
            },
        ),
    }
    maker, settings = makers[family]()
    return maker(**settings | {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 2} | changed)


@pytest.fixture(scope="session")
def tiny_lm() -> Callable:
    """tiny_lm(family="llama", seed=0, vocab=50, dtype=torch.float32, **config) -> a random model, in eval mode."""
    import torch
    from transformers import AutoModelForCausalLM

    def make(family="llama", seed=0, vocab=50, dtype=torch.float32, **changed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            lm = AutoModelForCausalLM.from_config(family_config(family, vocab, **changed))
            for parameter in lm.parameters():  # zero biases and unit norms would hide mistakes
                if parameter.ndim < 2:
                    parameter.data += 0.1 * torch.randn_like(parameter)
        return lm.to(dtype).eval()

    return make


@pytest.fixture(scope="session")
def prompt_row() -> Callable:
    """prompt_row(prompt_ids, prompt="…", **columns) -> a prompt row as load_tokens gives it."""

    def make(prompt_ids: list[int], prompt="Name a colour.", **columns):
        return {
            "prompt_ids": prompt_ids,
            "prompt": json.dumps(prompt),
            "columns": json.dumps(columns),
            "length": len(prompt_ids),
        }

    return make


@pytest.fixture
def model_folder(tmp_path, tiny_lm, tokenizer) -> Callable:
    """model_folder(name="model", **tiny_lm's) -> folder of a tiny model that fits the ChatML tokenizer."""

    def make(name="model", vocab=None, **how) -> Path:
        folder = tmp_path / name
        tiny_lm(vocab=vocab or len(tokenizer), **how).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make
