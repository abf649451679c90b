"""iw-SFT: imitate each demonstration the more, the further the policy has moved towards it since it started.

Paper        arXiv:2507.12856: SFT on filtered data bounds an RL objective from below; importance weights tighten the bound
Code         emmyqin/iw_sft@9a3e4e4, bounding_trainers.py (IwSFTLoss, called with temp 1 and sum_over_time); lines as of
             emmyqin/iw_sft@3686986, bounding_trainers.py:46-62 (weights), bounding_trainers.py:66-71 (mean),
             bounding_trainers.py:185-211 (reference, call)
Sampling     none; one demonstration per problem
Loss         -w log p on every expert token, end of sequence included, w = sg(clamp(exp(tau * mean(log p - log p_ref)), 0, 16)):
             one weight per demonstration, the mean being over its own trained tokens alone. At the start w is 1
Reference    the model the stage starts from
Denominator  mean over all expert tokens of the update, as in the code; weights are not renormalised

Paper and code disagree on (`as_paper`, `as_released` = the defaults)
  weight       derived as a ratio of trajectories' probabilities, the exponential of a sum | the geometric mean of their tokens'
               ratios, the exponential of a mean
We follow the code: over thousands of tokens a sum leaves every range at once. tau is 1 as the code calls it, 2 where it is not
said. Other preset: `per_step`, the code's other branch: a weight for every token, p / p_ref kept within .2 and 1.8 (tau 1).
Left out: weights from quality scores. The code's shapes pair weights with their demonstrations in micro-batches of one alone.
"""

from dataclasses import dataclass
from typing import ClassVar

from engine.reduce import Denominator, mean_over_tokens
from engine.words import Trajectory, expert


@dataclass(frozen=True)
class Method:
    tau: float = 1.0
    low: float = 0.0
    high: float = 16.0
    per_step: bool = False
    trajectory: bool = False  # the ratio of whole demonstrations' probabilities, not of their tokens' on average
    reduce: Denominator = mean_over_tokens

    presets: ClassVar = {
        "as_paper": {"trajectory": True},
        "as_released": {},
        "per_step": {"per_step": True, "low": 0.2, "high": 1.8},
    }
    needs = ("reference_logp",)

    def __post_init__(self):
        if not 0 <= self.low <= 1 <= self.high:
            raise ValueError(f"low {self.low} and high {self.high} exclude 1, the weight at the start; put 1 between them")

    def explore(self, problem, context):
        return [Trajectory(problem, (expert(problem.demonstration()),))]

    def loss(self, t):
        moved = (t.logp - t.reference_logp).detach()
        if not self.per_step:
            tokens = 1 if self.trajectory else t.trained.sum(dim=1, keepdim=True).clamp(min=1)
            moved = moved.where(t.trained, 0.0).sum(dim=1, keepdim=True) / tokens
        return -(self.tau * moved).exp().clamp(self.low, self.high) * t.logp
