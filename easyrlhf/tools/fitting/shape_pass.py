"""Memory of a model's passes: the program's own code runs on tensors that have shapes but no numbers.

Nothing is loaded or computed. Live bytes are counted as operations make tensors and the code drops them. A deep model
is run at two small depths: every layer more adds the same.
"""

import logging
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, DynamicCache, PreTrainedConfig

from easyrlhf.config.base import split_list
from easyrlhf.engine.engine import master_of
from easyrlhf.errors import InputError
from easyrlhf.models import logprobs
from easyrlhf.models.adapters import quietly
from easyrlhf.models.load import disable_dropout, load_config
from easyrlhf.models.lora import LoraSettings, add_lora
from easyrlhf.models.parts import backbone, plain_lm
from easyrlhf.models.prefix_sharing import SHARING, PromptGroup
from easyrlhf.models.value_head import ScalarModel, new_head
from easyrlhf.rollout.inverse_cdf import draw_tokens
from easyrlhf.rollout.onednn_linear import blockable
from easyrlhf.tools.fitting.memory import ACTIVATIONS, KV_CACHE, LOGITS, Bytes, Held
from easyrlhf.tools.fitting.packed import pack

CPU = torch.device("cpu")
SHALLOW = (2, 3)  # layers of the two models that stand for a deeper one
TRAINED, TRAINED_SCORER, FROZEN, SCORER = "trained", "trained scorer", "frozen", "scorer"  # what count_held is asked of
SHAPES = FakeTensorMode(allow_non_fake_inputs=True)
logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)  # deep_peak says what went wrong


@dataclass(frozen=True)
class ModelShape:
    """What decides the memory that a model and its passes take.

    path        folder or hub id that has a config.json
    dtype       of its weights; adapters are float32
    classifier  a sequence classifier, which has no language-model head
    lora_r      rank of its adapter; 0 for none
    four_bit    whether its linear layers are in 4 bits, but for modules_to_save
    """

    path: str
    dtype: torch.dtype
    classifier: bool = False
    lora_r: int = 0
    lora_target: str = "all-linear"
    lora_dropout: float = 0.0
    modules_to_save: str | None = None
    four_bit: bool = False
    dropout: bool = False
    gradient_checkpointing: bool = False
    attn_implementation: str | None = None
    trust_remote_code: bool = False


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of live tensors by kind, beyond those of `held`, and remembers the peak of every section.

    A mask, whose numbers are not known, is taken to count all of its entries: rows of one length have no padding.
    """

    def __init__(self, held: list[Tensor], vocabulary: int):
        super().__init__()
        self.vocabulary = vocabulary
        self.seen = {tensor.untyped_storage()._cdata for tensor in held}
        self.now, self.peaks = Counter(), [Counter()]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run the operation and note the storages of what it gives."""
        if func is torch.ops.prim.device.default:
            return func(*args)
        if func is torch.ops.aten._local_scalar_dense.default:
            return False if args[0].dtype == torch.bool else 1.0
        if func is torch.ops.aten.index.Tensor:
            args = (args[0], [place for index in args[1] for place in indices_of(index)])
        result = func(*args, **(kwargs or {}))
        for item in tree_iter(result):
            if isinstance(item, Tensor):
                self.note(item)
        return result

    def note(self, tensor: Tensor) -> None:
        """Count the tensor's storage once, until it is freed."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen or not size:
            return
        kind = LOGITS if tensor.ndim and tensor.shape[-1] == self.vocabulary else ACTIVATIONS
        self.seen.add(key)
        self.now[kind] += size
        if self.now.total() > self.peaks[-1].total():
            self.peaks[-1] = Counter(self.now)
        weakref.finalize(storage, self.forget, key, kind, size)

    def forget(self, key: int, kind: str, size: int) -> None:
        """Take a freed storage off the count."""
        self.seen.discard(key)
        self.now[kind] -= size

    def begin(self) -> None:
        """Begin a new section, whose peak is its own."""
        self.peaks.append(Counter(self.now))


def indices_of(index: Tensor | None) -> list[Tensor | None]:
    """The index itself; in place of a mask, the places of all of its entries."""
    if index is None or index.dtype != torch.bool:
        return [index]
    return [torch.empty(index.numel(), dtype=torch.long) for _ in range(index.ndim)]


# --- models


def make_model(shape: ModelShape, depth: int = 0) -> nn.Module:
    """The model on the meta device, with its first `depth` layers (0: all)."""
    config = load_config(shape.path, trust_remote_code=shape.trust_remote_code)
    if depth:
        cut_config(config.get_text_config(), depth)
    maker = AutoModelForSequenceClassification if shape.classifier else AutoModelForCausalLM
    attention = shape.attn_implementation
    if attention and attention not in ("eager", "sdpa"):
        attention = "sdpa"  # other kernels keep as much as sdpa does, and need not be installed here
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the stage gives them
        lm = maker.from_config(
            config, dtype=shape.dtype, attn_implementation=attention, trust_remote_code=shape.trust_remote_code
        )
        if not shape.dropout:
            disable_dropout(lm)
        if shape.gradient_checkpointing:
            with quietly():  # newer transformers call it activation_checkpointing_enable
                lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if shape.four_bit:
            pack(lm, split_list(shape.modules_to_save))
        if shape.lora_r:
            settings = LoraSettings(
                r=shape.lora_r,
                alpha=32,
                dropout=shape.lora_dropout,
                target=shape.lora_target,
                modules_to_save=shape.modules_to_save,
            )
            lm = add_lora(lm, settings)
    return lm


def cut_config(config: PreTrainedConfig, depth: int) -> None:
    """Leave a configuration its first layers, and of its lists with an entry per layer the first entries."""
    layers = config.num_hidden_layers
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == layers:
            setattr(config, name, value[:depth])
    config.num_hidden_layers = depth


def as_on_cpu(model: nn.Module) -> nn.Module:
    """The model with tensors that pass for the CPU's in place of those of the meta device; tied ones stay tied."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None and id(tensor) not in made:
                    made[id(tensor)] = torch.empty(tensor.shape, dtype=tensor.dtype)
                    if isinstance(tensor, nn.Parameter):
                        made[id(tensor)] = nn.Parameter(made[id(tensor)], requires_grad=tensor.requires_grad)
                table[name] = None if tensor is None else made[id(tensor)]
    return model


