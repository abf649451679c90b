"""SEELE: give every problem the hint with which half of its rollouts succeed, found round by round by an item-response curve.

Paper        arXiv:2509.06923v1; the code (ChillingDream/seele) was not seen: all of this is the paper's text
Sampling     4 rounds of 8 rollouts; all of a round continue the same hint, the first round(rate * |y|) of the |y| (at most 5)
             steps of the demonstration. First rate: the one remembered for the problem, or (|y| - 1) / |y|. After each round
             f(rate) = b + (1 - b) / (1 + exp(-k (rate + mu))) is fitted to the success rates of this update's rounds, and to
             (0, 0) and (1, 1) where those rates were not tried, by least squares (trust-region reflective); equal rates are
             averaged. The next rate is where f is .5, at least 0 and at most 1
Memory       the last rate of each problem
Advantage    reward - mean reward of all 32, whatever their hints; no standard deviation
Loss         own tokens: -advantage * ratio + .001 KL to the start of training (k3); hint tokens: -.001 log p. With one update
             per batch PPO's clip never acts; its range is not given
Denominator  own tokens: token sum / response limit, averaged over trajectories; hint tokens: mean over all of the update

Where the paper is silent or says two things, and what is done here
  |y|          its unit is not said | steps, as the demonstrations have at most 5 and the first rate is (|y| - 1) / |y|
  rate         fitted to the one asked for or the one shown? | asked for. With shown steps / |y| and the point (0, 0) a problem
               that is always solved would keep a step of hint for good
  remembered   the rate used last or the one the last round predicts? | the latter, to three digits; read at the next visit
  fit          no start, no bounds | from b 0, k 10, mu -.5 within [0, 1], [.01, 100], [-2, 1]. Three or fewer points determine
               no curve of three parameters, so the start decides among those that fit, and more right rollouts need not
               mean a shorter hint
  f > .5       everywhere if b >= .5 | rate 0
  round        half a step | is shown
  hint         printed with the probability, not its logarithm | log p; mean over tokens, as no denominator is said
  KL           to pi_old in an equation, to pi_ref in the appendix | pi_ref: at one update per batch the other one is 0
  whole hint   not said | the end of sequence is left for the policy to write
32 rollouts a problem are the paper's, four times those of most methods here; the preset `eight` has 4 rounds of 2.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from engine.reduce import Denominator, mean_over_tokens, sum_over_length
from engine.words import Sample, Term, Trajectory, expert, own


def rate_for(target, seen):
    """The hint rate at which the curve through `seen`, pairs of hint rate and success rate, reaches `target`."""
    from scipy.optimize import least_squares  # when it is needed: plans import every method file

    tried = {rate: [a for r, a in seen if r == rate] for rate, _ in seen}
    points = {0.0: 0.0, 1.0: 1.0} | {rate: sum(found) / len(found) for rate, found in tried.items()}

    def misses(curve):
        b, k, mu = curve
        return [b + (1 - b) / (1 + math.exp(-k * (rate + mu))) - success for rate, success in points.items()]

    # Three points can be met exactly, for ever more closely: gtol ends that
    b, k, mu = least_squares(misses, (0.0, 10.0, -0.5), bounds=((0.0, 0.01, -2.0), (1.0, 100.0, 1.0)), gtol=1e-4).x.tolist()
    if b >= target:
        return 0.0
    return round(min(1.0, max(0.0, -mu - math.log((1 - target) / (target - b)) / k)), 3)


@dataclass(frozen=True)
class Method:
    rounds: int = 4
    rollouts: int = 8  # a round
    steps: int = 5
    target: float = 0.5
    imitation: float = 0.001
    kl: float = 0.001
    reduce: Denominator = sum_over_length()

    presets: ClassVar = {"eight": {"rollouts": 2}}

    def __post_init__(self):
        if not 0 < self.target < 1:
            raise ValueError(f"target {self.target} is no success rate that a hint could reach; choose one between 0 and 1")
        if min(self.rounds, self.rollouts, self.steps) < 1:
            raise ValueError(f"rounds {self.rounds}, rollouts {self.rollouts}, steps {self.steps}: each must be 1 or more")

    @property
    def needs(self):
        return ("reference_logp",) if self.kl else ()

    def explore(self, problem, context):
        ends = (0, *problem.steps(self.steps))
        count = len(ends) - 1
        rate = context.memory.get("rates", {}).get(problem.id, (count - 1) / count)
        group, seen = [], []
        for _ in range(self.rounds):
            shown = int(rate * count + 0.5)
            rollouts = yield Sample(self.rollouts, prefix=problem.demonstration()[:-1][: ends[shown]])
            group += rollouts
            seen.append((rate, sum(r.reward for r in rollouts) / len(rollouts)))
            rate = rate_for(self.target, seen)
        mean = sum(r.reward for r in group) / len(group)
        return [Trajectory(problem, (expert(r.prefix), own(r, r.reward - mean)), note=rate) for r in group]

    def update(self, trajectories, context):
        rates = context.memory.setdefault("rates", {})
        rates |= {t.problem.id: t.note for t in trajectories}
        return trajectories

    def loss(self, t):
        generated, ratio = t.trained & ~t.expert, (t.logp - t.old_logp).exp()
        terms = {
            "policy": Term(-t.advantage * ratio, self.reduce, mask=generated),
            "imitation": Term(-t.logp, mean_over_tokens, self.imitation, mask=t.trained & t.expert),
        }
        if self.kl:
            away = t.reference_logp - t.logp
            terms["kl"] = Term(away.exp() - away - 1, self.reduce, self.kl, mask=generated)
        return terms
