"""Several completions of one prompt in one forward pass that computes the prompt once.

Everything in a transformer but attention treats each token alone, so prompts and completions lie in one flat row of
real tokens; attention gathers them: prompts look at themselves, a completion at its prompt and itself. The numbers are
those of prompt + completion computed apart (Wang and Hegde 2024, arXiv 2410.20305, has the idea for pairs).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from easyrlhf.data.batches import pad_right
from easyrlhf.models.attention import attend_packed, attention, packs_rows
from easyrlhf.models.context_parallel import CutStates, cut_of
from easyrlhf.models.flat_rows import Layout, firsts, flattened, on_device, ranges, sent
from easyrlhf.models.parts import evaluating, hidden_states, last_states, plain_lm
from easyrlhf.models.prefix_tree import plant_trees

PromptGroup = tuple[list[int], list[list[int]]]  # ids of a prompt, and of each of its completions

SHARING = "sdpa_sharing_prefixes"  # the name of our attention in transformers
TREES = "trees"  # how prompts are shared that are beginnings of one another
WORTH = 0.97  # share of the cost from which on sharing prompts, or packing rows, is worth it
HANDED = ("position_ids", "layout", "cut")  # what a pass is told that not every model takes
PROBE: list[PromptGroup] = [([1, 2, 3], [[2, 4, 1], [3]]), ([4, 3, 2, 1, 2], [[1], [2, 3, 4, 1]])]


@dataclass(frozen=True)
class States:
    """Hidden states of prompts' completions, and where to read them.

    hidden   [L, H]  of all tokens of the forward pass; CutStates where several processes share it
    before   [n]     row of the state that predicts each completion token, completion by completion
    last     [N]     row of each completion's last token
    targets  [n]     ids of the completion tokens
    owners   [n]     number of the completion that each token is of
    """

    hidden: Tensor | CutStates
    before: Tensor
    last: Tensor
    targets: Tensor
    owners: Tensor


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs
) -> tuple[Tensor, None]:
    """Attention; in a pass that has a `layout`, of flat prompts and completions.

    query, key, value  [1, heads, L, d] with a layout, of this process's part of the row where there is a `cut` beside
                       it; any batch without one
    returns            [1, L, heads, d], None
    """
    layout, cut = kwargs.pop("layout", None), kwargs.pop("cut", None)
    if layout is None:
        return attention(module, query, key, value, attention_mask, **kwargs)
    kwargs.pop("is_causal", None)
    flat = tuple(tensor[0].transpose(0, 1) for tensor in (query, key, value))
    attend_all = partial(attend_flat, layout=layout, **kwargs)
    states = attend_all(module, *flat) if cut is None else cut.attend(module, flat, attend_all)
    return states[None], None


def attend_flat(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, layout: Layout, **kwargs) -> Tensor:
    """Prompts look at themselves, completions at their prompts and themselves.  [L, heads, d] each → [L, heads, d]"""
    flat = query, key, value
    states = attend_prompts(module, *flat, layout, **kwargs)
    if not len(layout.completions):
        return states
    return torch.cat([states, attend_completions(module, *flat, layout, **kwargs)])


def attend_prompts(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, layout: Layout, **kwargs) -> Tensor:
    """Prompts look at themselves.  [L, heads, d] each → [sum of the prompts, heads, d]"""
    if packs_rows(query.device, query.dtype) and not kwargs.get("dropout"):
        flat = (tensor[: layout.prompt_tokens] for tensor in (query, key, value))
        longest = int(layout.prompts.max())
        return attend_packed(*flat, (layout.prompt_ends,) * 2, (longest,) * 2, kwargs.get("scaling"))
    rows = layout.prompt_rows
    q, k, v = (tensor[rows.places].transpose(1, 2) for tensor in (query, key, value))  # [B, heads, P, d]
    return attention(module, q, k, v, None, is_causal=True, **kwargs)[0].flatten(0, 1)[rows.kept]


def attend_completions(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, layout: Layout, **kwargs
) -> Tensor:
    """Completions look at their prompts and themselves.  [L, heads, d] each → [sum of the completions, heads, d]"""
    if packs_rows(query.device, query.dtype) and not kwargs.get("dropout"):
        keys = layout.completion_keys
        flat = query[layout.prompt_tokens :], key[keys.places], value[keys.places]
        return attend_packed(*flat, (keys.ends, keys.seen), keys.longest, kwargs.get("scaling"))
    rows = layout.completion_rows
    seen = torch.cat([layout.parent_rows, rows.places], dim=1)  # [N, P + C]
    q, k, v = (tensor[places].transpose(1, 2) for tensor, places in ((query, rows.places), (key, seen), (value, seen)))
    states = attention(module, q, k, v, layout.completion_mask, is_causal=False, **kwargs)[0]
    return states.flatten(0, 1)[rows.kept]


AttentionInterface.register(SHARING, attend)
AttentionMaskInterface.register(SHARING, sdpa_mask)


def enable_sharing(lm: nn.Module, max_length: int, say: Callable[[str], object] = str) -> bool:
    """Make a model able to compute prompts once; returns whether it is, and leaves it as it was when it is not.

    A model is when it attends by sdpa to all that came before, and gives the same states both ways: those with other
    attention kernels, windows shorter than the rows, or attention of their own kind are not.

    say  is told why a model is not
    """
    plain = plain_lm(lm)
    kernel = plain.config._attn_implementation
    if kernel != "sdpa":
        say(f"it attends by {kernel}, and this needs sdpa")
        return False
    if not sees_all(plain.config, max_length):
        say(f"its tokens do not see all before them in rows of {max_length}, which have a window")
        return False
    plain.set_attn_implementation(SHARING)
    if not (reason := difference(lm)):
        return True
    plain.set_attn_implementation("sdpa")
    say(reason)
    return False


def sees_all(config: PreTrainedConfig, max_length: int) -> bool:
    """Whether a model's last token looks at all before it in a row this long, no window in between."""
    window = getattr(config.get_text_config(), "sliding_window", None)
    return not window or window >= max_length


