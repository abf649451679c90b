"""Two stages: imitate for long, then let GRPO shorten what is right, held near the imitator.

Paper        arXiv:2507.08267: SFT for as many as 10 epochs, then GRPO mainly for the length of solutions
Code         analokmaus/kaggle-aimo2-fast-math-r1@09bf8ff6, known here by a reader's notes
Stages       `sft` is trained as the method sft is, for three times its updates: about 10 epochs where the corrected baseline
             (arXiv:2604.23747) has 3; `two_stage` starts from it
Sampling     one group of 8 rollouts per problem
Reward       the sum of two. Accuracy scaled by a cosine of length / response limit: right falls from 1 to .1 as it gets longer,
             wrong rises from -1 to -.1. Relative length: .5 - (length - shortest) / (longest - shortest) of the group, at
             most 0 for wrong ones; 0 in a group of one length
Advantage    (reward - mean) / (standard deviation + 1e-4) of the group; the deviation of a sample of 8, so by 7
Loss         own tokens: -advantage * ratio + beta * k3, k3 = q / p - log(q / p) - 1 with q under the policy the stage started
             from
Denominator  mean over each trajectory's tokens, then over trajectories, both terms (GRPO's equation, arXiv:2402.03300 eq. 3)
Paper and code disagree on
  epochs       10 | a configuration of 20, of which GRPO takes checkpoint 350; here three times the run's
  updates      50 by a summary of the paper | 40; here the run's
Unverified: division by the deviation, and the denominator; both are GRPO's, whose trainer and version the notes do not name.
Copies of that trainer in other repositories divide by it, and take the mean over all tokens of a micro-batch.
What the code does differently: it counts 30,000 characters where we count tokens and the run's response limit, which no
response exceeds; it samples with top-p .9 and min-p .05, here the run's distribution.
Left out     the format reward (a box before the thought ends): the engine tells a method the verdict and nothing else
"""

import math
from dataclasses import dataclass
from statistics import fmean, stdev

from engine.reduce import Denominator, mean_over_trajectories
from engine.words import Sample, Stage, Term, Trajectory, own

stages = (Stage("sft", method="sft", times=3), Stage("two_stage", method="two_stage", parent="sft"))


@dataclass(frozen=True)
class Method:
    group: int = 8
    right: tuple[float, ...] = (1.0, 0.1)  # accuracy reward of the shortest and of the longest
    wrong: tuple[float, ...] = (-1.0, -0.1)
    relative: float = 1.0  # weight of the relative length reward
    beta: float = 0.04
    reduce: Denominator = mean_over_trajectories

    needs = ("reference_logp",)

    def __post_init__(self):
        if self.group < 2:
            raise ValueError(f"group {self.group}: one rollout has no deviation to be divided by; choose 2 or more")
        if len(self.right) != 2 or len(self.wrong) != 2:
            raise ValueError(
                f"right {self.right}, wrong {self.wrong}: give two rewards each, of the shortest and of the longest"
            )

    def explore(self, problem, context):
        rollouts = yield Sample(self.group)
        rewards = self.rewards(rollouts, context.response_tokens)
        mean, deviation = fmean(rewards), stdev(rewards) + 1e-4
        return [
            Trajectory(problem, (own(r, (reward - mean) / deviation),)) for r, reward in zip(rollouts, rewards, strict=True)
        ]

    def rewards(self, rollouts, limit):
        lengths = [len(r.tokens) for r in rollouts]
        shortest, spread = min(lengths), max(lengths) - min(lengths)
        found = []
        for rollout, length in zip(rollouts, lengths, strict=True):
            short, long = self.right if rollout.reward == 1 else self.wrong
            accuracy = long + (short - long) * (1 + math.cos(math.pi * length / limit)) / 2
            relative = 0.5 - (length - shortest) / spread if spread else 0.0
            found.append(accuracy + self.relative * (relative if rollout.reward == 1 else min(0.0, relative)))
        return found

    def loss(self, t):
        behind = t.reference_logp - t.logp
        return {
            "policy": Term(-t.advantage * (t.logp - t.old_logp).exp(), self.reduce),
            "kl": Term(behind.exp() - behind - 1, self.reduce, self.beta, mask=t.trained & ~t.expert),
        }
