"""The solver for TrSFT's optimum against hand calculation, a general optimiser and gradient ascent; Proposition 1 as quoted."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from analysis import proposition
from analysis.proposition import claimed, fixed_points, objective, optimum


def random_cases(count: int, seed: int) -> list[tuple[np.ndarray, float]]:
    """Experts of two to six options, peaked to flat, and an alpha, a third of them with two equal options."""
    rng = np.random.default_rng(seed)
    cases = []
    for number in range(count):
        expert = rng.dirichlet(np.full(rng.integers(2, 7), rng.choice([0.3, 1.0, 5.0])))
        if number % 3 == 0:
            expert[:2] = expert[:2].mean()
        cases.append((expert, float(rng.uniform(0.02, 1))))
    return cases


def test_the_counter_example_has_an_optimum_that_the_proposition_cannot_name() -> None:
    found = optimum((0.6, 0.4), 0.5)
    assert found.p == pytest.approx([0.75, 0.25]) and found.multiplier == pytest.approx(0.8) and found.unique
    assert found.boundary.tolist() == [False, True]
    assert claimed((0.6, 0.4), 0.5) is None
    expert = np.array([0.6, 0.4])
    values = [objective(np.array(p), expert, 0.5) for p in ((0.75, 0.25), (1.0, 0.0), (0.6, 0.4))]
    assert values == pytest.approx([-0.6499, -0.6773, -0.6638], abs=5e-5)


@pytest.mark.parametrize(
    ("expert", "alpha", "wanted", "unique"),
    [
        ((0.2, 0.5, 0.3), 0.0, (0.2, 0.5, 0.3), True),  # SFT
        ((0.2, 0.5, 0.3), 1.0, (0.0, 1.0, 0.0), True),  # a linear objective: all on the mode
        ((1.0,), 0.1, (1.0,), True),
        ((1.0,), 1.0, (1.0,), True),
        ((1.0, 0.0), 0.3, (1.0, 0.0), True),
        ((0.5, 0.5), 0.2, (0.5, 0.5), True),
        ((0.5, 0.5), 0.5, (0.5, 0.5), True),  # both on the boundary, at the most they may have
        ((0.5, 0.5), 0.8, (0.5, 0.5), False),  # any split in which neither has more than .8
        ((0.5, 0.5), 1.0, (0.5, 0.5), False),
        ((0.25, 0.25, 0.25, 0.25), 0.6, (0.25, 0.25, 0.25, 0.25), False),
        ((0.6, 0.2, 0.2), 0.3, (0.9, 0.05, 0.05), False),  # l = .2/.3: .6/l = .9, and the equal two share .1
        ((0.9, 0.06, 0.04), 0.1, (1.0, 0.0, 0.0), True),  # l = .9: .06 < .09
        ((0.3, 0.3, 0.4), 0.2, (0.3, 0.3, 0.4), True),  # nothing dropped: l is 1, the closed end of (0, 1]
    ],
)
def test_optima_by_hand(expert: tuple[float, ...], alpha: float, wanted: tuple[float, ...], unique: bool) -> None:
    found = optimum(expert, alpha)
    assert found.p == pytest.approx(wanted, abs=1e-12) and found.unique == unique
    assert 0 < found.multiplier <= 1 + 1e-12


def test_every_split_of_a_tie_has_the_same_value() -> None:
    expert, found = np.array([0.6, 0.2, 0.2]), optimum((0.6, 0.2, 0.2), 0.3)
    best = objective(found.p, expert, 0.3)
    for split in ((0.9, 0.1, 0.0), (0.9, 0.02, 0.08)):
        assert objective(np.array(split), expert, 0.3) == pytest.approx(best, abs=1e-12)
    assert objective(np.array([0.8, 0.1, 0.1]), expert, 0.3) < best - 1e-4


def test_kkt_conditions_hold_at_the_optimum() -> None:
    boundary = 0
    for expert, alpha in random_cases(300, seed=1):
        found = optimum(expert, alpha)
        gradient = expert / np.maximum(found.p, alpha)
        assert found.p.sum() == pytest.approx(1) and (found.p >= 0).all()
        assert gradient[found.p > 0] == pytest.approx(found.multiplier, rel=1e-9)
        assert (gradient <= found.multiplier * (1 + 1e-9)).all()
        boundary += found.boundary.any()
    assert 30 < boundary < 270  # both kinds of optimum were there


def test_a_general_optimiser_finds_nothing_better() -> None:
    """SLSQP knows only the objective and the simplex."""
    for expert, alpha in random_cases(60, seed=2):
        best = objective(optimum(expert, alpha).p, expert, alpha)
        others = []
        for start in (np.full(len(expert), 1 / len(expert)), 0.98 * expert + 0.02 / len(expert)):
            found = minimize(
                lambda p, e=expert, a=alpha: -objective(np.maximum(p, 0), e, a),
                start,
                jac=lambda p, e=expert, a=alpha: -e / np.maximum(p, a),
                bounds=[(0, 1)] * len(expert),
                constraints={"type": "eq", "fun": lambda p: p.sum() - 1, "jac": np.ones_like},
                method="SLSQP",
                options={"ftol": 1e-13, "maxiter": 500},
            )
            p = np.maximum(found.x, 0)
            others.append(objective(p / p.sum(), expert, alpha))
        assert max(others) <= best + 1e-9
        assert max(others) == pytest.approx(best, abs=1e-4)  # it did get there


@pytest.mark.parametrize(
    ("expert", "alpha"), [((0.6, 0.4), 0.5), ((0.5, 0.3, 0.15, 0.05), 0.2), ((0.55, 0.4, 0.05), 0.1), ((0.7, 0.2, 0.1), 0.0)]
)
def test_ascent_along_the_gradient_of_trsft_ends_at_the_optimum(expert: tuple[float, ...], alpha: float) -> None:
    """The loss as methods/trapo.py has it, -p / max(sg p, alpha), on the logits of a softmax."""
    logits = torch.zeros(len(expert), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([logits], lr=1.0)
    for _ in range(6_000):
        p = logits.softmax(0)
        loss = -(torch.tensor(expert, dtype=torch.float64) * p / p.detach().clamp(min=alpha)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    wanted = optimum(expert, alpha).p
    assert abs(wanted - 1 / len(expert)).max() > 0.05  # not where it began
    assert logits.detach().softmax(0).numpy() == pytest.approx(wanted, abs=2e-3)


def test_the_proposition_is_right_where_it_has_a_fixed_point_and_else_there_is_a_boundary() -> None:
    named = 0
    for expert, alpha in random_cases(400, seed=3):
        said, found = claimed(expert, alpha), optimum(expert, alpha)
        if said is None:
            assert found.boundary.any()
        else:
            named += 1
            assert said == pytest.approx(found.p, abs=1e-12)
    assert 40 < named < 360


def test_fixed_points_solve_their_equation() -> None:
    experts = np.random.default_rng(4).dirichlet(np.ones(5), 500)
    found = fixed_points(experts, 0.2)
    assert 20 < np.isnan(found).sum() < 480
    for expert, multiplier in zip(experts, found, strict=True):
        if not np.isnan(multiplier):
            assert expert[expert > 0.2 * multiplier].sum() == pytest.approx(multiplier)
        else:  # a solution would be the sum of the likeliest few
            sums = np.sort(expert)[::-1].cumsum()
            assert not any(np.isclose(expert[expert > 0.2 * total].sum(), total) for total in sums)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="is no distribution"):
        optimum((0.6, 0.5), 0.1)
    with pytest.raises(ValueError, match="is no distribution"):
        claimed((), 0.1)
    with pytest.raises(ValueError, match=r"alpha 1.5 is not in \[0, 1\]"):
        optimum((0.6, 0.4), 1.5)


def test_the_table_counts_what_a_calculation_by_hand_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two options, uniform: no fixed point for alpha/(1 + alpha) < smaller <= min(alpha, 1/2), uniform on (0, 1/2)."""
    monkeypatch.setattr(proposition, "OPTIONS", (2, 4))
    proposition.main(["--out-dir", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {f"proposition.{kind}" for kind in ("md", "tex", "txt", "csv")}
    rows = proposition.proposition_table().numbers
    for alpha in (0.1, 0.3, 0.5, 0.9):
        wanted = 100 * (min(alpha, 0.5) - alpha / (1 + alpha)) / 0.5
        assert rows.iloc[0][f"alpha_{alpha:g}"] == pytest.approx(wanted, abs=1.5)
    assert rows.iloc[0]["alpha_1"] == 100  # S(l) needs an option above its own sum
    assert rows.iloc[2]["alpha_0.1"] == pytest.approx(80, abs=1.5)  # l = 1: the smaller one is above alpha
