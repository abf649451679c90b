"""LUFFY: put one expert solution into each group of rollouts and let the group's advantage say how much to imitate it.

Paper        arXiv:2504.14945v5, section 3 (mixed-policy GRPO, policy shaping)
Code         ElliottYan/LUFFY@01f4ae0, luffy/verl/verl/mix_src/mix_core_alg.py, mix_vllm_rollout.py, exp_scripts/train.sh
Sampling     7 own rollouts; the expert solution, graded like them, is the eighth member
Advantage    reward - mean reward of all eight; no standard deviation
Loss         own tokens: -advantage * ratio, unclipped; expert tokens: -advantage * p / (p + 0.1), the expert's own probability
             taken as 1. The shaping lifts the gradient where p is small: advantage * 0.1 p / (p + 0.1)^2 on log p
Denominator  token sum of both kinds / response limit, averaged over trajectories
Paper and code disagree on
  entropy      bonus of .01 printed | .001 in the script, against a policy term summed over 64 sequences of a GPU (.001 / 64;
               for one micro-batch, as the code adds up a mean for each)
  deviation    divides by the group's, in the objective | dropped, in text and code
  clip         own tokens clipped, in the main equation | not, in appendix and code
  updates      not stated | two per batch, so the second ratio is not quite 1; the engine makes one
We follow the code on the middle two because text and ablation do, `as_paper` on the deviation too; and leave the bonus out, as
for every method here, unless a preset asks for it. A problem without a demonstration gets eight own rollouts in the code; here
it is an error.
"""

from dataclasses import dataclass
from typing import ClassVar

from engine.reduce import Denominator, mean_over_tokens, sum_over_length
from engine.words import Sample, Term, Trajectory, expert, own


@dataclass(frozen=True)
class Method:
    rollouts: int = 7
    shaping: float = 0.1
    clip: float | None = None  # of own tokens
    entropy: float = 0.0
    reduce: Denominator = sum_over_length()

    presets: ClassVar = {"as_paper": {"entropy": 0.01, "clip": 0.2}, "as_released": {"entropy": 0.001 / 64}}

    @property
    def needs(self):
        return ("entropy",) if self.entropy else ()

    def explore(self, problem, context):
        rollouts = yield Sample(self.rollouts)
        (demonstration,) = yield Sample(1, prefix=problem.demonstration(), max_new_tokens=0)
        group = [*rollouts, demonstration]
        mean = sum(r.reward for r in group) / len(group)
        return [
            *(Trajectory(problem, (own(r, r.reward - mean),)) for r in rollouts),
            Trajectory(problem, (expert(demonstration.prefix, demonstration.reward - mean),)),
        ]

    def loss(self, t):
        p, ratio = t.logp.exp(), (t.logp - t.old_logp).exp()
        gain = t.advantage * ratio
        if self.clip is not None:
            gain = gain.minimum(t.advantage * ratio.clamp(1 - self.clip, 1 + self.clip))
        policy = -(t.advantage * (p / (p + self.shaping))).where(t.expert, gain)
        if not self.entropy:
            return policy
        return {
            "policy": Term(policy, self.reduce),
            "entropy": Term(-t.entropy, mean_over_tokens, self.entropy, mask=t.response),
        }
