"""DFT, ASFT, PSFT, iw-SFT and OTR by hand: golden figures, the identities that relate them, both sides of every threshold."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from engine import methods
from engine.explain import converse, example
from engine.forward import Distribution
from engine.tokens import Tokens
from engine.train import Trainer
from engine.words import Problem, Trajectory, expert
from tests.conftest import METHODS
from tests.test_train import SETTINGS, small_model

NAMES = ("dft", "asft", "psft", "iw_sft", "otr")


def build(name: str, preset: str = methods.MATCHED, **settings: Any) -> Any:
    return methods.build(name, {**methods.preset(name, preset, METHODS), **settings}, METHODS)


def f64(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def view(logp: Tensor, reference: Tensor, trained: Tensor | None = None, read: dict[str, Tensor] | None = None) -> Tokens:
    """What a loss sees: expert rows [B, T], all of them trained unless said otherwise."""
    trained = torch.ones_like(logp, dtype=torch.bool) if trained is None else trained
    zero = torch.zeros_like(logp)
    return Tokens(logp, zero, trained.to(logp.dtype), trained, trained, trained, reference_logp=reference, read=read or {})


def loss(method: Any, t: Tokens) -> Tensor:
    """The loss of an update that is this one micro-batch."""
    found = method.loss(t)
    if not isinstance(found, dict):
        return method.reduce.numerator(found, t.trained, 100) / method.reduce.count(t.trained, len(t.logp))
    total = t.logp.new_zeros(())
    for term in found.values():
        mask = t.trained if term.mask is None else term.mask
        total = total + term.coefficient * term.reduce.numerator(term.values, mask, 100) / term.reduce.count(mask, len(t.logp))
    return total


def step(method: Any, logits: Any, reference: Any, gold: Any) -> tuple[float, Tensor]:
    """Loss and its gradient on the logits [N, V] of one solution of N tokens, whose token ids are `gold` [N]."""
    z, token = f64(logits).requires_grad_(), torch.tensor(gold)
    policy, start = z.log_softmax(-1), f64(reference).log_softmax(-1)
    at = (torch.arange(len(token)), token)
    read = method.read(Distribution(policy, start, token)) if hasattr(method, "read") else {}
    seen = {name: values[None] for name, values in read.items()}
    value = loss(method, view(policy[at][None], start[at][None], read=seen))
    value.backward()
    assert z.grad is not None
    return value.item(), z.grad


# One token of a vocabulary of four, the expert's is number 1: p = .710100 .158445 .035354 .096102, log p(expert) = -1.842350
Z, GOLD = [2.0, 0.5, -1.0, 0.0], 1
REFERENCE, OLD = [1.5, 1.0, -0.5, 0.2], [2.1, 0.1, -1.0, 0.0]
SFT = [0.710100, -0.841555, 0.035354, 0.096102]
DFT = [0.112512, -0.133340, 0.005602, 0.015227]

GOLDEN = [
    ("sft", {}, Z, 1.842350, SFT),
    ("dft", {}, Z, 0.291911, DFT),
    # KL alone: .105015 and .096901; times .05 on top of DFT
    ("asft", {}, REFERENCE, 0.297161, [0.123195, -0.140473, 0.004010, 0.013267]),
    ("asft", {"anchor": "kl_policy_reference"}, REFERENCE, 0.296756, [0.121781, -0.139194, 0.004295, 0.013118]),
    # .291911 + .105015, and DFT + (p - p_ref)
    ("asft", {"weight": 1.0}, REFERENCE, 0.396926, [0.326186, -0.275993, -0.026228, -0.023963]),
    ("psft", {}, OLD, -1.28, [0.0] * 4),  # ratio 1.525310
    ("otr", {"kappa": 1.0}, Z, 0.233273, [0.123763, -0.146674, 0.006162, 0.016749]),
    ("otr", {}, Z, 0.284320, [0.141541, -0.175665, 0.010097, 0.024026]),
    # log p_ref(expert) = 1 - log(4.481689 + 2.718282 + .606531 + 1.221403) = -1.200320; exp(-1.842350 + 1.200320) = .526223
    ("iw_sft", {}, REFERENCE, 0.969486, [0.373670, -0.442845, 0.018604, 0.050571]),
]


@pytest.mark.parametrize(("name", "settings", "reference", "value", "gradient"), GOLDEN)
def test_golden_figures(name: str, settings: dict, reference: list[float], value: float, gradient: list[float]) -> None:
    found, slope = step(build(name, **settings), [Z], [reference], [GOLD])
    assert found == pytest.approx(value, abs=2e-6)
    torch.testing.assert_close(slope, f64([gradient]), atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_each_learns_one_whole_demonstration_and_asks_for_nothing(name: str) -> None:
    sampler, learned = converse(build(name), lambda i: True)
    assert sampler.asked == []
    (trajectory,) = learned
    (segment,) = trajectory.segments
    assert segment.expert and segment.trained and segment.tokens == example().demonstrations[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_default_is_the_mean_over_all_tokens_of_the_update(name: str) -> None:
    """Rows of one and three tokens: four tokens, not the mean of two rows. Every token has the same loss here."""
    logp, reference = torch.full((2, 3), -0.5, dtype=torch.float64), torch.full((2, 3), -0.5, dtype=torch.float64)
    trained = torch.tensor([[True, False, False], [True, True, True]])
    read = {key: torch.full((2, 3), 0.25, dtype=torch.float64).requires_grad_() for key in ("kl", "drawn", "cross")}
    logp.requires_grad_()
    loss(build(name), view(logp, reference, trained, read)).backward()
    assert logp.grad is not None and logp.grad[trained].abs().min() > 0
    torch.testing.assert_close(logp.grad, logp.grad[0, 0] * trained)


# Three tokens of a vocabulary of five; the expert's have p = .207, .039 and .695
LOGITS = [[2.0, 0.5, -1.0, 0.0, 1.0], [-1.0, 1.5, 0.3, 0.0, 0.8], [0.4, 0.0, 2.5, 1.0, -2.0]]
START = [[1.0, 0.8, 0.0, -0.5, -1.0], [0.5, 0.5, 1.3, -0.4, 0.2], [-0.6, 1.0, 0.5, 2.0, 0.0]]
TOKENS = [4, 0, 2]


def unlikely() -> tuple[float, Tensor]:
    """1 - p of the expert's tokens, averaged: value and gradient."""
    z = f64(LOGITS).requires_grad_()
    value = 1 - z.softmax(-1)[torch.arange(3), torch.tensor(TOKENS)].mean()
    value.backward()
    assert z.grad is not None
    return value.item(), z.grad


