"""RL with SFT loss: reinforce own rollouts and imitate a demonstration in the same update, two losses added up.

Paper        arXiv:2504.14945v5 (LUFFY), its multi-task baseline
Code         ElliottYan/LUFFY@01f4ae0, exp_scripts/train_rl_sft_loss.sh, luffy/verl/verl/mix_src/mix_actor.py
             (use_sft_multitask_loss), mix_core_alg.py (compute_sft_pure_loss, compute_grpo_outcome_advantage_split)
Sampling     7 own rollouts; one demonstration joins them, ungraded
Advantage    reward - mean reward of the seven; no standard deviation
Loss         own tokens: -advantage * ratio, unclipped; demonstration: -log p, added with `coefficient`
Denominator  own tokens: token sum / response limit, averaged over all eight trajectories of a problem; demonstrations: mean
             over all their tokens of the update

Paper and code disagree on (fields; `as_paper`, `as_released`):
  coefficient  of the sum, not given | 1, against a policy term summed over the 64 sequences of a GPU: 1 / 64 per trajectory
  entropy      bonus of .01 | .001 / 64, likewise; both over all response tokens
The paper names no scale, so its preset and the default keep 1: beside a policy term averaged over trajectories that is mostly
SFT. Not reproduced from the code: it takes the mean of -log p in each micro-batch and adds these up, so its coefficient is the
number of micro-batches with a demonstration, 4 to 8 on a GPU; one is assumed, as for the bonus.
"""

from dataclasses import dataclass
from typing import ClassVar

from engine.reduce import Denominator, mean_over_tokens, sum_over_length
from engine.words import Sample, Term, Trajectory, expert, own


@dataclass(frozen=True)
class Method:
    rollouts: int = 7
    coefficient: float = 1.0
    entropy: float = 0.0
    reduce: Denominator = sum_over_length()

    presets: ClassVar = {
        "as_paper": {"entropy": 0.01},
        "as_released": {"coefficient": 1 / 64, "entropy": 0.001 / 64},
    }

    @property
    def needs(self):
        return ("entropy",) if self.entropy else ()

    def explore(self, problem, context):
        rollouts = yield Sample(self.rollouts)
        mean = sum(r.reward for r in rollouts) / len(rollouts)
        return [
            *(Trajectory(problem, (own(r, r.reward - mean),)) for r in rollouts),
            Trajectory(problem, (expert(problem.demonstration()),)),
        ]

    def loss(self, t):
        ratio = (t.logp - t.old_logp).exp()
        terms = {
            "policy": Term(-t.advantage * ratio, self.reduce, mask=t.trained & ~t.expert),
            "imitation": Term(-t.logp, mean_over_tokens, self.coefficient, mask=t.trained & t.expert),
        }
        if self.entropy:
            terms["entropy"] = Term(-t.entropy, mean_over_tokens, self.entropy, mask=t.response)
        return terms
