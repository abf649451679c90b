"""Imitate a Gaussian mixture with a Gaussian mixture: what SFT and TrSFT do to an expert with a mode far away.

    python -m miniature.mixture OUT.csv          seconds on one core

The experiment of Fig. 3 of TRAPO (arXiv:2512.17636), whose weights, means, standard deviations, learning rate and sample size
are not published. Everything below is ours, chosen once from what the figure is said to show and not tuned for an outcome.

Expert and policy choose among BINS, intervals of the line of width WIDTH, as a language model chooses among tokens: the logit
of a bin is the log density of the mixture at its centre. p is therefore a probability, and alpha of TrSFT, which bounds the
gradient of options that the policy finds unlikely, means what it means for tokens. On the density it is alpha / WIDTH.

    expert     three modes, the last of them far from the others
    policy     1, 2 or 3 components; all means start near -1, so that the far mode is far from every one of them
    loss       mean over a batch of -p(x) / max(sg p(x), alpha): alpha 0 is SFT, -log p(x) in its gradient; 1 is -p(x)
    data       SAMPLES draws from the expert, BATCH of them with replacement for each update; all alphas see the same draws
    seed       of the data, the batches and the policy's first means

A line of OUT.csv is one policy at one step, or the expert (components, alpha and seed empty): the KL divergences in nats, exact
sums over the bins; `between`, its probability of bins between the outer modes but more than two standard deviations from every
mode, where the expert seldom is; `far`, its probability of bins within two standard deviations of the far mode; and, at the
steps SNAPSHOTS, `p<centre>`, its probability of each bin.
"""

import argparse
import csv
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from engine import record, seeds

WIDTH = 0.5
BINS = torch.arange(-10, 12, WIDTH, dtype=torch.float64) + WIDTH / 2  # centres
MEANS, DEVIATION, WEIGHTS = (-4.0, 0.0, 6.0), 0.8, (0.4, 0.35, 0.25)
COMPONENTS = (1, 2, 3)
FIRST_MEAN, FIRST_SPREAD, FIRST_DEVIATION = -1.0, 1.0, 1.5  # of the policy's components; the spread is over seeds
ALPHAS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
SEEDS = range(5)
SAMPLES, BATCH = 2000, 128
LEARNING_RATE = 0.01  # of Adam, constant
SNAPSHOTS = (0, 50, 100, 1000)
RECORDED = (*range(0, 100, 10), *range(100, 1001, 50))
FIELDS = ("components", "alpha", "seed", "step", "kl_expert_policy", "kl_policy_expert", "between", "far")


def log_probabilities(means: Tensor, log_deviations: Tensor, logits: Tensor) -> Tensor:
    """Log-probability in nats of every bin, [..., bins], of mixtures given by [..., components]."""
    scaled = (BINS - means[..., None]) / log_deviations.exp()[..., None]
    densities = logits.log_softmax(-1)[..., None] - log_deviations[..., None] - scaled**2 / 2  # up to a constant
    return densities.logsumexp(-2).log_softmax(-1)


def expert() -> Tensor:
    """Log-probabilities [bins] of the expert."""
    means, weights = (torch.tensor(values, dtype=torch.float64) for values in (MEANS, WEIGHTS))
    return log_probabilities(means, torch.full_like(means, DEVIATION).log(), weights.log())


def near(mode: float) -> Tensor:
    """Which bins [bins] are within two standard deviations of a mode."""
    return (BINS - mode).abs() <= 2 * DEVIATION


def kl(one: Tensor, other: Tensor) -> Tensor:
    """KL(one || other) in nats over the last axis of log-probabilities."""
    return (one.exp() * (one - other)).sum(-1)


def imitation(logp: Tensor, alpha: Tensor) -> Tensor:
    """TrSFT's loss of every option, p / max(sg p, alpha) negated; its gradient for alpha = 0 is that of -log p."""
    return -(logp - logp.detach().maximum(alpha.log())).exp()


