"""SRFT: imitate demonstrations and reinforce rollouts in one update, with weights that follow the policy's entropy.

Paper        arXiv:2506.19767 (ICLR 2026), eq. 6 to 13
Code         fyqqyf/SRFT@8d4e10a (srft/verl/verl/mix_src/mix_core_alg.py, mix_actor.py, exp_scripts/train.sh), known here by the
             notes of others only; re-implemented in TsinghuaC3I/Unify-Post-Training@ae332f5 (offline_loss_type srft),
             hpt/verl/verl/mix_src/mix_actor.py:350-400 (H, weights, imitation), mix_core_alg.py:559-613 (own rollouts,
             shaping), mix_core_alg.py:649-675 (demonstration, sums)
Sampling     8 own rollouts; the expert solution, graded like them, joins the group
Advantage    (reward - mean) / standard deviation of all nine, for the demonstration. Own rollouts count +1 if right and -1 if
             not, whatever the group; with `on_positive="ratio"` they have the advantage too
Loss         four pieces; H is the policy's entropy and never has a gradient here
  demonstration, imitated    .5 exp(-H) * -log p
  demonstration, reinforced  -A p, its own probability taken as 1, unclipped
  own, right                 .1 exp(H) * -log p, or with "ratio" .1 exp(H) * -A p / p_old
  own, wrong                 +log p, which has no lower bound, or with "ratio" -A p / p_old
Denominator  imitation: mean over all tokens of the demonstrations; the other three: token sum / response limit, averaged over
             trajectories. The paper writes expectations; this is the re-implementation's, over whole updates

Paper and code disagree on (fields; `as_paper` = the defaults, `as_released` = the code as noted, `as_rerun` = re-implemented)
  exponent     exp(-H) on demonstrations: uncertain, so imitate less | exp(+H) | exp(-H)
  granularity  one H of the policy, of what is not said | H of each token | of each trajectory, a mean over its tokens
  shaping      A p | LUFFY's A p / (p + .1) | the same
  on_positive  log p | the positive advantages of LUFFY's function, so "ratio" | log p
  group        8 and the demonstration | as in LUFFY, 7 and the demonstration | the same
  deviation    divides | as in LUFFY, does not | the same
  scale        .5 on imitation, no other said | the same against the other three summed over the sequences of a GPU: 16 of 64
               problems on 32 GPUs, so `imitation` is .5 / 16 per trajectory | .5 / 64 on 8 GPUs
  entropy      none | bonus of .001, likewise (.001 / 16) | .001 / 64
  reward       1 and -1 where it is derived, 1 and 0 where it is run | 1 and 0
We follow the paper by default because its sign is the published claim. An H of the whole batch, which its formula may mean, is
left out: a weight would depend on how an update is cut. Beside a policy term averaged over trajectories the default's imitation
is most of the loss. Not verified: the released code as a whole; that its H is each token's, and its group, deviation, scale and
what its .1 exp(H) multiplies, follow from its being LUFFY's function with weights put in; one micro-batch per step is assumed.
"""

import statistics
from dataclasses import dataclass
from typing import ClassVar

from engine.reduce import Denominator, mean_over_tokens, sum_over_length
from engine.words import Sample, Term, Trajectory, expert, own


@dataclass(frozen=True)
class Method:
    rollouts: int = 8
    exponent: float = -1.0  # of H in the weight of imitation
    granularity: str = "trajectory"  # or "token": whose entropy H is
    shaping: float = 0.0  # > 0: p / (p + shaping) where demonstrations are reinforced
    on_positive: str = "logp"  # or "ratio": how own rollouts are reinforced
    deviation: bool = True
    imitation: float = 0.5
    positive: float = 0.1
    entropy: float = 0.0
    reduce: Denominator = sum_over_length()
    needs = ("entropy",)

    presets: ClassVar = {
        "as_paper": {},
        "as_released": {
            "rollouts": 7,
            "exponent": 1.0,
            "granularity": "token",
            "shaping": 0.1,
            "on_positive": "ratio",
            "deviation": False,
            "imitation": 0.5 / 16,
            "entropy": 0.001 / 16,
        },
        "as_rerun": {"rollouts": 7, "shaping": 0.1, "deviation": False, "imitation": 0.5 / 64, "entropy": 0.001 / 64},
    }

    def __post_init__(self):
        for name, known in (("granularity", ("token", "trajectory")), ("on_positive", ("logp", "ratio"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown; use {known[0]!r} or {known[1]!r}")
        if self.shaping < 0:
            raise ValueError(f"shaping {self.shaping} divides by 0 at p = {-self.shaping}; choose 0 (no shaping) or more")

    def explore(self, problem, context):
        rollouts = yield Sample(self.rollouts)
        (demonstration,) = yield Sample(1, prefix=problem.demonstration(), max_new_tokens=0)
        rewards = [r.reward for r in (*rollouts, demonstration)]
        mean, scale = statistics.fmean(rewards), statistics.stdev(rewards) + 1e-6 if self.deviation else 1.0

        def advantage(r):
            return (r.reward - mean) / scale

        def sign(r):
            return advantage(r) if self.on_positive == "ratio" else 1.0 if r.reward == 1 else -1.0

        return [
            *(Trajectory(problem, (own(r, sign(r)),)) for r in rollouts),
            Trajectory(problem, (expert(demonstration.prefix, advantage(demonstration)),)),
        ]

    def loss(self, t):
        h = t.entropy.detach()
        if self.granularity == "trajectory":
            h = (h.where(t.response, 0.0).sum(1, keepdim=True) / t.response.sum(1, keepdim=True).clamp(min=1)).expand_as(h)
        p = t.logp.exp()
        gain = (t.logp - t.old_logp).exp() if self.on_positive == "ratio" else t.logp
        weight = (self.positive * h.exp()).where(t.advantage > 0, 1.0)
        reinforced = (p / (p + self.shaping) if self.shaping else p).where(t.expert, weight * gain)
        imitated = (self.exponent * h).exp() * t.logp
        terms = {
            "policy": Term(-t.advantage * reinforced, self.reduce),
            "imitation": Term(-imitated, mean_over_tokens, self.imitation, mask=t.trained & t.expert),
        }
        if self.entropy:
            terms["entropy"] = Term(-t.entropy, mean_over_tokens, self.entropy, mask=t.response)
        return terms
