"""CHORD: reinforce on one stream of problems, imitate on another, and let a schedule shift the weight between the two losses.

Paper        arXiv:2508.11408 (ICLR 2026): CHORD-mu (the defaults) and CHORD-phi (`phi`)
Code         modelscope/Trinity-RFT@0414330, trinity/algorithm/policy_loss_fn/chord_policy_loss.py:14-31 (schedule),
             chord_policy_loss.py:64-102 (phi), chord_policy_loss.py:193-237 (both losses, weights of rows, sum),
             examples/mix_chord/mix_chord.yaml:6-24; advantage: modelscope/Trinity-RFT@0087fc3,
             trinity/algorithm/add_strategy/add_strategy.py:105-126 (grpo)
Sampling     8 rollouts per problem; two problems of the second stream for each give their demonstrations, as the 64 beside 32
             problems of the paper. Both streams are the run's data, in orders of their own; the paper's are disjoint sets (20k
             problems, 5k demonstrations)
Advantage    (reward - mean of the eight) / (their sample standard deviation + 1e-6), times 1 - mu; demonstrations weigh mu
Loss         own tokens: -min(A ratio, A clip(ratio)) at .2; demonstrations: -log p, and for `phi` times p (1 - p), which has
             no gradient of its own: most at p = 1/2, nothing for what is known and for what is implausible
Denominator  each loss its own: mean over all its tokens of the update. The code takes the mean in each micro-batch and weighs
             it with the micro-batch's rows
Schedule     mu rises in a line from 0 to `peak` over `warmup`, falls in half a cosine to `valley` over `decay`, and stays. Both
             are shares of the run: the paper's are steps of a run of up to 1500, so its 200 are 200 / 1500 here. Where a run is
             1 / n as long, so is the schedule

Paper and code disagree on
  schedule     mu: .9 to .05 over 200 steps; phi: .1 throughout | the example file: phi on, 0 to .5 over 200 steps, to .02 over
               400 (`as_released`), with the paper's two in its comments
  deviation    not printed | the group's sample deviation, by default
We follow the paper on the first (`as_paper` = the defaults), since its tables are of its schedules, and the code on the second,
which the paper does not contradict. mu is the default because it is the paper's first form; phi is a row of its own. Rewards
are the run's, 1 or 0: the paper's punishments for format (-.1) and overlong responses (-1) are left out, and so are the code's
`cutoff_prob` and its variant weighted by p.
"""

import math
import statistics
from dataclasses import dataclass
from typing import ClassVar

from engine.reduce import mean_over_tokens
from engine.words import Sample, Term, Trajectory, expert, own


@dataclass(frozen=True)
class Method:
    rollouts: int = 8
    peak: float = 0.9
    valley: float = 0.05
    warmup: float = 0.0
    decay: float = 200 / 1500
    phi: bool = False
    clip: float = 0.2
    second: float = 2.0  # problems of the second stream per problem that is explored
    reduce = mean_over_tokens

    presets: ClassVar = {
        "as_paper": {},
        "phi": {"peak": 0.1, "valley": 0.1, "decay": 0.0, "phi": True},
        "as_released": {"peak": 0.5, "valley": 0.02, "warmup": 200 / 1500, "decay": 400 / 1500, "phi": True},
    }

    def __post_init__(self):
        for name in ("peak", "valley", "warmup", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} is no share; choose one from 0 to 1")
        if self.second < 0:
            raise ValueError(f"second {self.second} is no number of problems; choose 0 (nothing is imitated) or more")
        if self.rollouts < 2:
            raise ValueError(f"rollouts {self.rollouts} have no standard deviation; choose at least 2")

    def mu(self, progress):
        if progress < self.warmup:
            return self.peak * progress / self.warmup
        if progress >= self.warmup + self.decay:
            return self.valley
        turned = (1 + math.cos(math.pi * (progress - self.warmup) / self.decay)) / 2
        return self.valley + (self.peak - self.valley) * turned

    def explore(self, problem, context):
        mu = self.mu(context.progress)
        if context.second:
            return [Trajectory(problem, (expert(problem.demonstration(), mu),))]
        rollouts = yield Sample(self.rollouts)
        rewards = [r.reward for r in rollouts]
        mean, deviation = statistics.fmean(rewards), statistics.stdev(rewards) + 1e-6
        return [Trajectory(problem, (own(r, (1 - mu) * (r.reward - mean) / deviation),)) for r in rollouts]

    def loss(self, t):
        ratio = (t.logp - t.old_logp).exp()
        gain = (t.advantage * ratio).minimum(t.advantage * ratio.clamp(1 - self.clip, 1 + self.clip))
        p = t.logp.detach().exp()
        weight = t.advantage * p * (1 - p) if self.phi else t.advantage
        return {
            "policy": Term(-gain, self.reduce, mask=t.trained & ~t.expert),
            "imitation": Term(-weight * t.logp, self.reduce, mask=t.trained & t.expert),
        }