def test_dft_has_the_gradient_of_one_minus_p() -> None:
    (value, slope), (other, wanted) = step(build("dft"), LOGITS, START, TOKENS), unlikely()
    assert wanted.abs().max() > 0.01 and value != pytest.approx(other, abs=0.01)
    torch.testing.assert_close(slope, wanted)


@pytest.mark.parametrize("beta", [-0.1, 0.0, 0.5])
def test_otr_at_temperature_one_is_one_minus_beta_times_dft(beta: float) -> None:
    slope = step(build("otr", kappa=1.0, beta=beta), LOGITS, START, TOKENS)[1]
    torch.testing.assert_close(slope, (1 - beta) * unlikely()[1])
    warm = step(build("otr", kappa=1.3, beta=beta), LOGITS, START, TOKENS)[1]
    assert (warm - slope).abs().max() > 0.005


def test_otr_is_the_mean_over_what_would_be_drawn() -> None:
    """One step of REINFORCE for every candidate there is, as often as it would be drawn at temperature 2."""
    wanted = torch.zeros(3, 5, dtype=torch.float64)
    for row, (logits, gold) in enumerate(zip(LOGITS, TOKENS, strict=True)):
        drawn = [math.exp(x / 2) for x in logits]
        p = [math.exp(x) / sum(map(math.exp, logits)) for x in logits]
        for candidate in range(5):
            reward = 1.0 if candidate == gold else -0.3
            for v in range(5):  # d(-log p(candidate)) / d z_v = p_v - [v is the candidate]
                wanted[row, v] += drawn[candidate] / sum(drawn) * reward * (p[v] - (v == candidate)) / 3
    assert wanted.abs().max() > 0.01
    torch.testing.assert_close(step(build("otr", kappa=2.0, beta=-0.3), LOGITS, START, TOKENS)[1], wanted)


@pytest.mark.parametrize("anchor", ["kl_reference_policy", "kl_policy_reference"])
def test_asft_without_weight_or_without_distance_is_dft(anchor: str) -> None:
    value, slope = step(build("dft"), LOGITS, START, TOKENS)
    free, held = build("asft", weight=0.0, anchor=anchor), build("asft", weight=0.7, anchor=anchor)
    assert free.needs == () and held.needs == ("reference_logp",)
    for method, reference in ((free, START), (held, LOGITS)):
        found, gradient = step(method, LOGITS, reference, TOKENS)
        assert found == pytest.approx(value)
        torch.testing.assert_close(gradient, slope)
    assert step(held, LOGITS, START, TOKENS)[0] > value + 0.1


def test_asft_presets_are_the_papers_and_the_codes() -> None:
    default, paper, released = build("asft"), build("asft", "as_paper"), build("asft", "as_released")
    assert (default.weight, default.anchor) == (0.05, "kl_reference_policy")
    assert (paper.weight, paper.anchor) == (0.05, "kl_policy_reference")
    assert (released.weight, released.anchor) == (0.1, "kl_reference_policy")


