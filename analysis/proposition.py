"""The optimum of TrSFT for one choice, exactly, and how often Proposition 1 of TRAPO (arXiv:2512.17636) can name it.

    python -m analysis.proposition --out-dir DIR          the table `proposition`

TrSFT ascends sum_c e(c) f(p(c)) over the probabilities p of the options, e the expert's, with f(p) = log p for p >= alpha and
p / alpha + log(alpha) - 1 below; f' = 1 / max(p, alpha), and f is concave. With l the multiplier of sum p = 1, p is optimal if

    p(c) = e(c) / l     where e(c) > alpha l         kept, and in proportion to the expert
    p(c) = 0            where e(c) < alpha l         dropped
    0 <= p(c) <= alpha  where e(c) = alpha l         on the boundary: takes what the others leave

Proposition 1, as third-party notes quote it: there is a unique l in (0, 1) with l = the sum of e over S(l), where S(l) =
{c : e(c) > alpha l}, and the optimum is e(c) / l on S(l) and 0 elsewhere. Where such an l exists that is the optimum. But the
sum jumps where an option enters S, and may jump over l: then that option lies on the boundary, and there is no such l. The
expert (.6, .4) with alpha = .5 has the optimum (.75, .25) at l = .8, of value -.6499, against -.6773 for (1, 0) and -.6638 for
(.6, .4). And where nothing is dropped l is 1, so the interval has to be (0, 1].
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import render
from analysis.evidence import unmarked
from analysis.render import Table

ALPHAS = (0.01, 0.03, 0.1, 0.3, 0.5, 0.9, 1.0)
OPTIONS = (2, 3, 5, 10, 30, 100)
DRAWS = 10_000  # experts for each cell, uniform over the simplex
SEED = 2512


@dataclass(frozen=True)
class Optimum:
    """p: [options]. multiplier: l. boundary: [options] bool, which options lie on the boundary and take what the others leave.

    unique: whether p is the only optimum. Several options on the boundary may share it out otherwise; p shares it equally.
    """

    p: np.ndarray
    multiplier: float
    boundary: np.ndarray
    unique: bool


def checked(expert: Sequence[float] | np.ndarray, alpha: float) -> np.ndarray:
    """The expert's probabilities as an array that sums to 1. Raises ValueError if they are none, or alpha is not in [0, 1]."""
    e = np.asarray(expert, dtype=float)
    if e.ndim != 1 or not len(e) or not (e >= 0).all() or abs(e.sum() - 1) > 1e-9:
        raise ValueError(f"expert {np.round(e, 4).tolist()} is no distribution: give non-negative numbers that sum to 1")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha {alpha} is not in [0, 1]; 0 is SFT")
    return e / e.sum()


def objective(p: np.ndarray, expert: np.ndarray, alpha: float) -> float:
    """sum_c e(c) f(p(c)) in nats; options that the expert never chooses do not count."""
    p, e = p[expert > 0], expert[expert > 0]
    with np.errstate(divide="ignore"):
        f = np.log(np.maximum(p, alpha)) + (np.minimum(p / alpha - 1, 0) if alpha > 0 else 0)
    return float(e @ f)


def optimum(expert: Sequence[float] | np.ndarray, alpha: float) -> Optimum:
    """The optimum over the simplex, exactly, by letting options in from the likeliest to the least likely.

    Let the likelier options, of sum s, be kept. n options of probability v lie on the boundary at l = v / alpha, and the kept
    ones then leave them 1 - s / l. If that is nothing, they are dropped; if it is more than the alpha n they may have, l has to
    fall until they are kept too; otherwise it is what they share. (A bisection on l would find the same.)
    """
    e = checked(expert, alpha)
    kept = np.zeros(len(e), dtype=bool)
    for value in np.unique(e[e > 0])[::-1]:
        tied = e == value
        left, most = 1 - alpha * e[kept].sum() / value, alpha * tied.sum()
        if left <= 0:
            break
        if left <= most:
            p = np.where(kept, alpha * e / value, np.where(tied, left / tied.sum(), 0))
            return Optimum(p, float(value / alpha), tied, unique=tied.sum() == 1 or bool(np.isclose(left, most)))
        kept |= tied
    multiplier = float(e[kept].sum())
    return Optimum(np.where(kept, e / multiplier, 0), multiplier, np.zeros(len(e), dtype=bool), unique=True)


def fixed_points(experts: np.ndarray, alpha: float) -> np.ndarray:
    """Proposition 1's l in (0, 1] for each expert, [experts, options] -> [experts]; NaN where there is none."""
    falling = np.sort(experts, axis=1)[:, ::-1]
    sums = falling.cumsum(axis=1)  # of the k likeliest options: what l is if they are S(l)
    following = np.pad(falling[:, 1:], ((0, 0), (0, 1)))
    found = (falling > alpha * sums) & (following <= alpha * sums)
    return np.where(found.any(axis=1), (sums * found).max(axis=1), np.nan)


def claimed(expert: Sequence[float] | np.ndarray, alpha: float) -> np.ndarray | None:
    """What Proposition 1 as quoted says the optimum is, l = 1 allowed; None where it has no fixed point."""
    e = checked(expert, alpha)
    (multiplier,) = fixed_points(e[None], alpha)
    return None if np.isnan(multiplier) else np.where(e > alpha * multiplier, e / multiplier, 0)


def proposition_table() -> Table:
    """For how many random experts the proposition names no optimum, by alpha and number of options."""
    rng = np.random.default_rng(SEED)
    kinds = {"any distribution equally likely": 1.0, "peaked experts, Dirichlet(0.1)": 0.1}
    rows, headings = [], []
    for kind, concentration in kinds.items():
        missing, whole = [], []
        for options in OPTIONS:
            experts = rng.dirichlet(np.full(options, concentration), DRAWS)
            missing.append({alpha: 100 * np.isnan(fixed_points(experts, alpha)).mean() for alpha in ALPHAS})
            whole.append({alpha: 100 * (experts.min(axis=1) > alpha).mean() for alpha in ALPHAS})
        rows += [*missing, *whole]
        headings += [f"no l in (0, 1], {kind}"] * len(OPTIONS) + [f"l = 1, nothing dropped, {kind}"] * len(OPTIONS)
    index = [str(options) for options in OPTIONS] * (len(rows) // len(OPTIONS))
    numbers = pd.DataFrame(rows, index=pd.Index(index, name="options"))
    cells = numbers.map("{:.1f}".format).rename(columns="alpha {:g}".format)
    numbers = numbers.rename(columns="alpha_{:g}".format)
    numbers.insert(0, "what", headings)
    footer = (
        f"% of {DRAWS:,} random experts in each cell. Without l an option lies on the boundary p_E = alpha l, and the optimum "
        "gives it what the others leave: (.6, .4) at alpha .5 has the optimum (.75, .25). With l = 1 the proposition holds if "
        "its interval, quoted as (0, 1), is closed at 1.",
        "Where there is an l the proposition's optimum is the exact one (tests/test_proposition.py).",
    )
    caption = "How often Proposition 1 of TRAPO, as quoted, has no fixed point and so names no optimum."
    return Table("proposition", caption, cells, unmarked(cells), numbers, footer, False, tuple(headings), corner="Options")


def main(argv: Sequence[str] | None = None) -> None:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m analysis.proposition", description=__doc__, formatter_class=text)
    parser.add_argument("--out-dir", required=True, type=Path, help="where the table goes")
    render.write(proposition_table(), parser.parse_args(argv).out_dir)


if __name__ == "__main__":
    main()