def fit(components: int) -> Iterator[tuple[int, Tensor]]:
    """Train a policy for every seed and alpha at once; yields step and log-probabilities [seeds, alphas, bins] at RECORDED."""
    draws, first = [], []
    for seed in SEEDS:
        rng = torch.Generator().manual_seed(seeds.seed(run=seed, axis="mixture"))
        data = torch.multinomial(expert().exp(), SAMPLES, replacement=True, generator=rng)
        picks = torch.randint(SAMPLES, (RECORDED[-1], BATCH), generator=rng)
        draws.append(torch.nn.functional.one_hot(data[picks], len(BINS)).double().mean(1))  # [steps, bins]
        first.append(FIRST_MEAN + FIRST_SPREAD * torch.randn(components, generator=rng, dtype=torch.float64))
    drawn = torch.stack(draws, 1)[:, :, None]  # [steps, seeds, 1, bins]
    alpha = torch.tensor(ALPHAS, dtype=torch.float64)[:, None]  # [alphas, 1]
    means = torch.stack(first)[:, None].repeat(1, len(ALPHAS), 1).requires_grad_()  # [seeds, alphas, components]
    log_deviations = torch.full_like(means, math.log(FIRST_DEVIATION)).requires_grad_()
    logits = torch.zeros_like(means).requires_grad_()
    optimizer = torch.optim.Adam([means, log_deviations, logits], lr=LEARNING_RATE)
    for step in range(RECORDED[-1] + 1):
        logp = log_probabilities(means, log_deviations, logits)
        if step in RECORDED:
            yield step, logp.detach()
        if step < RECORDED[-1]:
            optimizer.zero_grad()
            (drawn[step] * imitation(logp, alpha)).sum().backward()  # a sum: policies do not share parameters
            optimizer.step()


def measured(logp: Tensor, step: int) -> dict[str, object]:
    """The columns of a line that follow from the log-probabilities [bins]."""
    target, p = expert(), logp.exp()
    modes = torch.stack([near(mode) for mode in MEANS])
    inside = (min(MEANS) < BINS) & (max(MEANS) > BINS)
    found = {
        "step": step,
        "kl_expert_policy": kl(target, logp),
        "kl_policy_expert": kl(logp, target),
        "between": p[inside & ~modes.any(0)].sum(),
        "far": p[modes[-1]].sum(),
    }
    shown = zip(BINS.tolist(), p.tolist(), strict=True) if step in SNAPSHOTS else ()
    return {name: f"{float(value):.6g}" for name, value in (*found.items(), *((f"p{x:g}", value) for x, value in shown))}


def rows() -> Iterator[dict[str, object]]:
    """The expert, then every policy at every recorded step."""
    yield measured(expert(), 0)
    for components in COMPONENTS:
        for step, logp in fit(components):
            for i, seed in enumerate(SEEDS):
                for j, alpha in enumerate(ALPHAS):
                    yield {"components": components, "alpha": alpha, "seed": seed, **measured(logp[i, j], step)}


def main() -> int:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m miniature.mixture", description=__doc__, formatter_class=text)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)  # the tensors are tiny
    settings = (
        f"# expert: means {MEANS}, sd {DEVIATION}, weights {WEIGHTS}; bins of {WIDTH} around {BINS[0]:g} .. {BINS[-1]:g}; "
        f"policy: first means {FIRST_MEAN:g} +- {FIRST_SPREAD:g}, sd {FIRST_DEVIATION}; {SAMPLES} draws, batch {BATCH}, "
        f"Adam {LEARNING_RATE}, {RECORDED[-1]} steps\n"
    )
    try:
        with record.replaced(args.out) as temporary, temporary.open("w", newline="") as file:
            file.write(settings)
            writer = csv.DictWriter(file, [*FIELDS, *(f"p{x:g}" for x in BINS.tolist())], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows())
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