def can_share(lm: nn.Module) -> bool:
    """Whether enable_sharing was called for a model, and was true."""
    return plain_lm(lm).config._attn_implementation == SHARING


def sharing_of(lm: nn.Module, share: str) -> str:
    """How a model is to share prompts: as the setting says, but "off" for one that cannot."""
    return share if can_share(lm) else "off"


def tolerance(dtype: torch.dtype) -> float:
    """Share of their norm by which numbers of this type may differ that were computed in two ways."""
    return 2e-2 if dtype == torch.bfloat16 else 1e-3  # rounding alone makes 4e-3 in bf16


@torch.no_grad()
def difference(lm: nn.Module) -> str:
    """What is not the same in a model's states with prompts shared and apart; "" when they are the same.

    What a model does not take is a difference. Any other fault is ours, or the device's, and is raised.
    """
    with evaluating(lm):
        try:
            together = states_together(lm, PROBE)
        except TypeError as error:  # it knows no position_ids, or hands no layout to its attention
            if not any(f"unexpected keyword argument '{name}'" in str(error) for name in HANDED):
                raise
            return f"its passes take no such rows ({error})"
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except (ValueError, RuntimeError) as error:
            return f"its passes over such rows end with {type(error).__name__}: {str(error).strip().splitlines()[0]}"
        apart = states_apart(lm, PROBE)
    ours, theirs = (
        torch.cat([states.hidden[states.before], states.hidden[states.last]]) for states in (together, apart)
    )
    share = ((ours - theirs).float().norm() / theirs.float().norm()).item()
    return "" if share <= tolerance(theirs.dtype) else f"its states are others by {share:.2g} of their norm then"


def completion_states(lm: nn.Module, groups: list[PromptGroup], share: str) -> States:
    """Hidden states of every completion behind its prompt.

    share  "on" computes each prompt once, "auto" where that is cheaper, "off" never; TREES those once of which others
           are beginnings. A model for which enable_sharing was not called, or was false, has them computed apart
    """
    if share == TREES and can_share(lm):
        return states_in_trees(lm, groups)
    together = share == "on" or (share == "auto" and worth_sharing(lm, groups))
    if together and can_share(lm):
        return states_together(lm, groups)
    return states_apart(lm, groups)


def worth_sharing(lm: nn.Module, groups: list[PromptGroup]) -> bool:
    """Whether sharing prompts is clearly cheaper, in tokens, than computing them with each of their completions.

    A token takes about 24H² floating-point operations a layer, a pair of positions in attention 4H, at half the speed:
    3H pairs cost a token. Completions that look at prompt and self cannot skip the half behind them, as causal rows do.
    """
    prompts = [len(prompt) for prompt, _ in groups]
    completions = [len(ids) for _, own in groups for ids in own]
    if len(completions) == len(prompts):
        return False
    longest = max(len(prompt) + len(ids) for prompt, own in groups for ids in own)
    p, c, token = max(prompts), max(completions), 3 * plain_lm(lm).config.get_text_config().hidden_size
    apart = len(completions) * (longest + longest**2 / 2 / token)
    attention = len(prompts) * p**2 / 2 + len(completions) * c * (p + c)
    return sum(prompts) + sum(completions) + attention / token < WORTH * apart


