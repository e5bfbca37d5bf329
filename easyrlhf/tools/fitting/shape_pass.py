"""Memory of a model's passes: the program's own code runs on tensors that have shapes but no numbers.

Nothing is loaded or computed. Live bytes are counted as operations make tensors and the code drops them. A deep model
is run at two small depths: every layer more adds the same.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import DynamicCache

from easyrlhf.engine.plain import master_of
from easyrlhf.errors import InputError
from easyrlhf.models import logprobs
from easyrlhf.models.features import completion_features, layers_at
from easyrlhf.models.load import load_config
from easyrlhf.models.parts import plain_lm
from easyrlhf.models.prefix_sharing import SHARING, TREES, PromptGroup
from easyrlhf.models.value_head import ScalarModel, new_head
from easyrlhf.rollout.decode_batch import prefill_tokens
from easyrlhf.rollout.inverse_cdf import draw_tokens
from easyrlhf.tools.fitting.live_bytes import LiveBytes
from easyrlhf.tools.fitting.memory import ACTIVATIONS, KV_CACHE, LOGITS, Bytes
from easyrlhf.tools.fitting.model_shape import ModelShape, as_on_cpu, make_model, tensors_of

CPU = torch.device("cpu")
DEPTHS = (0.25, 0.5, 0.75)  # of features; all layers' states are held, whichever are read
SHALLOW = (2, 3)  # layers of the two models that stand for a deeper one
SHAPES = FakeTensorMode(allow_non_fake_inputs=True)
logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)  # deep_peak says what went wrong


@dataclass(frozen=True)
class ShapeBatch:
    """A micro-batch: prompts with so many completions each, all prompts of one length and all completions of one.

    share  "on" where a prompt is computed once for its completions, TREES where the prompts are beginnings of one text
           that is; else "off"
    """

    prompts: int
    prompt_tokens: int
    completion_tokens: int
    completions: int = 1
    share: str = "off"

    @property
    def tokens(self) -> int:
        """Of the pass."""
        if self.share == TREES:
            return self.prompt_tokens + self.prompts * self.completions * self.completion_tokens
        alone = self.completions if self.share == "off" else 1
        return self.prompts * (alone * self.prompt_tokens + self.completions * self.completion_tokens)

    @property
    def groups(self) -> list[PromptGroup]:
        """As the program's own code takes it."""
        completions = [[0] * self.completion_tokens] * self.completions
        return [([0] * self.prompt_tokens, completions)] * self.prompts


@lru_cache(maxsize=256)
def update_peak(shape: ModelShape, batch: ShapeBatch, reads: str, device: str) -> Bytes:
    """Peak bytes of a micro-batch's forward and backward pass, beside weights and gradients.

    reads   what is read off the hidden states: logprobs, scores or values
    device  cpu or cuda, whose logits are computed in larger chunks
    """

    def run(lm: nn.Module) -> list[Counter]:
        model = prepared(lm.train(), batch, reads)
        masters = [master_of(parameter) for parameter in model.parameters() if parameter.requires_grad]
        for master in masters:
            master.grad = torch.empty_like(master)  # of the micro-batch before
        held = [*tensors_of(model), *masters, *(master.grad for master in masters)]
        with LiveBytes(held, embedding_rows(lm)) as live:

            def mark(module: nn.Module, ids: tuple, states: Tensor) -> None:
                """Begin a section when the backward pass has come down to the embedding."""
                if states.requires_grad:
                    states.register_hook(lambda grad: live.begin())

            plain_lm(lm).get_input_embeddings().register_forward_hook(mark)
            READERS[reads](model, batch).sum().backward()
        return live.peaks

    return deep_peak(shape, run, device)


@lru_cache(maxsize=256)
def scoring_peak(shape: ModelShape, batch: ShapeBatch, reads: str, device: str) -> Bytes:
    """Peak bytes of a micro-batch's forward pass without gradient, beside weights.

    reads  as update_peak's, entropies or features
    """

    @torch.no_grad()
    def run(lm: nn.Module) -> list[Counter]:
        model = prepared(lm.eval(), batch, reads)
        with LiveBytes(tensors_of(model), embedding_rows(lm)) as live:
            READERS[reads](model, batch)
        return live.peaks

    return deep_peak(shape, run, device)


