"""UFT: open every rollout with the same hint, fewer and fewer steps of a solution, and imitate the hint a little.

Paper        arXiv:2505.16984 (NeurIPS 2025)
Code         liumy2010/UFT@ad3c8ec7, run.py:9-37 (schedule, rollouts, coefficients), run.py:70-72 (R^3),
             verl/utils/dataset/rl_dataset.py:135-163 (hint: chunks, cosine, draw), verl/workers/actor/dp_actor.py:255-273 (loss
             of the hint), dp_actor.py:275-298 (policy, entropy, KL, means of a micro-batch),
             verl/trainer/config/ppo_trainer.yaml:28-32, ppo_trainer.yaml:149 (format); the losses it calls were not seen: 1e-6
             and 10 below are verl's
Sampling     4 rollouts that continue the same hint: the demonstration cut into L = at most 5 chunks, of which
             Binomial(L, p) are shown; p falls from .95 to .05 along a cosine over the first 300 of 500 updates (`hinted`: .6 of
             a run) and is 0 from the 301st on. The end of sequence is never shown
Advantage    (reward - mean of the 4) / their standard deviation (of a sample, + 1e-6)
Loss         own tokens: -advantage * ratio + .001 KL to the start of training (k3: e^d - d - 1, d = log p_ref - log p,
             at most 10); hint tokens: -.001 log p. With one update per batch PPO's clip at .2 never acts and is left out
Denominator  means over all own tokens and over all hint tokens of the update; the code takes those of a micro-batch

Paper and code disagree on (fields; `as_paper`, `as_released`; the default is the code without its bonus)
  hint         sum over a hint's tokens, averaged over rollouts | mean over tokens, so a token of a long hint weighs less
  entropy      none | a bonus of .001 on own tokens
We follow the code on the first: its scale does not hang on how long the demonstrations are.
Chunks end after sentences in the code, their number rounded to the nearest; here after blank lines where the demonstration has
them, rounded down. Its first update is the schedule's second.
Other preset `r3`: the paper's R^3, no imitation and any of 0 to L chunks, alike, throughout
Left out     the reward of .1 for an answer in the right format; the limit of 100 on the logits of a hint; staged hints, whose
             number of chunks falls by one at a time
"""

import math
from dataclasses import dataclass
from statistics import mean, stdev
from typing import ClassVar

from engine.reduce import Denominator, mean_over_tokens, sum_over_length
from engine.words import Sample, Term, Trajectory, expert, own


@dataclass(frozen=True)
class Method:
    rollouts: int = 4
    chunks: int = 5
    shown: tuple[float, ...] = (0.95, 0.05)  # chance of a chunk, at the start and at the end of hinting
    hinted: float = 0.6  # share of the run with hints
    uniform: bool = False  # any number of chunks alike, throughout
    imitation: float = 0.001
    kl: float = 0.001
    entropy: float = 0.0
    hint_reduce: Denominator = mean_over_tokens
    reduce: Denominator = mean_over_tokens

    presets: ClassVar = {
        "as_paper": {"hint_reduce": sum_over_length(1)},
        "as_released": {"entropy": 0.001},
        "r3": {"uniform": True, "imitation": 0.0},
    }

    def __post_init__(self):
        if self.rollouts < 2 or not 0 < self.hinted <= 1:
            raise ValueError(
                f"rollouts {self.rollouts}, hinted {self.hinted}: a standard deviation needs 2 rollouts, a share is in (0, 1]"
            )
        if self.chunks < 1 or len(self.shown) != 2 or not all(0 <= chance <= 1 for chance in self.shown):
            raise ValueError(
                f"chunks {self.chunks}, shown {self.shown}: give 1 chunk or more, and a chance from 0 to 1 for start and end"
            )

    @property
    def needs(self):
        return ("reference_logp",) * (self.kl > 0) + ("entropy",) * (self.entropy > 0)

    def explore(self, problem, context):
        ends = (0, *problem.steps(self.chunks))
        shown = context.rng.randrange(len(ends)) if self.uniform else self._binomial(len(ends) - 1, context)
        rollouts = yield Sample(self.rollouts, prefix=problem.demonstration()[:-1][: ends[shown]])
        rewards = [r.reward for r in rollouts]
        centre, spread = mean(rewards), stdev(rewards) + 1e-6
        hint = expert(rollouts[0].prefix, trained=self.imitation > 0)
        return [Trajectory(problem, (hint, own(r, (r.reward - centre) / spread))) for r in rollouts]

    def _binomial(self, count, context):
        if context.progress >= self.hinted:
            return 0
        start, end = self.shown
        chance = end + (start - end) * (1 + math.cos(math.pi * context.progress / self.hinted)) / 2
        return sum(context.rng.random() < chance for _ in range(count))

    def loss(self, t):
        generated, ratio = t.trained & ~t.expert, (t.logp - t.old_logp).exp()
        terms = {
            "policy": Term(-t.advantage * ratio, self.reduce, mask=generated),
            "imitation": Term(-t.logp, self.hint_reduce, self.imitation, mask=t.trained & t.expert),
        }
        if self.kl:
            away = t.reference_logp - t.logp
            terms["kl"] = Term((away.exp() - away - 1).clamp(max=10), self.reduce, self.kl, mask=generated)
        if self.entropy:
            terms["entropy"] = Term(-t.entropy, self.reduce, self.entropy, mask=generated)
        return terms
