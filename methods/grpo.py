"""GRPO in the Dr.GRPO form that the LUFFY family runs: reinforce what beats the group's mean, with nothing divided by length
or by the group's standard deviation.

Paper        Dr.GRPO, arXiv:2503.20783; GRPO itself (arXiv:2402.03300, eq. 3) divides the advantage by the group's standard
             deviation and each rollout's loss by its length, which favours easy problems and long wrong answers
Code         ElliottYan/LUFFY@01f4ae0, mix_src/mix_core_alg.py (adv_estimator grpo, use_std False, loss_remove_token_mean)
Sampling     one group of 8 rollouts per problem
Advantage    reward - mean reward of the group
Loss         -advantage * ratio, ratio = p / p_old; with one update per batch the ratio is 1 and PPO's clip never acts, so the
             default has none (`clip=0.2` gives LUFFY's on-policy script)
Denominator  token sum / response limit, averaged over trajectories. The released code sums over the sequences of a GPU instead:
             the same direction, 64 times longer there
Left out     KL penalty and reference model (as in LUFFY and TRAPO), entropy bonus (0.001 in LUFFY's script)
"""

from dataclasses import dataclass

from engine.reduce import Denominator, sum_over_length
from engine.words import Sample, Trajectory, own


@dataclass(frozen=True)
class Method:
    group: int = 8
    clip: float | None = None
    reduce: Denominator = sum_over_length()

    def explore(self, problem, context):
        rollouts = yield Sample(self.group)
        mean = sum(r.reward for r in rollouts) / len(rollouts)
        return [Trajectory(problem, (own(r, r.reward - mean),)) for r in rollouts]

    def loss(self, t):
        ratio = (t.logp - t.old_logp).exp()
        gain = t.advantage * ratio
        if self.clip is not None:
            gain = gain.minimum(t.advantage * ratio.clamp(1 - self.clip, 1 + self.clip))
        return -gain
