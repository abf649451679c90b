"""HPT: count each problem's right rollouts; reinforce where there are enough, and imitate the demonstration instead where not.

Paper        arXiv:2509.04419v2 (Unified Policy Gradient Estimator, Hybrid Post-Training)
Code         TsinghuaC3I/Unify-Post-Training@ae332f5, hpt/verl/verl/mix_src/mix_trainer.py:394-407 (gate),
             mix_trainer.py:599-612 (counting), mix_actor.py:135-165 (both losses), mix_actor.py:509-511 (skipped steps),
             mix_core_alg.py:7-10 (mean of imitation), hpt/verl/verl/trainer/ppo/core_algos.py:110-158 (advantage),
             core_algos.py:307-318 (clip, sum), exp_scripts/train.sh
Sampling     8 rollouts. With `gate` right ones or fewer all eight are thrown away and the demonstration is learned instead; the
             gate is 0 for Qwen, 2 for LLaMA
Advantage    reward - mean reward of the eight; no standard deviation
Loss         own tokens: -advantage * ratio, unclipped; demonstrations: -log p
Denominator  own tokens: token sum / response limit, averaged over the trajectories of the update; demonstrations: mean over all
             their tokens, so one gated problem imitates as strongly as all of them would
Rows         of 128 problems with b gated there are 8 (128 - b) + b trajectories, 1024 down to 128. A rollout's share is 1 over
             that, so what is still reinforced weighs up to 8 times more as the others fall to imitation. In the code a batch of
             fewer rows is fewer optimizer steps of 64 problems' worth of rows instead; here it is one update

Paper and code disagree on (fields; `as_paper`, `as_released`)
  clip         PPO's, .2 | none
  deviation    divides the advantage in the formula, though the text says Dr.GRPO | does not
  imitate_over  1 / length of each demonstration, so a mean over trajectories | a mean over the tokens of each micro-batch; here
               over those of the update, and one micro-batch per step is assumed
  coefficient  1 (.3 at 1.5B) | the same, against a policy term summed over the 64 sequences of a GPU: 1 / 64 per trajectory
  entropy      none | bonus of .001 (.001 / 64), over all response tokens
We follow the code on the first three, because the paper calls its reinforcement Dr.GRPO and with one update per batch its clip
never acts; and leave scale and bonus of the sum to `as_released`, as for every method here: beside a policy term averaged over
trajectories an imitation of weight 1 is most of the loss. `soft` keeps the eight and adds the demonstration to every group, all
with weight 1; the code's mode of that name samples seven, and prepares weights by how many were right, which nothing reads.
The run's: learning rate (5e-6, five times the family's), batch 128, and the rule that skips steps of a gradient norm above 80.
Left out     a second gate above the first, which reinforces the demonstration as in LUFFY (off in the scripts), and removing
             problems already imitated from later epochs (optional in the code)
"""

import statistics
from dataclasses import dataclass
from typing import ClassVar

from engine.reduce import Denominator, mean_over_tokens, mean_over_trajectories, sum_over_length
from engine.words import Sample, Term, Trajectory, expert, own


@dataclass(frozen=True)
class Method:
    rollouts: int = 8
    gate: int = 0  # the most right rollouts with which a problem is imitated
    soft: bool = False
    coefficient: float = 1.0
    clip: float | None = None
    deviation: bool = False
    entropy: float = 0.0
    reduce: Denominator = sum_over_length()
    imitate_over: Denominator = mean_over_tokens

    presets: ClassVar = {
        "as_paper": {"clip": 0.2, "deviation": True, "imitate_over": mean_over_trajectories},
        "as_released": {"coefficient": 1 / 64, "entropy": 0.001 / 64},
        "soft": {"soft": True},
    }

    def __post_init__(self):
        if not 0 <= self.gate < self.rollouts:
            raise ValueError(f"gate {self.gate} decides nothing for {self.rollouts} rollouts; choose one from 0 to one less")
        if self.deviation and self.rollouts < 2:
            raise ValueError(f"rollouts {self.rollouts} have no standard deviation; choose at least 2, or deviation false")

    @property
    def needs(self):
        return ("entropy",) if self.entropy else ()

    def explore(self, problem, context):
        rollouts = yield Sample(self.rollouts)
        rewards = [r.reward for r in rollouts]
        failed = sum(reward == 1 for reward in rewards) <= self.gate
        mean, scale = statistics.fmean(rewards), statistics.stdev(rewards) + 1e-6 if self.deviation else 1.0
        reinforced = [Trajectory(problem, (own(r, (r.reward - mean) / scale),)) for r in rollouts]
        if not (failed or self.soft):
            return reinforced
        imitated = Trajectory(problem, (expert(problem.demonstration()),))
        return [*reinforced, imitated] if self.soft else [imitated]

    def loss(self, t):
        ratio = (t.logp - t.old_logp).exp()
        gain = t.advantage * ratio
        if self.clip is not None:
            gain = gain.minimum(t.advantage * ratio.clamp(1 - self.clip, 1 + self.clip))
        terms = {
            "policy": Term(-gain, self.reduce, mask=t.trained & ~t.expert),
            "imitation": Term(-t.logp, self.imitate_over, self.coefficient, mask=t.trained & t.expert),
        }
        if self.entropy:
            terms["entropy"] = Term(-t.entropy, mean_over_tokens, self.entropy, mask=t.response)
        return terms
