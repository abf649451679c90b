"""PSFT: imitate the expert like a rollout of advantage 1 under PPO's clip, so that no token's probability rises too fast.

Paper        arXiv:2508.17784 (ICLR 2026), the clipped objective with every advantage 1
Code         zwhong714/PSFT@569b1ba, verl/recipe/psft/psft_ray_trainer.py, verl/verl/trainer/ppo/core_algos.py; lines as of
             zwhong714/PSFT@bd20b49, verl/verl/trainer/ppo/core_algos.py:862-888 (ratio, clip, mean)
Sampling     none; one demonstration per problem
Loss         -min(r, clip(r, 1 - .2, 1 + .28)) on every expert token, r = exp(clamp(log p - log p_old, -20, 20)): SFT's gradient
             where r is 1, none once r is above 1.28. With an advantage of 1 the lower bound never acts; it is the code's form
Reference    p_old is of the policy as it was at the last update whose number is a multiple of `reference_every`: 8, the
             code's 64 problems in mini-batches of 8 (4 and 16 are ablations). An update's problems being new, r moves only by
             what others taught, and clips little at a small learning rate; at every 8th update r is 1 throughout
Denominator  mean over all expert tokens of the update; the code's mean is over those of a micro-batch

Paper and code disagree on nothing that is a setting of this file. Batch 8 and lr 1e-6, constant after 10 updates of warm-up,
are the run's. Left out: an SFT before it ("warm-up"), a pipeline of its own; and a gap of the code's, which writes no end of
sequence and cuts a response at the first one it finds; here every demonstration ends with its own.
"""

from dataclasses import dataclass

from engine.reduce import Denominator, mean_over_tokens
from engine.words import Trajectory, expert


@dataclass(frozen=True)
class Method:
    clip: float = 0.2
    clip_high: float = 0.28
    reference_every: int = 8
    reduce: Denominator = mean_over_tokens

    needs = ("reference_logp",)

    def __post_init__(self):
        if self.clip_high <= 0:
            raise ValueError(f"clip_high {self.clip_high} clips every token at the start; use a bound above 0, as 0.28")
        if self.reference_every < 1:
            raise ValueError(f"reference_every {self.reference_every} is no number of updates; use 2 or more (1 is SFT)")

    def explore(self, problem, context):
        return [Trajectory(problem, (expert(problem.demonstration()),))]

    def loss(self, t):
        ratio = (t.logp - t.reference_logp).clamp(-20, 20).exp()
        return -ratio.minimum(ratio.clamp(1 - self.clip, 1 + self.clip_high))
