"""GRPO in the Dr.GRPO form that the LUFFY family runs: reinforce what beats the group's mean, with nothing divided by length
or by the group's standard deviation.

Paper        Dr.GRPO, arXiv:2503.20783; GRPO itself (arXiv:2402.03300, eq. 3) also divides the advantage by the group's standard
             deviation, which lifts very easy and very hard problems, and each rollout's loss by its length, which favours
             long wrong answers
Code         ElliottYan/LUFFY@01f4ae0, luffy/verl/verl/mix_src/mix_core_alg.py (adv_estimator grpo, use_std False,
             loss_remove_token_mean)
Sampling     one group of 8 rollouts per problem
Advantage    reward - mean reward of the group
Loss         -advantage * ratio, ratio = p / p_old
Denominator  token sum / response limit, averaged over trajectories
Paper and code disagree on the sum: the code adds up the sequences of a GPU instead of averaging (the same direction, 64 times
             longer there); and on updates per batch: the code makes two, so its second ratio is not quite 1. The engine makes
             one, the ratio is 1 and PPO's clip never acts. `as_released` has the code's clip, .2, and its bonus on the entropy,
             .001 against the sum over 64 sequences and so .001 / 64 (for one micro-batch: the code adds up a mean for each)
Other preset `corrected`: the RL stage of arXiv:2604.23747, which clips at .2 below and .28 above and averages over all tokens
             of the update. It is also said to have no length normalisation; we follow "token-level loss".
Left out     KL penalty and reference model (as in LUFFY and TRAPO)
"""

from dataclasses import dataclass
from typing import ClassVar

from engine.reduce import Denominator, mean_over_tokens, sum_over_length
from engine.words import Sample, Term, Trajectory, own


@dataclass(frozen=True)
class Method:
    group: int = 8
    clip: float | None = None
    clip_high: float | None = None  # above 1; None: the same as below
    entropy: float = 0.0
    reduce: Denominator = sum_over_length()

    presets: ClassVar = {
        "as_released": {"clip": 0.2, "entropy": 0.001 / 64},
        "corrected": {"clip": 0.2, "clip_high": 0.28, "reduce": mean_over_tokens},
    }

    @property
    def needs(self):
        return ("entropy",) if self.entropy else ()

    def explore(self, problem, context):
        rollouts = yield Sample(self.group)
        mean = sum(r.reward for r in rollouts) / len(rollouts)
        return [Trajectory(problem, (own(r, r.reward - mean),)) for r in rollouts]

    def loss(self, t):
        ratio = (t.logp - t.old_logp).exp()
        gain = t.advantage * ratio
        if self.clip is not None:
            high = self.clip if self.clip_high is None else self.clip_high
            gain = gain.minimum(t.advantage * ratio.clamp(1 - self.clip, 1 + high))
        if not self.entropy:
            return -gain
        return {
            "policy": Term(-gain, self.reduce),
            "entropy": Term(-t.entropy, mean_over_tokens, self.entropy, mask=t.response),
        }
