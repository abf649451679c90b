"""TRAPO: guide the policy with expert openings where it fails, and imitate them with a gradient bounded for unlikely tokens.

Paper        arXiv:2512.17636 (ICLR 2026), eq. 3 (TrSFT), Algorithm 1 (micro-groups)
Code         Su-my/TRAPO@982cb8f, luffy/verl/verl/trapo_src: mix_trainer.py:450-527, mix_vllm_rollout.py:116-260 (micro-groups),
             mix_core_alg.py:202-214 (own tokens), mix_core_alg.py:227-236 (LUFFY's loss, TrSFT), mix_core_alg.py:265-292
             (weight, sum), mix_actor.py:107-148 (unlearned, SFT loss), mix_actor.py:211-252 (entropy),
             exp_scripts/train_trapo.sh:71-77
Sampling     micro-groups of 4, 2, 1, 1 rollouts in order; each continues the given share of the demonstration if the mean
             reward so far is below its threshold, and starts from the bare problem otherwise. A whole demonstration is graded
             as it stands, with nothing generated after it
Advantage    reward (prefix and completion graded together) - mean of all 8, guided ones included; no standard deviation
Loss         own tokens: -advantage * ratio; expert tokens (TrSFT): -p / max(sg(p), alpha), whose gradient is
             -grad p / max(p, alpha): SFT where the policy is confident, bounded where it is not. Weighted 1:1
Denominator  paper: mean over each trajectory's tokens, then over trajectories

Paper and code disagree on (fields; `as_paper` = the defaults, `as_released` = the code):
  ratios       .2 .5 1 (Fig. 1 draws .25) | .25 .5 1
  thresholds   mean reward < .5 .7 .9 | reward sum < 2 of 4, < 4 of 6, < 7 of 7; they differ at 4 of 6
  reach        cut at the token count | moved on to a paragraph break within a further .30
  unlearned    TrSFT on every prefix | the first of the two second-group prefixes gets no loss of either kind
  extra        which of a problem's two trajectories is not said | the last micro-group shows the second one
  reduce       averages; taken here over all tokens of a trajectory | token sum / response limit, per trajectory
  entropy      none | bonus on the mean entropy of all response tokens, prefixes included: .001, against a policy term summed
               over the 8 sequences of a GPU; per trajectory that is .001 / 8
We follow the paper by default because its rule is the published claim. Where it is silent or disagrees with itself, every
preset follows the code: the reward reads prefix and completion together; a whole demonstration is not continued; the group's
standard deviation is not used; no PPO clip (`clip=0.2` adds one); `<`, not `<=`; alpha .1 (an appendix says 1). Batch 128
and lr 5e-6 (paper) or 8 and 1e-6 (code) are the run's. Not reproduced from the code: its demonstrations are cut down to the
thought, and its entropy bonus grows with the number of micro-batches (a bug; one per GPU is assumed).

Other presets: the ladder of the paper's Table 2, every step on the paper's settings, and what its reviewers asked for
  micro_groups          guidance alone: prefixes are shown, nothing is learned from them. A whole demonstration is then only a
                        reward in the group's mean
  sft_loss              alpha 0: the gradient of -log p on prefixes
  luffy_loss            LUFFY's -p / (p + .1) on prefixes, weighted 1 like every prefix in the code; in LUFFY itself the weight
                        is the advantage of the demonstration, which is right, and so never negative
  sft_loss_as_released  the code's branch of that name, with the rest of the code: -log p on whole guided responses, own tokens
                        included, which then leave the policy term; weight 1 against the sum over 8 sequences is 1 / 8. Its
                        mean is over the tokens of an update, the code's over those of a micro-batch (one per GPU is assumed)
  fixed_prefix          the same micro-groups and ratios, but guided whatever the problem's rewards so far
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from engine.reduce import Denominator, mean_over_tokens, mean_over_trajectories, sum_over_length
from engine.words import Sample, Term, Trajectory, expert, own

RELEASED = {
    "ratios": (0.0, 0.25, 0.5, 1.0),
    "thresholds": (-1.0, 2 / 4, 4 / 6, 7 / 7),
    "reach": 0.3,
    "unlearned": (4,),
    "extra": 1,
    "entropy": 0.001 / 8,
    "reduce": sum_over_length(),
}


@dataclass(frozen=True)
class Method:
    sizes: tuple[int, ...] = (4, 2, 1, 1)
    ratios: tuple[float, ...] = (0.0, 0.2, 0.5, 1.0)
    thresholds: tuple[float, ...] = (-1.0, 0.5, 0.7, 0.9)
    alpha: float = 0.1
    shaping: float = 0.0  # > 0: p / (p + shaping) on expert tokens instead of TrSFT
    whole: float = 0.0  # weight of -log p on whole guided responses, which then leave the policy term
    reach: float = 0.0
    unlearned: tuple[int, ...] = ()  # positions among the 8 rollouts whose prefix is shown but not imitated
    extra: int = 0  # which demonstration the last micro-group shows
    clip: float | None = None
    entropy: float = 0.0
    reduce: Denominator = mean_over_trajectories

    presets: ClassVar = {
        "as_paper": {},
        "as_released": RELEASED,
        "micro_groups": {"unlearned": (4, 5, 6, 7)},
        "sft_loss": {"alpha": 0.0},
        "luffy_loss": {"shaping": 0.1},
        "sft_loss_as_released": {**RELEASED, "unlearned": (), "whole": 1 / 8},
        "fixed_prefix": {"thresholds": (-1.0, 2.0, 2.0, 2.0)},  # no mean reward reaches 2
    }

    def __post_init__(self):
        if not len(self.sizes) == len(self.ratios) == len(self.thresholds):
            raise ValueError(
                f"sizes {self.sizes}, ratios {self.ratios} and thresholds {self.thresholds} need one entry each per micro-group"
            )
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha {self.alpha} is no probability; choose one from 0 (SFT) to 1 (the gradient of -p)")

    @property
    def needs(self):
        return ("entropy",) if self.entropy else ()

    def explore(self, problem, context):
        rollouts = []
        last = len(self.sizes) - 1
        for group, (size, ratio, threshold) in enumerate(zip(self.sizes, self.ratios, self.thresholds, strict=True)):
            prefix = ()
            if rollouts and sum(r.reward for r in rollouts) / len(rollouts) < threshold:
                prefix = problem.prefix(ratio, demonstration=self.extra if group == last else 0, reach=self.reach)
            rollouts += yield Sample(size, prefix, max_new_tokens=0 if prefix and ratio >= 1 else None)
        mean = sum(r.reward for r in rollouts) / len(rollouts)
        return [
            Trajectory(problem, (expert(r.prefix, trained=i not in self.unlearned), own(r, r.reward - mean)))
            for i, r in enumerate(rollouts)
        ]

    def loss(self, t):
        p = t.logp.exp()
        ratio = (t.logp - t.old_logp).exp()
        gain = t.advantage * ratio
        if self.clip is not None:
            gain = gain.minimum(t.advantage * ratio.clamp(1 - self.clip, 1 + self.clip))
        floor = math.log(self.alpha) if self.alpha else -math.inf
        trsft = (t.logp - t.logp.detach().clamp(min=floor)).exp()  # p / max(sg(p), alpha), which must not be 0 / 0
        imitation = t.advantage * p / (p + self.shaping) if self.shaping else trsft
        policy = -imitation.where(t.expert, gain)
        if not (self.entropy or self.whole):
            return policy
        guided = t.expert.any(dim=1, keepdim=True)
        terms = {"policy": Term(policy, self.reduce, mask=t.trained & ~guided if self.whole else t.trained)}
        if self.whole:
            terms["imitation"] = Term(-t.logp, mean_over_tokens, self.whole, mask=t.trained & guided)
        if self.entropy:
            terms["entropy"] = Term(-t.entropy, mean_over_tokens, self.entropy, mask=t.response)
        return terms