def row_states(lm: nn.Module, input_ids: Tensor, lengths: np.ndarray) -> tuple[Tensor | CutStates, np.ndarray]:
    """Last hidden states of right-padded rows, one behind the other, and where among them each row begins.

    Where attention has a kernel for it, or several processes share the pass, padding is not computed; else it lies
    behind the rows, and its states are undefined.

    input_ids  [B, S]
    lengths    [B]     tokens of each row that count
    returns    [n, H], [B]
    """
    rows, width = input_ids.shape
    able = packs_rows(input_ids.device, plain_lm(lm).dtype) and can_share(lm)
    alone = cut_of(lm, input_ids.numel()) is None
    if alone and (not able or lengths.sum() > WORTH * input_ids.numel()):
        return hidden_states(lm, input_ids).flatten(0, 1), np.arange(rows) * width
    places, steps = on_device(input_ids.device, ranges(np.arange(rows) * width, lengths), ranges(0, lengths))
    layout = Layout.of_rows(lengths, input_ids.device)
    return flat_states(lm, input_ids.flatten()[places], steps, layout), firsts(lengths)


def states_apart(lm: nn.Module, groups: list[PromptGroup]) -> States:
    """Each completion in a row of its own, behind a copy of its prompt."""
    rows = [(prompt, ids) for prompt, completions in groups for ids in completions]
    prompts = np.array([len(prompt) for prompt, _ in rows])
    padded = sent(pad_right([prompt + ids for prompt, ids in rows]), plain_lm(lm).device)
    hidden, begins = row_states(lm, padded, prompts + [len(ids) for _, ids in rows])
    return states_of(hidden, [ids for _, ids in rows], begins + prompts, begins + prompts - 1)


def states_together(lm: nn.Module, groups: list[PromptGroup]) -> States:
    """All tokens in one row, each prompt once."""
    device = plain_lm(lm).device
    prompts = [prompt for prompt, _ in groups]
    completions = [ids for _, own in groups for ids in own]
    parents = np.repeat(np.arange(len(groups)), [len(own) for _, own in groups])
    lengths = np.array([len(ids) for ids in prompts + completions])
    layout = Layout(*np.split(lengths, [len(prompts)]), parents, device)
    behind = np.concatenate([np.zeros_like(layout.prompts), layout.prompts[parents]])  # tokens before each
    ids, steps = on_device(device, flattened(prompts + completions), ranges(behind, lengths))
    hidden = flat_states(lm, ids, steps, layout)
    return states_of(hidden, completions, firsts(lengths)[len(prompts) :], layout.prompts.cumsum()[parents] - 1)


def states_in_trees(lm: nn.Module, groups: list[PromptGroup]) -> States:
    """Each prompt that is no beginning of another once, with all completions of its beginnings."""
    prompts, completions = zip(*((prompt, ids) for prompt, own in groups for ids in own), strict=True)
    trees = plant_trees(list(prompts), list(completions), plain_lm(lm).device)
    hidden = last_states(lm, **trees.inputs(lm))
    return states_of(hidden.flatten(0, 1), list(completions), np.array(trees.firsts), np.array(trees.before))


def flat_states(lm: nn.Module, ids: Tensor, positions: Tensor, layout: Layout) -> Tensor | CutStates:
    """Last hidden states of tokens in a single row, whose attention the layout tells.

    ids, positions  [L]
    returns         [L, H]
    """
    cut = cut_of(lm, len(ids))
    if cut is not None:
        ids, positions = cut.own(ids), cut.own(positions)
    hidden = last_states(
        lm,
        input_ids=ids[None],
        position_ids=positions[None],
        attention_mask=ids.new_ones(1, 1, 1, 1, dtype=torch.bool),  # 4-d: transformers makes no other
        layout=layout,
        cut=cut,
    )[0]
    return hidden if cut is None else CutStates(hidden, cut)


def states_of(hidden: Tensor, completions: list[list[int]], starts: np.ndarray, prompt_ends: np.ndarray) -> States:
    """States of completions that begin in these rows, and whose prompts end in those."""
    lengths = np.array([len(ids) for ids in completions])
    before = ranges(starts - 1, lengths)
    before[firsts(lengths)] = prompt_ends  # a first token is predicted by its prompt's last
    owners = np.repeat(np.arange(len(completions)), lengths)
    columns = before, starts + lengths - 1, flattened(completions), owners
    return States(hidden, *on_device(hidden.device, *columns))
