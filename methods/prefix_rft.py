"""Prefix-RFT: continue one expert prefix per group, and give the prefix's uncertain tokens the advantage of what came of it.

Paper        arXiv:2507.01679v3 (ICML 2026), eq. 3; its text is known here through others' notes
Code         ZeroYuHuang/prefix_rft@5f5d2a1f, recipe/prefix_rft: rl_dataset.py:278-345 (prefix, seven and one),
             core_algos.py:220-259 (advantage), core_algos.py:262-308 (`dr_grpo_prefix`), core_algos.py:604-640 (loss),
             dp_actor.py:132-157 (ranks), dp_actor.py:649-710 (ratio, bonus, weights of a micro-batch),
             recipe/prefix_rft/scheduler/global_step.py:149-186 (cosine), global_step.py:258-275 (Beta(1, 1))
Sampling     7 own rollouts, and an eighth that continues the first floor(l * T) of the demonstration's T tokens, l uniform
             between a low that falls from .95 to .05 along a cosine over the run (500 steps) and a high of .95: the window
             opens downwards, long prefixes stay. It never holds the end of sequence
Advantage    reward - mean reward of all eight, the same for prefix and continuation; no standard deviation
Loss         -advantage * ratio; of the prefix tokens of an update only the `top` .2 with the highest entropy, the others
             weigh 0 and still count. A prefix token's ratio is to the policy before the update, so with one update per batch it
             is 1, the gradient is advantage * grad log p, and neither PPO's clip (.2) nor the dual clip (3) ever acts
Denominator  token sum / response limit, averaged over trajectories

Paper and code disagree on (what made the printed numbers is not to be found out: the release holds no configuration of an
experiment, so there is no `as_released`)
  advantage    shared | `dr_grpo_prefix` too: own rollouts against their own mean, the continuation at its raw reward, the
               prefix at its reward - that mean. Left out: its `v2`, where no prefix is ever rewarded, `grpo_prefix`, which
               divides by deviations, and optional reshapings of the prefix's part (among them LUFFY's)
  scope        not said | entropies are ranked within a micro-batch; here over the whole update (`per_trajectory`: within one)
  denominator  as above | token mean by default; its `dr_grpo` adds trajectories up instead of averaging; and weights that
               follow the size of a micro-batch; none of it is taken over
  entropy      not said | a bonus of .001 by default, whose weight also follows the micro-batches; left out
  shortest     not said | a shortest prefix without a value; none here. Prefixes are cut to fit the prompt there, not here
Other presets: the paper's ablations `all_tokens` (every prefix token learns; its responses grew very long) and
             `frozen_prefix` (none does)
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from engine.reduce import Denominator, sum_over_length
from engine.words import Sample, Trajectory, expert, own


@dataclass(frozen=True)
class Method:
    rollouts: int = 7
    low: tuple[float, ...] = (0.95, 0.05)  # of the prefix share, at the start and at the end of the run
    high: float = 0.95
    top: float = 0.2
    scope: str = "step"
    split: bool = False  # the code's other advantage
    reduce: Denominator = sum_over_length()

    presets: ClassVar = {
        "dr_grpo_prefix": {"split": True},
        "per_trajectory": {"scope": "trajectory"},
        "all_tokens": {"top": 1.0},
        "frozen_prefix": {"top": 0.0},
    }

    def __post_init__(self):
        if len(self.low) != 2 or not all(0 <= low <= self.high < 1 for low in self.low):
            raise ValueError(
                f"low {self.low} and high {self.high} need 0 <= low <= high < 1, and a low for start and end: a whole "
                "demonstration leaves nothing to continue"
            )
        if self.scope not in ("step", "trajectory"):
            raise ValueError(f"scope {self.scope!r} is unknown; use 'step' (the whole update) or 'trajectory'")
        if not 0 <= self.top <= 1:
            raise ValueError(f"top {self.top} is no share of prefix tokens; choose one from 0 (none learns) to 1 (all do)")

    @property
    def needs(self):
        return (f"entropy_rank:{self.scope}",)

    def explore(self, problem, context):
        start, end = self.low
        low = end + (start - end) * (1 + math.cos(math.pi * context.progress)) / 2
        rollouts = yield Sample(self.rollouts)
        (guided,) = yield Sample(1, prefix=problem.prefix(context.rng.uniform(low, self.high)))
        group = rollouts if self.split else [*rollouts, guided]
        mean = sum(r.reward for r in group) / len(group)
        advantage = guided.reward - mean
        return [
            *(Trajectory(problem, (own(r, r.reward - mean),)) for r in rollouts),
            Trajectory(problem, (expert(guided.prefix, advantage), own(guided, guided.reward if self.split else advantage))),
        ]

    def loss(self, t):
        ratio = (t.logp - t.logp.detach().where(t.expert, t.old_logp)).exp()
        return (-t.advantage * ratio).where(~t.expert | (t.entropy_rank < self.top), 0.0)
