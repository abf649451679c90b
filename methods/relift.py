"""ReLIFT: reinforce, and keep the problems on which every rollout fails; when enough are kept, imitate their demonstrations.

Paper        arXiv:2506.07527, known here by its code alone
Code         TheRoadQaQ/ReLIFT@eb95454f, relift/verl/verl/relift/{trainer,actor,core_algos}.py, examples/math-7b/train.sh; later
             scripts have other sizes. Lines as of TheRoadQaQ/ReLIFT@1ff8869, relift/verl/verl/relift/core_algos.py:45-67
             (policy), core_algos.py:77-83 (imitation)
Sampling     8 own rollouts per problem. If none is right, the problem's demonstration enters a queue, in front
Advantage    reward - mean reward of the eight; no standard deviation
Update       after an update by reinforcement that leaves `batch` demonstrations in the queue (None: as many as an update has
             problems, as in the code: 128), the next one imitates the newest of them and samples nothing. The others stay,
             and may stay for good
Loss         own tokens: -advantage * ratio, unclipped; demonstrations: -log p
Denominator  own tokens: token sum / response limit, averaged over trajectories; demonstrations: mean over all their tokens

What the code does differently (`as_released` takes over the first two):
  coefficient  its imitation loss is divided by 8 too much on 8 GPUs, which its own Adam hides but for clipping and weight decay
  entropy      bonus of .001 against a policy term summed over the 64 sequences of a GPU (.001 / 64), for one micro-batch; also
               where it imitates, there divided by 8 like the imitation (.001 / 8)
  updates      imitates in between; here an imitation takes one of the run's updates, and that update's problems are passed by
  clipping     gradient norm .7 for reinforcement and 1 for imitation; here the run's one `clip_gradient`
The paper is said to collect demonstrations online; code and this file take those of the data.
"""

from dataclasses import dataclass
from typing import ClassVar

from engine.reduce import Denominator, mean_over_tokens, sum_over_length
from engine.words import Problem, Sample, Term, Trajectory, expert, own


@dataclass(frozen=True)
class Method:
    rollouts: int = 8
    batch: int | None = None
    coefficient: float = 1.0
    entropy: float = 0.0
    imitation_entropy: float = 0.0  # in an update that imitates
    reduce: Denominator = sum_over_length()

    optimizers = ("reinforcement", "imitation")
    presets: ClassVar = {"as_released": {"coefficient": 1 / 8, "entropy": 0.001 / 64, "imitation_entropy": 0.001 / 8}}

    @property
    def needs(self):
        return ("entropy",) if self.entropy or self.imitation_entropy else ()

    def explore(self, problem, context):
        if "due" in context.memory:
            return []
        rollouts = yield Sample(self.rollouts)
        mean = sum(r.reward for r in rollouts) / len(rollouts)
        return [Trajectory(problem, (own(r, r.reward - mean),), note=mean) for r in rollouts]

    def update(self, trajectories, context):
        memory = context.memory
        if "due" in memory:
            return [Trajectory(Problem(i, tuple(p), a), (expert(tuple(d)),)) for i, p, a, d in memory.pop("due")]
        groups = trajectories[:: self.rollouts]
        failed = [t.problem for t in groups if t.note == 0]
        queue = [[p.id, list(p.prompt), p.answer, list(p.demonstration())] for p in failed] + memory.get("queue", [])
        batch = self.batch or len(groups)
        if len(queue) >= batch:
            memory["due"], queue = queue[:batch], queue[batch:]
        memory["queue"] = queue
        return trajectories

    def optimizer(self, trajectories):
        return "imitation" if any(t.segments[0].expert for t in trajectories) else "reinforcement"

    def loss(self, t):
        ratio = (t.logp - t.old_logp).exp()
        terms = {
            "policy": Term(-t.advantage * ratio, self.reduce, mask=t.trained & ~t.expert),
            "imitation": Term(-t.logp, mean_over_tokens, self.coefficient, mask=t.trained & t.expert),
        }
        if self.entropy or self.imitation_entropy:
            terms["entropy"] = Term(-t.entropy, mean_over_tokens, self.entropy, mask=t.response & ~t.expert)
            terms["imitation_entropy"] = Term(-t.entropy, mean_over_tokens, self.imitation_entropy, mask=t.response & t.expert)
        return terms
