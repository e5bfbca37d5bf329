"""What a frozen model makes of completions: its hidden states at a few depths, as one vector of length 1 each."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from easyrlhf.data.batches import pad_right
from easyrlhf.models.parts import backbone, in_one_pass, plain_lm
from easyrlhf.models.prefix_sharing import TREES, can_share
from easyrlhf.models.prefix_tree import plant_trees


def layers_at(lm: nn.Module, depths: tuple[float, ...]) -> list[int]:
    """The layers at these shares of a model's depth; never 0, which is the embedding."""
    count = plain_lm(lm).config.get_text_config().num_hidden_layers
    return [max(1, int(depth * count)) for depth in depths]


@torch.no_grad()
@in_one_pass
def completion_features(
    lm: nn.Module, rows: list[tuple[list[int], list[int]]], layers: list[int], pooling: str, share: str = "off"
) -> Tensor:
    """The features of each completion behind its prompt, in float32 or better.

    rows     ids of a prompt and of a completion, which has at least one
    layers   1 to the number of layers; their states are put one behind the other
    pooling  last: the state of the last token; mean: of all tokens of the completion
    share    TREES computes a text once for completions of its beginnings, where the model is able to
    returns  [N, layers · H]  of length 1
    """
    if share == TREES and can_share(lm):
        return normalize(features_in_trees(lm, rows, layers, pooling), dim=1)
    device = plain_lm(lm).device
    # Attention is causal, so tokens never see the padding behind them and no mask is needed.
    ids = pad_right([prompt + completion for prompt, completion in rows]).to(device)
    states = backbone(lm)(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
    starts = torch.tensor([len(prompt) for prompt, _ in rows], device=device)
    ends = torch.tensor([len(prompt) + len(completion) for prompt, completion in rows], device=device)
    places = torch.arange(ids.shape[1], device=device)
    counted = (places >= (starts if pooling == "mean" else ends - 1)[:, None]) & (places < ends[:, None])
    exact = torch.promote_types(states[1].dtype, torch.float32)
    weights = (counted / counted.sum(1, keepdim=True)).to(exact)[:, None]
    found = [(weights @ states[layer].to(exact))[:, 0] for layer in layers]
    return normalize(torch.cat(found, dim=1), dim=1)


def features_in_trees(
    lm: nn.Module, rows: list[tuple[list[int], list[int]]], layers: list[int], pooling: str
) -> Tensor:
    """completion_features by one pass over each text, before they are made of length 1.  [N, layers · H]"""
    prompts, completions = ([row[part] for row in rows] for part in (0, 1))
    trees = plant_trees(prompts, completions, plain_lm(lm).device)
    states = backbone(lm)(**trees.inputs(lm), output_hidden_states=True).hidden_states
    exact = torch.promote_types(states[1].dtype, torch.float32)
    spans = [(first, first + len(ids)) for first, ids in zip(trees.firsts, completions, strict=True)]
    if pooling == "last":
        spans = [(end - 1, end) for _, end in spans]
    found = []
    for layer in layers:
        flat = states[layer].flatten(0, 1)
        found.append(torch.stack([flat[start:end].to(exact).mean(0) for start, end in spans]))
    return torch.cat(found, dim=1)
