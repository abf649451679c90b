"""RIF-RFT: try every problem before training, drop those the policy never solves, and reinforce on the rest.

Paper        arXiv:2507.05386 (ICML 2026), known here by its abstract and its repository's README: rollout-based instance
             filtering before GRPO, so that no update is spent on samples without a signal
Code         built on EasyR1; not read
Filter       once, before the first update: `samples` rollouts of the start policy; a problem is kept if and only if one of them
             earns at least `tau`
Sampling     one group of 8 rollouts per kept problem
Advantage    reward - mean reward of the group; no standard deviation
Loss         own tokens: -advantage * ratio, as in the method grpo, which this is on the kept problems
Denominator  token sum / response limit, averaged over trajectories
Paper and code disagree on nothing that could be checked. Unverified: the number of rollouts (8 in a re-implementation by
others), the threshold (there: any of them right), whether problems are tried again later (here never), and the form of GRPO.
Left out     what is always solved stays in, although its groups teach nothing either: the filter as described has no upper side
"""

from dataclasses import dataclass

from engine.reduce import Denominator, sum_over_length
from engine.words import Sample, Trajectory, own


@dataclass(frozen=True)
class Method:
    samples: int = 8
    tau: float = 1.0
    group: int = 8
    reduce: Denominator = sum_over_length()

    def __post_init__(self):
        if not 0 < self.tau <= 1:
            raise ValueError(
                f"tau {self.tau} keeps every problem or none; rewards go from 0 to 1, choose one above 0 and up to 1"
            )

    def keep(self, problem, context):
        rollouts = yield Sample(self.samples)
        return max(r.reward for r in rollouts) >= self.tau

    def explore(self, problem, context):
        rollouts = yield Sample(self.group)
        mean = sum(r.reward for r in rollouts) / len(rollouts)
        return [Trajectory(problem, (own(r, r.reward - mean),)) for r in rollouts]

    def loss(self, t):
        return -t.advantage * (t.logp - t.old_logp).exp()
