"""TLDR: GRPO whose right answers earn less the longer they are.

Paper        arXiv:2505.07961, known here by its abstract: length-regularised GRPO with levels of control (short, medium, long),
             about half the tokens at little or no loss of accuracy
Code         zlli9/TLDR; not read
Reward       THIS FORMULA IS OURS, the paper's is unverified: right earns 1 - penalty * length / response limit, wrong earns 0
             whatever its length. It is the simplest form that shortens and keeps every right answer above every wrong one
Sampling     one group of 8 rollouts per problem
Advantage    reward - mean reward of the group; no standard deviation. Among right answers the shorter ones gain; where none is
             right, or `penalty` is 0, it is GRPO's
Loss         -advantage * ratio, ratio = p / p_old
Denominator  token sum / response limit, averaged over trajectories
Paper and code disagree on nothing that could be checked. A level of control is a value of `penalty`: .5, our default, takes
half of the reward from an answer as long as the limit.
Left out     the paper's other half, temperature scaling of the end-of-thinking token at inference; and its start, a policy that
             has been distilled by SFT: here it is the run's
"""

from dataclasses import dataclass

from engine.reduce import Denominator, sum_over_length
from engine.words import Sample, Trajectory, own


@dataclass(frozen=True)
class Method:
    group: int = 8
    penalty: float = 0.5
    reduce: Denominator = sum_over_length()

    def __post_init__(self):
        if not 0 <= self.penalty < 1:
            raise ValueError(
                f"penalty {self.penalty}: from 1 on a long right answer earns no more than a wrong one; choose 0 to below 1"
            )

    def explore(self, problem, context):
        rollouts = yield Sample(self.group)
        rewards = [r.reward * (1 - self.penalty * len(r.tokens) / context.response_tokens) for r in rollouts]
        mean = sum(rewards) / len(rewards)
        return [Trajectory(problem, (own(r, reward - mean),)) for r, reward in zip(rollouts, rewards, strict=True)]

    def loss(self, t):
        return -t.advantage * (t.logp - t.old_logp).exp()