def at_ratio(name: str, ratios: list[float], preset: str = methods.MATCHED, **settings: Any) -> tuple[Tensor, Tensor]:
    """Per-token values, and their gradient on log p, of one solution whose tokens are `ratios` times as likely as before."""
    reference = torch.linspace(-3, -1, len(ratios), dtype=torch.float64)[None]
    logp = (reference + f64(ratios).log()).requires_grad_()
    values = build(name, preset, **settings).loss(view(logp, reference))
    values.sum().backward()
    assert logp.grad is not None
    return values.detach()[0], logp.grad[0]


def test_psft_is_sft_at_the_start_and_stops_above_its_bound_alone() -> None:
    """Below the lower bound of .8 nothing happens: min(r, clip(r)) is r."""
    values, slope = at_ratio("psft", [1.0, 1.279, 1.281, 5.0, 0.801, 0.799, 0.1])
    torch.testing.assert_close(values, f64([-1.0, -1.279, -1.28, -1.28, -0.801, -0.799, -0.1]))
    torch.testing.assert_close(slope, f64([-1.0, -1.279, 0.0, 0.0, -0.801, -0.799, -0.1]))
    torch.testing.assert_close(at_ratio("psft", [1.39, 1.41], clip_high=0.4)[1], f64([-1.39, 0.0]))
    start = step(build("psft"), LOGITS, LOGITS, TOKENS)[1]
    torch.testing.assert_close(start, step(build("sft"), LOGITS, LOGITS, TOKENS)[1])


def test_psft_bounds_the_exponent() -> None:
    values, slope = at_ratio("psft", [math.exp(-19.9), math.exp(-20.1), math.exp(-800)])
    assert values.tolist() == pytest.approx([-math.exp(-19.9), -math.exp(-20), -math.exp(-20)], rel=1e-6)
    assert slope[0] == pytest.approx(-math.exp(-19.9), rel=1e-6) and slope[1] == slope[2] == 0
    logp = f64([[900.0]]).requires_grad_()  # e^900 is infinite, and 0 times infinity no gradient
    value = build("psft").loss(view(logp, f64([[0.0]]))).sum()
    value.backward()
    assert value == -1.28 and logp.grad is not None and logp.grad.item() == 0


def test_psft_looks_back_eight_updates() -> None:
    assert build("psft").reference_every == 8 and build("psft", reference_every=4).reference_every == 4
    assert "reference_logp" in build("psft").needs and "reference_logp" in build("iw_sft").needs


LOGP, START_LOGP = f64([[-0.2, -1.5, -0.7]]), f64([[-0.4, -1.2, -1.1]])


@pytest.mark.parametrize(
    ("preset", "settings", "weights"),
    [
        (methods.MATCHED, {}, [1.105171] * 3),  # exp((.2 - .3 + .4) / 3)
        (methods.MATCHED, {"tau": 2.0}, [1.221403] * 3),
        ("per_step", {}, [1.221403, 0.740818, 1.491825]),  # exp(.2), exp(-.3), exp(.4)
        ("as_paper", {}, [1.349859] * 3),  # exp(.2 - .3 + .4)
    ],
)
def test_iw_sft_weights_and_what_they_weigh(preset: str, settings: dict, weights: list[float]) -> None:
    """Mean of w * -log p over three tokens; w is no part of the gradient, which is -w / 3."""
    logp = LOGP.clone().requires_grad_()
    value = loss(build("iw_sft", preset, **settings), view(logp, START_LOGP))
    value.backward()
    assert value.item() == pytest.approx((weights[0] * 0.2 + weights[1] * 1.5 + weights[2] * 0.7) / 3, abs=1e-6)
    torch.testing.assert_close(logp.grad, -f64([weights]) / 3, atol=1e-6, rtol=0)


@pytest.mark.parametrize("preset", [methods.MATCHED, "per_step", "as_paper"])
def test_iw_sft_is_sft_where_the_policy_has_not_moved(preset: str) -> None:
    found, slope = step(build("iw_sft", preset), LOGITS, LOGITS, TOKENS)
    value, wanted = step(build("sft"), LOGITS, LOGITS, TOKENS)
    assert found == pytest.approx(value) and wanted.abs().max() > 0.01
    torch.testing.assert_close(slope, wanted)


def test_iw_sft_weights_stop_at_their_bounds() -> None:
    """The gradient on log p is -w, for one-token solutions: 16 on top, nothing below; for single tokens .2 and 1.8."""
    for ratio, weight in ((15.99, 15.99), (16.01, 16.0), (1e9, 16.0), (1e-9, 1e-9)):
        torch.testing.assert_close(at_ratio("iw_sft", [ratio])[1], f64([-weight]))
    ratios, weights = [1.79, 1.81, 0.21, 0.19], [1.79, 1.8, 0.21, 0.2]
    torch.testing.assert_close(at_ratio("iw_sft", ratios, "per_step")[1], -f64(weights))
    logp = f64([[900.0]]).requires_grad_()  # e^900 is infinite
    build("iw_sft").loss(view(logp, f64([[0.0]]))).sum().backward()
    assert logp.grad is not None and logp.grad.item() == -16


