"""A scalar read off a causal language model: reward models and value models, and their value_head.safetensors."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from easyrlhf.data.hub import hub_file
from easyrlhf.errors import InputError
from easyrlhf.models.context_parallel import read
from easyrlhf.models.flat_rows import on_device
from easyrlhf.models.parts import in_one_pass, plain_lm
from easyrlhf.models.prefix_sharing import PromptGroup, completion_states, row_states

HEAD_FILE = "value_head.safetensors"
WEIGHT, BIAS = "v_head.summary.weight", "v_head.summary.bias"


class ScalarModel(nn.Module):
    """A causal language model whose last hidden states pass through one linear unit.

    The language-model head stays with it, frozen: the folder on disk is a full causal language model. A sequence
    classifier has none.
    """

    def __init__(self, lm: nn.Module, head: nn.Linear):
        super().__init__()
        self.lm, self.head = lm, head
        for parameter in self.unused():
            parameter.requires_grad_(False)

    def unused(self) -> list[nn.Parameter]:
        """The weights of the language-model head that are not the embeddings' as well."""
        lm = plain_lm(self.lm)
        if (output := lm.get_output_embeddings()) is None:
            return []
        tied = {id(parameter) for parameter in lm.get_input_embeddings().parameters()}
        return [parameter for parameter in output.parameters() if id(parameter) not in tied]

    @in_one_pass
    def scores(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Score of each row, read at its last token.

        input_ids  [B, S]  right-padded
        lengths    [B]     tokens of each row; may be on the CPU
        returns    [B]     float32
        """
        counts = lengths.cpu().numpy()
        hidden, begins = row_states(self.lm, input_ids, counts)
        (last,) = on_device(hidden.device, begins + counts - 1)
        return read(hidden, last, self.score_hidden)

    @in_one_pass
    def completion_scores(self, groups: list[PromptGroup], share: str = "off") -> Tensor:
        """Score of each completion behind its prompt, read at its last token; `share` as in completion_states.

        returns  [N]  float32, group by group
        """
        states = completion_states(self.lm, groups, share)
        return read(states.hidden, states.last, self.score_hidden)

    @in_one_pass
    def completion_values(self, groups: list[PromptGroup], share: str = "off") -> Tensor:
        """Value of the state each completion token was chosen in: read one position before the token.

        share    as in completion_states
        returns  [n]  float32, completion by completion, group by group
        """
        states = completion_states(self.lm, groups, share)
        return read(states.hidden, states.before, self.score_hidden)

    def score_hidden(self, hidden: Tensor) -> Tensor:
        """What the head says of hidden states [n, H], in float32 whatever its weights are kept in.  [n]"""
        return F.linear(hidden.float(), self.head.weight.float(), self.head.bias.float()).squeeze(-1)


def new_head(lm: nn.Module, *, zero: bool = False) -> nn.Linear:
    """A float32 head for the model: weights N(0, 1/√(H+1)) and bias 0 (Stiennon et al. 2020), or all zero."""
    hidden_size = plain_lm(lm).config.get_text_config().hidden_size
    head = nn.Linear(hidden_size, 1, device=plain_lm(lm).device, dtype=torch.float32)
    nn.init.normal_(head.weight, std=0.0 if zero else 1 / math.sqrt(hidden_size + 1))
    nn.init.zeros_(head.bias)
    return head


def save_head(head: nn.Linear, folder: Path) -> None:
    """Write the head as value_head.safetensors, in the layout LLaMA-Factory and ms-swift read."""
    tensors = {
        WEIGHT: head.weight.detach().cpu().contiguous(),
        BIAS: head.bias.detach().cpu().contiguous(),
    }
    save_file(tensors, folder / HEAD_FILE)


def load_head(folder: str, lm: nn.Module) -> nn.Linear:
    """The head saved in a folder. Raises InputError as check_head_file does."""
    hidden_size = plain_lm(lm).config.get_text_config().hidden_size
    check_head_file(folder, hidden_size)
    file = Path(folder) / HEAD_FILE
    tensors = load_file(file) if file.exists() else torch.load(file.with_suffix(".bin"), weights_only=True)
    head = new_head(lm)
    head.load_state_dict({"weight": tensors[WEIGHT], "bias": tensors[BIAS]})
    return head


def check_head_file(folder: str, hidden_size: int) -> None:
    """Raise InputError unless the folder has a value head of exactly the right keys and shapes; reads no model."""
    file = Path(folder) / HEAD_FILE
    old_file = file.with_suffix(".bin")
    if file.exists():
        try:
            with safe_open(file, framework="pt") as tensors:
                shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except Exception as error:
            raise InputError(f"{file}: not a readable safetensors file ({error}); save the model again") from error
    elif old_file.exists():
        file = old_file
        try:
            shapes = {name: tuple(tensor.shape) for name, tensor in torch.load(file, weights_only=True).items()}
        except Exception as error:
            raise InputError(f"{file}: not a readable file of tensors; save the model again as safetensors") from error
    else:
        raise InputError(
            f"{folder}: has no {HEAD_FILE}, so it is not a reward model; give the output folder of rm_train, or an "
            f"adapter with its {HEAD_FILE} beside it"
        )
    expected = {WEIGHT: (1, hidden_size), BIAS: (1,)}
    if shapes != expected:
        raise InputError(
            f"{file}: holds {describe(shapes)}, but a head for this model holds {describe(expected)}; "
            "it belongs to another model: give the folder as rm_train wrote it"
        )


def has_head(folder: str) -> bool:
    """Whether a value head lies beside a model."""
    file = Path(folder).expanduser() / HEAD_FILE
    return file.exists() or file.with_suffix(".bin").exists()


def head_folder(path: str) -> str | None:
    """Where the value head beside a model lies: in its folder, or in the download of a hub id; None without one."""
    if Path(path).expanduser().is_dir():
        return path if has_head(path) else None
    file = hub_file(path, HEAD_FILE)
    return str(Path(file).parent) if file else None


def describe(shapes: dict[str, tuple[int, ...]]) -> str:
    """Names and shapes on one line."""
    return ", ".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items())) or "nothing"