@lru_cache(maxsize=256)
def decoding_peak(
    shape: ModelShape, rows: int, prompt_tokens: int, completion_tokens: int, device: str = "cpu"
) -> Bytes:
    """Peak bytes of sampling `rows` completions together, beside weights: at their prompts or at their last token.

    On a GPU, which decodes many, so many prompts are read at a time as a pass takes; on a CPU all are counted.
    """
    read = min(rows, max(1, prefill_tokens(device) // prompt_tokens)) if device == "cuda" else rows

    @torch.no_grad()
    def run(lm: nn.Module) -> list[Counter]:
        lm = lm.eval()
        with LiveBytes(tensors_of(lm), embedding_rows(lm)) as live:
            first = decode(lm, DynamicCache(), read, prompt_tokens)
            live.begin()
            filled = DynamicCache()
            decode(lm, filled, rows, max(1, prompt_tokens + completion_tokens - 2))  # the last token is not taken in
            live.begin()
            last = decode(lm, filled, rows, 1)
        return [with_cache(live.peaks[0], first), with_cache(live.peaks[2], last)]

    return deep_peak(shape, run, "cpu")


def deep_peak(shape: ModelShape, run: Callable[[nn.Module], list[Counter]], device: str) -> Bytes:
    """The largest of the peaks that `run` finds in the sections of its pass, for the model in its full depth.

    Raises InputError for a model whose passes depend on the numbers in its tensors, or need a device of their own.
    """
    layers = load_config(shape.path, trust_remote_code=shape.trust_remote_code).get_text_config().num_hidden_layers
    depths = SHALLOW if layers > SHALLOW[-1] else (layers,)
    try:
        with chunks_of(device), SHAPES:
            found = [run(as_on_cpu(make_model(shape, depth))) for depth in depths]
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{shape.path}: its passes cannot run on shapes alone ({reason}), so their memory is not known beforehand; "
            "try the stage itself with --max_steps 2"
        ) from error
    peaks = [extrapolated(found[0][number], found[-1][number], depths, layers) for number in range(len(found[0]))]
    return max(peaks, key=lambda peak: sum(peak.values()))


def extrapolated(low: Counter, high: Counter, depths: tuple[int, ...], layers: int) -> Bytes:
    """Bytes at this many layers, from those at two depths."""
    more = (layers - depths[-1]) / max(1, depths[-1] - depths[0])
    return {kind: high[kind] + more * (high[kind] - low[kind]) for kind in (ACTIVATIONS, LOGITS, KV_CACHE)}


@contextmanager
def chunks_of(device: str) -> Iterator[None]:
    """Let logits be computed in the chunks of this device: tensors without numbers are all on the CPU."""
    budgets = logprobs.LOGITS_BYTES
    usual, budgets["cpu"] = budgets["cpu"], budgets[device]
    try:
        yield
    finally:
        budgets["cpu"] = usual


# --- what a pass reads off a model


def prepared(lm: nn.Module, batch: ShapeBatch, reads: str) -> nn.Module:
    """The model as a stage has it for such batches, and as a ScalarModel where a head reads it."""
    if batch.share != "off":
        plain_lm(lm).set_attn_implementation(SHARING)
    if reads not in ("scores", "values"):
        return lm
    return ScalarModel(lm, new_head(lm))


def embedding_rows(lm: nn.Module) -> int:
    """Rows of the embedding."""
    return plain_lm(lm).get_input_embeddings().weight.shape[0]


def read_logprobs(lm: nn.Module, batch: ShapeBatch) -> Tensor:
    """Log-probabilities of completions."""
    return logprobs.sequence_logprobs(lm, batch.groups, batch.share)


def read_entropies(lm: nn.Module, batch: ShapeBatch) -> Tensor:
    """Log-probabilities and entropies of completion tokens."""
    return logprobs.token_logprobs_and_entropies(lm, batch.groups, batch.share)[0]


def read_scores(model: ScalarModel, batch: ShapeBatch) -> Tensor:
    """Scores of completions."""
    return model.completion_scores(batch.groups, batch.share)


def read_values(model: ScalarModel, batch: ShapeBatch) -> Tensor:
    """Values of the states that completion tokens were chosen in."""
    return model.completion_values(batch.groups, batch.share)


def read_features(lm: nn.Module, batch: ShapeBatch) -> Tensor:
    """Features of completions."""
    rows = [(prompt, ids) for prompt, own in batch.groups for ids in own]
    return completion_features(lm, rows, layers_at(lm, DEPTHS), "last", batch.share)


READERS = {
    "logprobs": read_logprobs,
    "entropies": read_entropies,
    "scores": read_scores,
    "values": read_values,
    "features": read_features,
}


def decode(lm: nn.Module, cached: DynamicCache, rows: int, tokens: int) -> DynamicCache:
    """Take so many tokens of every row in and draw the next one, as the sampler does; returns the cache."""
    before = cached.get_seq_length()
    logits = lm(
        input_ids=torch.zeros(rows, tokens, dtype=torch.long),
        attention_mask=torch.ones(rows, before + tokens, dtype=torch.long),
        position_ids=torch.zeros(rows, tokens, dtype=torch.long),
        past_key_values=cached,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    draw_tokens(logits.float(), torch.zeros(rows, dtype=torch.float64), 1.0)
    return cached


def with_cache(peak: Counter, cached: DynamicCache) -> Counter:
    """The peak with the bytes of the KV cache by themselves."""
    size = sum(part.untyped_storage().nbytes() for layer in cached.layers for part in (layer.keys, layer.values))
    return peak + Counter({KV_CACHE: size}) - Counter({ACTIVATIONS: size})