@pytest.mark.parametrize("preset", [methods.MATCHED, "per_step", "as_paper"])
def test_iw_sft_weights_a_solution_by_its_own_trained_tokens(preset: str) -> None:
    """The same solution alone, and between an untrained prompt and padding beside a solution that moved far."""
    alone, beside = LOGP.clone().requires_grad_(), torch.full((2, 7), -9.0, dtype=torch.float64)
    trained, reference = torch.zeros(2, 7, dtype=torch.bool), torch.full((2, 7), 3.0, dtype=torch.float64)
    beside[0, 2:5], reference[0, 2:5], trained[0, 2:5] = LOGP[0], START_LOGP[0], True
    trained[1, 1:] = True
    beside.requires_grad_()
    method = build("iw_sft", preset)
    single, double = method.loss(view(alone, START_LOGP)), method.loss(view(beside, reference, trained))
    assert single.abs().min() > 0
    torch.testing.assert_close(double[:1, 2:5], single)
    single.sum().backward()
    double.where(trained, torch.zeros(())).sum().backward()
    assert alone.grad is not None and beside.grad is not None
    torch.testing.assert_close(beside.grad[:1, 2:5], alone.grad)
    assert beside.grad[1, 1:].abs().max() == pytest.approx(
        {"per_step": 0.2, "as_paper": math.exp(-12 * 6)}.get(preset, math.exp(-12))
    )
    empty = method.loss(view(beside.detach(), reference, torch.zeros_like(trained)))  # a filling of nothing
    assert empty.isfinite().all()


def trained(name: str, updates: int = 1, **settings: Any) -> list[dict[str, Any]]:
    """What a few updates on the same two demonstrations say."""
    trainer = Trainer(small_model(), build(name, **settings), SETTINGS, pad=0)
    lengths = ((3, 7), (5, 4))
    tokens = [tuple(3 + (5 * i + 3 * k + k * k) % 40 for k in range(12)) for i in range(2)]
    given = [
        Trajectory(Problem(str(i), tokens[i][:prompt], ""), (expert(tokens[i][prompt : prompt + n]),))
        for i, (prompt, n) in enumerate(lengths)
    ]
    return [trainer.update(given) for _ in range(updates)]


def test_the_identities_hold_in_training() -> None:
    """At a stage's first update the policy is the reference."""
    (sft,), (dft,) = trained("sft"), trained("dft")
    assert sft["grad_norm"] > 0 and dft["grad_norm"] > 0 and dft["grad_norm"] != pytest.approx(sft["grad_norm"], rel=0.1)
    for name in ("psft", "iw_sft"):
        assert trained(name)[0]["grad_norm"] == pytest.approx(sft["grad_norm"], rel=1e-4)
    assert trained("otr", kappa=1.0)[0]["grad_norm"] == pytest.approx(1.1 * dft["grad_norm"], rel=1e-4)
    first, second = trained("asft", 2)
    assert first["grad_norm"] == pytest.approx(dft["grad_norm"], rel=1e-4)
    assert first["loss"]["imitation"] == pytest.approx(dft["loss"]["loss"], rel=1e-5)
    assert first["loss"]["anchor"] == pytest.approx(0, abs=1e-6) and second["loss"]["anchor"] > 1e-4


def test_psft_starts_anew_at_every_reference() -> None:
    """The loss is minus the mean ratio: -1 where the reference is the policy itself, less once it has been left behind."""
    losses = [update["loss"]["loss"] for update in trained("psft", 5, reference_every=2)]
    assert [loss == pytest.approx(-1, abs=1e-5) for loss in losses] == [True, False, True, False, True]
    assert all(-1.28 <= loss < -1.001 for loss in losses[1::2])


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("asft", {"anchor": "reverse"}, "anchor 'reverse' is no divergence; use kl_reference_policy or"),
        ("asft", {"weight": -0.1}, "weight -0.1 drives the policy away"),
        ("psft", {"clip_high": 0.0}, "clip_high 0.0 clips every token"),
        ("psft", {"reference_every": 0}, "reference_every 0 is no number of updates"),
        ("iw_sft", {"low": 1.2}, "low 1.2 and high 16.0 exclude 1"),
        ("iw_sft", {"high": 0.8}, "low 0.0 and high 0.8 exclude 1"),
        ("otr", {"kappa": 0.0}, "kappa 0.0 is no temperature"),
        ("otr", {"beta": 1.0}, "beta 1.0 earns a wrong token as much"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name: str, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, **settings)
