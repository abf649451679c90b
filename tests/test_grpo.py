"""GRPO's clip by hand, and the pipeline that is made of its preset `corrected`."""

from typing import Any

import pytest
import torch

from engine import methods
from engine.reduce import mean_over_tokens
from engine.tokens import Tokens
from tests.conftest import METHODS


def view() -> Tokens:
    """Ratios .75, 1.25 and 1.3, in a row that is rewarded and one that is punished; entropies of 3 nats."""
    logp = torch.tensor([[0.75, 1.25, 1.3]] * 2, dtype=torch.float64).log().requires_grad_()
    advantage = torch.tensor([[1.0] * 3, [-1.0] * 3], dtype=torch.float64)
    nothing, yes = torch.zeros_like(advantage), torch.ones_like(advantage, dtype=torch.bool)
    return Tokens(logp, nothing, advantage, ~yes, yes, yes, nothing + 3.0)


def build(preset: str) -> Any:
    return methods.build("grpo", methods.preset("grpo", preset, METHODS), METHODS)


def gradient(t: Tokens, values: torch.Tensor) -> list[list[float]]:
    """Of the sum of these values, on log p."""
    return [[round(one, 12) for one in row] for row in torch.autograd.grad(values.sum(), t.logp)[0].tolist()]


@pytest.mark.parametrize(
    ("preset", "rewarded", "punished"),
    [  # gradient of -min(A r, A clip(r)) on log p: -A r, or 0 where the clip holds it
        (methods.MATCHED, [-0.75, -1.25, -1.3], [0.75, 1.25, 1.3]),
        ("corrected", [-0.75, -1.25, 0.0], [0.0, 1.25, 1.3]),
    ],
)
def test_the_corrected_clip_is_wider_above_than_below(preset: str, rewarded: list[float], punished: list[float]) -> None:
    t = view()
    assert gradient(t, build(preset).loss(t)) == [rewarded, punished]


def test_the_released_clip_is_as_wide_above_as_below_and_an_entropy_bonus_is_beside_it() -> None:
    t = view()
    terms = build("as_released").loss(t)
    assert gradient(t, terms["policy"].values) == [[-0.75, 0.0, 0.0], [0.0, 1.25, 1.3]]
    entropy = terms["entropy"]
    assert entropy.coefficient == 0.001 / 64 and entropy.values.unique().tolist() == [-3.0] and entropy.mask.all()


def test_the_corrected_pipeline_starts_from_sft_and_reinforces_with_grpos_preset() -> None:
    first, second = methods.stages("sft_then_rl", METHODS)
    assert (first.method, first.parent, first.settings) == ("sft", None, {})  # so it is the stage of the run sft itself
    assert (second.method, second.parent) == ("grpo", "sft")
    assert second.settings == methods.preset("grpo", "corrected", METHODS)
    assert methods.build("grpo", second.settings, METHODS).reduce == mean_over_tokens
