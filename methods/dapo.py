"""DAPO: reinforce only groups that hold both right and wrong rollouts, clip higher above than below, weigh every token alike.

Paper        arXiv:2503.14476: clip-higher, dynamic sampling, token-level loss, overlong reward shaping; known here by its code
Code         verl's utils/reward_score/math_dapo.py and workers/reward_manager/dapo.py; verl-project/verl-recipe@48ea0a79,
             dapo/dapo_ray_trainer.py, run_dapo_qwen2.5_32b.sh, test_dapo_7b_math.sh; lines as of
             verl-project/verl-recipe@dd811fe, dapo/dapo_ray_trainer.py:239-294 (dropping, more batches)
Sampling     16 rollouts per problem. A group that is all right or all wrong is dropped; its rollouts count. While fewer groups
             are kept than the update has problems, as many problems again are explored, up to `batches` (10) times that
             number; the groups found last are dropped if they are too many
Advantage    score - mean score of the 16, over their standard deviation (of n - 1) + 1e-6. Score: 1 for right, -1 for wrong,
             less the overlong penalty, which falls linearly from 0 at limit - buffer to -1 at the response limit. The buffer is
             a share of the limit: 4096 of 20480 tokens. Dropping looks at right and wrong alone
Loss         -min(advantage * ratio, advantage * clip(ratio, .8, 1.28)), for negative advantages at most -10 * advantage
Denominator  mean over all tokens of the update

What the code does differently
  limit        an error after the last batch; here the update trains on what was found, and on nothing if that is nothing
  batches      of three times the problems of an update (1536 for 512), so it samples and drops more; here of as many as the
               update has, the first being those every method sees and the others from an order of their own
  updates      16 per batch; the engine makes one, where the ratio is 1 and neither clip acts
  answer       in the last 300 characters; here the run's grader reads the whole response
Filtering overlong responses, which the paper discusses beside the penalty, is in neither.
Other preset `seven_b`: the 7B test script, which has no dynamic sampling and half of the limit as buffer. "DAPO at 7B" can mean
             either: name the preset.
"""

from dataclasses import dataclass
from statistics import mean, stdev
from typing import ClassVar

from engine.reduce import mean_over_tokens
from engine.words import Sample, Trajectory, own


@dataclass(frozen=True)
class Method:
    group: int = 16
    clip: float = 0.2
    clip_high: float = 0.28
    dual: float = 10.0
    buffer: float = 4096 / 20480  # share of the response limit in which the overlong penalty grows; 0: no penalty
    batches: int = 10  # 0: no dynamic sampling
    reduce = mean_over_tokens

    presets: ClassVar = {"seven_b": {"batches": 0, "buffer": 4096 / 8192}}

    def __post_init__(self):
        if self.group < 2:
            raise ValueError(f"group {self.group} has no standard deviation; choose 2 or more")
        if self.dual <= 1:
            raise ValueError(f"dual {self.dual} leaves punished tokens no gradient where the ratio is 1; choose more than 1")
        if not 0 <= self.batches <= 64:
            raise ValueError(f"batches {self.batches}: choose 0 (no dynamic sampling) to 64, the most an update may explore")
        if not 0 <= self.buffer <= 1:
            raise ValueError(f"buffer {self.buffer} is no share of the response limit; choose one from 0 (no penalty) to 1")

    def explore(self, problem, context):
        rollouts = yield Sample(self.group)
        if self.batches and len({r.reward for r in rollouts}) == 1:
            return []
        scores = [2 * r.reward - 1 + self.penalty(len(r.tokens), context.response_tokens) for r in rollouts]
        centre, spread = mean(scores), stdev(scores) + 1e-6
        return [Trajectory(problem, (own(r, (s - centre) / spread),)) for r, s in zip(rollouts, scores, strict=True)]

    def penalty(self, length, limit):
        over = length - limit * (1 - self.buffer)
        return -over / (limit * self.buffer) if over > 0 and self.buffer else 0.0

    def wanting(self, trajectories, context):
        full = len(trajectories) >= self.group * context.problems or context.explored >= self.batches * context.problems
        return 0 if full else context.problems

    def update(self, trajectories, context):
        return trajectories[: self.group * context.problems]

    def loss(self, t):
        ratio = (t.logp - t.old_logp).exp()
        gain = (t.advantage * ratio).minimum(t.advantage * ratio.clamp(1 - self.clip, 1 + self.clip_high))
        return -gain.where(t.advantage >= 0, gain.maximum(t.advantage * self.dual))
