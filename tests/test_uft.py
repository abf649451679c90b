"""UFT by hand: how many chunks of a demonstration it shows and until when, its advantages, and its three losses."""

import math
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from engine import methods
from engine.explain import Scripted, example
from engine.explore import context, explore
from engine.tokens import Tokens, collate
from engine.words import Context, Problem, Rollout, Sample, Trajectory, expert, own
from tests.conftest import METHODS


def build(preset: str = methods.MATCHED, **settings):
    return methods.build("uft", {**methods.preset("uft", preset, METHODS), **settings}, METHODS)


class Fixed(random.Random):
    """Draws one number again and again."""

    def __init__(self, number: float) -> None:
        super().__init__(0)
        self.number = number

    def random(self) -> float:
        return self.number


# 50 tokens without a blank line: five chunks of ten, the last of which ends the sequence
PLAIN = Problem("plain", (11,), "5", (tuple(range(100, 150)),))


def asked(method, step: int, total: int, rng: random.Random, problem: Problem = PLAIN) -> Sample:
    return next(method.explore(problem, Context(step, total, rng, {})))


@pytest.mark.parametrize(
    ("step", "chance"),
    [  # .05 + .45 (1 + cos(pi step / 300))
        (0, 0.95),
        (100, 0.725),  # cos = .5
        (150, 0.5),
        (200, 0.275),
        (299, 0.05 + 0.45 * (1 - math.cos(math.pi / 300))),  # .050025
    ],
)
def test_the_chance_of_a_chunk_falls_along_a_cosine(step: int, chance: float) -> None:
    """All five chunks are shown by draws just below the chance, none by draws just above it."""
    assert len(asked(build(), step, 500, Fixed(chance - 1e-9)).prefix) == 49  # without the end of sequence
    assert asked(build(), step, 500, Fixed(chance + 1e-9)).prefix == ()


@pytest.mark.parametrize(("last", "total"), [(299, 500), (2, 5), (5, 10), (57, 96)])
def test_hints_end_after_three_fifths_of_the_run(last: int, total: int) -> None:
    assert asked(build(), last, total, Fixed(0.0)).prefix
    assert asked(build(), last + 1, total, Fixed(0.0)).prefix == ()


def test_the_number_of_chunks_is_binomial() -> None:
    rng = random.Random(0)
    shown = Counter(len(asked(build(), 100, 500, rng).prefix) for _ in range(2000))
    for chunks in range(6):  # p = .725
        share = math.comb(5, chunks) * 0.725**chunks * 0.275 ** (5 - chunks)
        assert shown.pop(min(10 * chunks, 49), 0) / 2000 == pytest.approx(share, abs=0.03)
    assert not shown


def test_chunks_are_a_demonstrations_paragraphs_if_it_has_any(problem: Problem) -> None:
    """21 22 23 20 | 24 25 20 | 26 27 2, where 20 is a blank line and 2 the end: three chunks, so three draws."""
    found = {asked(build(), 150, 500, random.Random(seed), problem).prefix for seed in range(200)}
    body = problem.demonstrations[0]
    assert found == {(), body[:4], body[:7], body[:9]}


def test_all_four_continue_one_hint_and_are_measured_by_their_spread() -> None:
    sampler = Scripted(lambda i: i == 2)
    found = explore(build(), [example()], sampler, lambda pairs: [r.reward for _, r in pairs], 0, 10, 0, {}).trajectories
    (request,) = sampler.asked
    assert request.sample.n == 4 and request.sample.prefix
    for t in found:
        hint, generated = t.segments
        assert hint.tokens == request.sample.prefix and hint.expert and hint.trained and not generated.expert
    # mean .25, sample variance 3 * .25 ** 2 + .75 ** 2 over 3 = .25
    assert [t.segments[1].advantage for t in found] == pytest.approx([-0.5, -0.5, 1.5, -0.5], abs=1e-5)


@pytest.mark.parametrize("right", [True, False])
def test_a_group_of_equals_has_no_advantage(right: bool) -> None:
    found = explore(build(), [example()], Scripted(lambda i: right), lambda pairs: [r.reward for _, r in pairs], 9, 10, 0, {})
    assert [t.segments[1].advantage for t in found.trajectories] == [0.0] * 4


def test_draws_are_the_contexts_own() -> None:
    lengths = []
    for _ in range(2):
        talks = [build().explore(example(), context(step, 20, 0, "example", {})) for step in range(10)]
        lengths.append([len(next(talk).prefix) for talk in talks])
    assert lengths[0] == lengths[1] and len(set(lengths[0])) > 1


#   a hint of two tokens and two own ones with advantage 1.5; a hint of one token and one own with -.5
#   p       hint .5  .25   own .6  .3       hint .1   own .8
#   p_old                      .5  .3                     .4
#   p_ref                      .3  .6                     .8
def view() -> Tokens:
    def written(*old: float) -> Rollout:
        return Rollout((), (91, 2)[-len(old) :], tuple(math.log(p) for p in old), 0.0, "stop")

    first = Trajectory(PLAIN, (expert((100, 101)), own(written(0.5, 0.3), 1.5)))
    second = Trajectory(PLAIN, (expert((100,)), own(written(0.4), -0.5)))
    p = torch.tensor([[0.5, 0.25, 0.6, 0.3], [0.1, 0.8, 1.0, 1.0]], dtype=torch.float64)
    reference = torch.tensor([[0.9, 0.9, 0.3, 0.6], [0.9, 0.8, 1.0, 1.0]], dtype=torch.float64)
    tokens = collate([first, second], 0, torch.float64).tokens
    logp = p.log().requires_grad_()
    return replace(tokens, logp=logp, reference_logp=reference.log(), entropy=0 * logp + 2.0)


