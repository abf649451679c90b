"""ExGRPO: once the policy solves enough, learn again from its own earlier successes on problems of medium difficulty.

Paper        arXiv:2510.02245, known here by its code alone
Code         ElliottYan/LUFFY@01f4ae0, ExGRPO/exp_scripts/run_exgrpo.sh and the copy of mix_src there
Sampling     8 own rollouts per problem. Replay is switched on for good after an update with more than 35 % right; from the next
             update on a problem with 1 to 7 right ones enters the pool with one of them, and one that was there and now has
             none stays as it was. With 8 right, before the switch too, it is retired: it leaves the pool, and the run passes
             it by. Half of an update's problems are replayed ones, as far as the pool goes, each with 7 new rollouts and its
             stored success as the eighth: a Gaussian around 4 right with deviation 1 draws the bucket (how many were right),
             chance the problem in it, none twice; an empty bucket's share goes to the others. New problems of the run's order
             fill the rest
Advantage    reward - mean reward of the eight, a replayed success included; no standard deviation
Loss         own tokens: -advantage * ratio, unclipped; replayed tokens: -advantage * w / (w + .1), w = p / the probability
             recorded when it was sampled
Denominator  token sum of both kinds / response limit, averaged over trajectories

What the code does differently (`as_released` takes over the first)
  entropy      bonus of .001 against a policy term summed over the 64 sequences of a GPU (.001 / 64)
  ranking      of a problem's stored successes the one with the lowest entropy under the current policy is replayed, by the
               intent of code that as written divides the sum by the number of padding positions. Here the one with the
               highest mean log-prob as recorded, so that only that one is stored
  clip         before the first replay own tokens are clipped at .2. The engine makes one update of a batch, where the ratio
               is 1 and no clip acts
  skipping     a step whose gradient norm exceeds 500 or is not finite is left out; here the latter stops the run
The other half of the run's problems is passed by. An update is smaller by its retired problems; the code takes them out of the
next epoch's data. What the pool takes and when was read in copies of the code whose commit is not known. The released bonus
assumes one micro-batch: the code adds up a mean for each.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from engine.reduce import Denominator, mean_over_tokens, sum_over_length
from engine.words import Problem, Sample, Term, Trajectory, own, replay


@dataclass(frozen=True)
class Method:
    rollouts: int = 8
    threshold: float = 0.35  # replay begins once more of an update's rollouts than this are right
    share: float = 0.5  # replayed problems per problem of the update
    shaping: float = 0.1
    entropy: float = 0.0
    reduce: Denominator = sum_over_length()

    presets: ClassVar = {"as_released": {"entropy": 0.001 / 64}}

    def __post_init__(self):
        if self.rollouts < 2:
            raise ValueError(
                f"rollouts {self.rollouts}: a success is stored beside failures and replayed beside others; use 2+"
            )
        if not 0 <= self.share <= 1:
            raise ValueError(f"share {self.share} is no share of an update's problems; choose one from 0 to 1")
        if self.shaping <= 0:
            raise ValueError(f"shaping {self.shaping} leaves replayed tokens no gradient (w / w is 1); choose more than 0")

    @property
    def needs(self):
        return ("entropy",) if self.entropy else ()

    def draw(self, problems, context):
        memory = context.memory
        count = int(self.share * len(problems)) if memory.get("replays") else 0
        memory["due"] = due = self.due(memory.get("pool", {}), count, context.rng)
        new = [p for p in problems if p.id not in (*due, *memory.get("retired", ()))]
        entries = [(name, *memory["pool"][name][:2]) for name in due]
        return new[: len(problems) - len(due)] + [Problem(name, tuple(prompt), answer) for name, prompt, answer in entries]

    def explore(self, problem, context):
        stored = [context.memory["pool"][problem.id][3:]] if problem.id in context.memory.get("due", ()) else []
        rollouts = yield Sample(self.rollouts - len(stored))
        mean = sum((*(r.reward for r in rollouts), len(stored))) / self.rollouts
        found = [Trajectory(problem, (own(r, r.reward - mean),), note=r.reward) for r in rollouts]
        return found + [Trajectory(problem, (replay(tuple(t), tuple(p), 1 - mean),), note=1.0) for t, p in stored]

    def update(self, trajectories, context):
        memory = context.memory
        pool, retired = memory.setdefault("pool", {}), memory.setdefault("retired", [])
        replays = memory.setdefault("replays", False)
        for first in range(0, len(trajectories), self.rollouts):
            group = trajectories[first : first + self.rollouts]
            problem, right = group[0].problem, [t.segments[0] for t in group if t.note]
            if len(right) == self.rollouts:
                pool.pop(problem.id, None)
                retired.append(problem.id)
            elif right and replays:
                stored = [pool[problem.id][3:]] if problem.id in pool else []
                stored += [[list(s.tokens), list(s.logp)] for s in right]
                best = max(stored, key=lambda s: sum(s[1]) / len(s[1]))
                pool[problem.id] = [list(problem.prompt), problem.answer, len(right), *best]
        solved = sum(t.note for t in trajectories)
        memory["replays"] = replays or solved / max(1, len(trajectories)) > self.threshold
        return trajectories

    def due(self, pool, count, rng):
        buckets = {}
        for name in sorted(pool):
            buckets.setdefault(pool[name][2], []).append(name)
        found = []
        while buckets and len(found) < count:
            (k,) = rng.choices(list(buckets), [math.exp(-((k - self.rollouts / 2) ** 2) / 2) for k in buckets])
            found.append(buckets[k].pop(rng.randrange(len(buckets[k]))))
            buckets = {k: names for k, names in buckets.items() if names}
        return found

    def loss(self, t):
        ratio = (t.logp - t.old_logp).exp()
        policy = -t.advantage * (ratio / (ratio + self.shaping)).where(t.replay, ratio)
        if not self.entropy:
            return policy
        return {
            "policy": Term(policy, self.reduce),
            "entropy": Term(-t.entropy, mean_over_tokens, self.entropy, mask=t.response),
        }
