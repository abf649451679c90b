"""GHPO: reinforce; where every rollout fails, start over with an opening of the solution as a hint, longer until one succeeds.

Paper        arXiv:2507.10628, known here by its code alone
Code         hkgc-1/GHPO@af0a7dd8, src/ghpo/ghpo_trainer.py; lines as of hkgc-1/GHPO@563abfc, src/ghpo/ghpo_trainer.py:830-833
             (hint), ghpo_trainer.py:996-1142 (the three stages), ghpo_trainer.py:1189-1200 (advantage),
             ghpo_trainer.py:1992-2004 (loss, mean), ghpo_trainer.py:889 (ratios), ghpo_trainer.py:813-816 (start)
Sampling     8 own rollouts. If all are wrong, all 8 again after the first 25 % of the solution, then after 50 %, then after
             75 %; the last group replaces those before it, whose rollouts count. All wrong to the end: no advantage
Advantage    reward - mean of the group, over its standard deviation (of n - 1) + 1e-4
Loss         -min(advantage * ratio, advantage * clip(ratio, .8, 1.2)) on own tokens; the hint is shown and not trained
Denominator  mean over all own tokens of the update (TRL's `bnpo`, there per micro-batch)

What the code does differently
  hint         text in the user's prompt, cut by characters; here the opening of the response, cut by tokens, which the policy
               continues: it cannot retell the hint, and the hint counts towards the response limit
  reward       1 for the answer and .5 for the format; here the answer alone. Its format reward lets a group of wrong answers
               have advantages; here they have none
  ratios       its log-probs of the old and reference policy are not rebuilt after a hint, harmless with one update and no KL
Its settings `hint_ratio`, which does not drive the three stages, and `start_hint_step`, before which there are no hints (0 in
its recipe), are left out.
"""

from dataclasses import dataclass
from statistics import mean, stdev

from engine.reduce import mean_over_tokens
from engine.words import Sample, Trajectory, expert, own


@dataclass(frozen=True)
class Method:
    rollouts: int = 8
    hints: tuple[float, ...] = (0.25, 0.5, 0.75)
    clip: float = 0.2
    reduce = mean_over_tokens

    def __post_init__(self):
        if self.rollouts < 2:
            raise ValueError(f"rollouts {self.rollouts} have no standard deviation; choose 2 or more")
        if not all(0 < share < 1 for share in self.hints):
            raise ValueError(f"hints {self.hints} must be shares between 0 and 1: a whole solution leaves nothing to write")

    def explore(self, problem, context):
        rollouts = yield Sample(self.rollouts)
        for share in self.hints:
            if any(r.reward > 0 for r in rollouts):
                break
            rollouts = yield Sample(self.rollouts, problem.prefix(share))
        rewards = [r.reward for r in rollouts]
        centre, spread = mean(rewards), stdev(rewards) + 1e-4
        return [Trajectory(problem, (expert(r.prefix, trained=False), own(r, (r.reward - centre) / spread))) for r in rollouts]

    def loss(self, t):
        ratio = (t.logp - t.old_logp).exp()
        return -(t.advantage * ratio).minimum(t.advantage * ratio.clamp(1 - self.clip, 1 + self.clip))