def reduced(method, t: Tokens) -> dict[str, tuple[float, list[list[float]]]]:
    """Each term as it enters the loss, with its gradient on log p."""
    found = {}
    for name, term in method.loss(t).items():
        mask = t.trained if term.mask is None else term.mask
        loss = term.coefficient * term.reduce.numerator(term.values, mask, 10) / term.reduce.count(mask, len(t.logp))
        (gradient,) = torch.autograd.grad(loss, t.logp)
        found[name] = loss.item(), gradient.tolist()
    return found


def test_the_three_losses_by_hand() -> None:
    found = reduced(build(), view())
    assert set(found) == {"policy", "imitation", "kl"}
    loss, gradient = found["policy"]  # -A p / p_old over three own tokens, and the same gradient
    assert loss == pytest.approx(-(1.5 * 1.2 + 1.5 * 1 - 0.5 * 2) / 3)
    assert gradient == [pytest.approx([0, 0, -0.6, -0.5]), pytest.approx([0, 1 / 3, 0, 0])]
    loss, gradient = found["imitation"]  # -.001 log p over three hint tokens
    assert loss == pytest.approx(-0.001 * math.log(0.5 * 0.25 * 0.1) / 3)
    assert gradient == [pytest.approx([-0.001 / 3, -0.001 / 3, 0, 0]), pytest.approx([-0.001 / 3, 0, 0, 0])]
    loss, gradient = found["kl"]  # p_ref / p - 1 - log(p_ref / p), gradient 1 - p_ref / p; ratios .5, 2 and 1
    assert loss == pytest.approx(0.001 * ((-0.5 + math.log(2)) + (1 - math.log(2)) + 0) / 3)
    assert gradient == [pytest.approx([0, 0, 0.0005 / 3, -0.001 / 3]), pytest.approx([0, 0, 0, 0])]


@pytest.mark.parametrize(("away", "loss", "slope"), [(2.61, 9.989, 1 - 13.599), (2.62, 10.0, 0.0)])
def test_the_divergence_of_a_token_ends_at_ten(away: float, loss: float, slope: float) -> None:
    """e^d - d - 1 and its slope 1 - e^d on log p, on either side of the limit."""
    t = view()
    term = build().loss(replace(t, reference_logp=t.logp.detach() + away))["kl"]
    (gradient,) = torch.autograd.grad(term.values.sum(), t.logp)
    assert term.values[0, 2].item() == pytest.approx(loss, abs=1e-3) and gradient[0, 2].item() == pytest.approx(slope, abs=1e-3)


def test_the_papers_hint_is_a_sum_and_the_codes_bonus_is_on_own_tokens() -> None:
    matched, paper, released = (reduced(build(preset), view()) for preset in (methods.MATCHED, "as_paper", "as_released"))
    assert paper["imitation"][0] == pytest.approx(-0.001 * math.log(0.5 * 0.25 * 0.1) / 2)  # summed, over two trajectories
    assert paper["policy"] == matched["policy"] and paper["kl"] == matched["kl"]
    assert released.pop("entropy")[0] == pytest.approx(-0.001 * 2.0)
    assert released == matched
    term = build("as_released").loss(view())["entropy"]
    assert term.mask.tolist() == [[False, False, True, True], [False, True, False, False]]


def test_a_method_needs_what_its_settings_use() -> None:
    assert build().needs == ("reference_logp",)
    assert build("as_released").needs == ("reference_logp", "entropy")
    assert build(kl=0.0).needs == () and set(build(kl=0.0).loss(view())) == {"policy", "imitation"}


def test_r3_shows_any_number_of_chunks_throughout_and_imitates_none() -> None:
    method = build("r3")
    for step in (0, 499):
        rng = random.Random(step)
        shown = Counter(len(asked(method, step, 500, rng).prefix) for _ in range(1800))
        assert sorted(shown) == [0, 10, 20, 30, 40, 49]
        assert list(shown.values()) == pytest.approx([300] * 6, abs=50)
    problems = [replace(example(), id=str(number)) for number in range(6)]
    found = explore(method, problems, Scripted(bool), lambda pairs: [r.reward for _, r in pairs], 0, 9, 0, {})
    assert len({t.segments[0].tokens for t in found.trajectories}) > 2
    assert not any(t.segments[0].trained for t in found.trajectories)
    assert all(t.segments[1].trained for t in found.trajectories)


@pytest.mark.parametrize("settings", [{"rollouts": 1}, {"hinted": 0.0}, {"hinted": 1.1}])
def test_settings_that_mean_nothing_are_errors(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        build(**settings)