def layers_of(lm: nn.Module) -> nn.ModuleList:
    """The layers of a language model, one after another; none where they are kept in another way."""
    count = plain_lm(lm).config.get_text_config().num_hidden_layers
    lists = (part for part in backbone(lm).modules() if isinstance(part, nn.ModuleList))
    return next((part for part in lists if len(part) == count), nn.ModuleList())


def tensors_of(*models: nn.Module) -> list[Tensor]:
    """Weights and buffers."""
    return [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]


@lru_cache(maxsize=64)
def count_held(shape: ModelShape, role: str) -> Held:
    """What the model takes however it is used. Raises InputError when it cannot be read.

    role  one of the four above
    """
    lm = make_model(shape)
    model = ScalarModel(lm, new_head(lm)) if role in (SCORER, TRAINED_SCORER) else lm
    trained = [p for p in model.parameters() if p.requires_grad and role in (TRAINED, TRAINED_SCORER)]
    parts = [*layers_of(lm), plain_lm(lm).get_input_embeddings()]
    return Held(
        weights=sum(tensor.nbytes for tensor in tensors_of(model)),
        trained=sum(p.numel() for p in trained),
        mastered=sum(p.numel() for p in trained if p.dtype != torch.float32),
        largest_part=max(sum(tensor.nbytes for tensor in tensors_of(part)) for part in parts),
        largest_trained=max((p.numel() for p in trained), default=0),
    )


@lru_cache(maxsize=64)
def copied_weights(shape: ModelShape) -> float:
    """Bytes of the copies of its weights that a model on a CPU samples with."""
    return sum(layer.weight.nbytes for layer in blockable(make_model(shape)))


# --- passes


@dataclass(frozen=True)
class ShapeBatch:
    """A micro-batch: prompts with so many completions each, all prompts of one length and all completions of one.

    share  "on" where a prompt is computed once for its completions, else "off"
    """

    prompts: int
    prompt_tokens: int
    completion_tokens: int
    completions: int = 1
    share: str = "off"

    @property
    def families(self) -> list[PromptGroup]:
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
    """Peak bytes of a micro-batch's forward pass without gradient, beside weights; `reads` may be entropies too."""

    @torch.no_grad()
    def run(lm: nn.Module) -> list[Counter]:
        model = prepared(lm.eval(), batch, reads)
        with LiveBytes(tensors_of(model), embedding_rows(lm)) as live:
            READERS[reads](model, batch)
        return live.peaks

    return deep_peak(shape, run, device)


@lru_cache(maxsize=256)
def decoding_peak(shape: ModelShape, rows: int, prompt_tokens: int, completion_tokens: int) -> Bytes:
    """Peak bytes of sampling `rows` completions together, beside weights: at their prompts or at their last token."""

    @torch.no_grad()
    def run(lm: nn.Module) -> list[Counter]:
        lm = lm.eval()
        with LiveBytes(tensors_of(lm), embedding_rows(lm)) as live:
            first = decode(lm, DynamicCache(), rows, prompt_tokens)
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
    if batch.share == "on":
        plain_lm(lm).set_attn_implementation(SHARING)
    if reads not in ("scores", "values"):
        return lm
    return ScalarModel(lm, new_head(lm))


def embedding_rows(lm: nn.Module) -> int:
    """Rows of the embedding."""
    return plain_lm(lm).get_input_embeddings().weight.shape[0]


def read_logprobs(lm: nn.Module, batch: ShapeBatch) -> Tensor:
    """Log-probabilities of completions."""
    return logprobs.sequence_logprobs(lm, batch.families, 0, CPU, batch.share)


def read_entropies(lm: nn.Module, batch: ShapeBatch) -> Tensor:
    """Log-probabilities and entropies of completion tokens."""
    return logprobs.answer_logprobs_and_entropies(lm, batch.families, 0, CPU, batch.share)[0]


def read_scores(model: ScalarModel, batch: ShapeBatch) -> Tensor:
    """Scores of completions."""
    return model.completion_scores(batch.families, 0, batch.share)


def read_values(model: ScalarModel, batch: ShapeBatch) -> Tensor:
    """Values of the states that completion tokens were chosen in."""
    return model.completion_values(batch.families, 0, batch.share)


READERS = {"logprobs": read_logprobs, "entropies": read_entropies, "scores": read_scores, "values": read_values}


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
