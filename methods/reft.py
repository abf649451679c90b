"""ReFT: a warm-up by imitation, then reinforcement with one rollout per problem, held near the warmed-up policy.

Paper        arXiv:2401.08967
Code         lqtrung1998/mwp_ReFT@bdc844e0, train_rl_reft.py, exps/paper_exps/ReFT/_template.sh
Stages       `sft`, the warm-up, is the very checkpoint of the method sft, as long as the run makes it; `reft` starts from it
Sampling     one rollout per problem
Advantage    (reward - mean) / standard deviation over all rollouts of the update, 0 where they all earn the same
Loss         own tokens: -min(advantage * ratio, advantage * clip(ratio, .8, 1.2)) + kl * k3, k3 = q / p - log(q / p) - 1 with
             q under the warmed-up policy
Denominator  mean over each trajectory's tokens, then over trajectories, both terms

No critic: REINFORCE stands in for PPO's value network and GAE, so this row is the recipe of ReFT and not its algorithm. The
reward is one verdict at the end. In the code a critic predicts it at every token, and GAE (lambda .95, nothing discounted)
credits early tokens with what the critic saw change soon after, the verdict itself fading by .95 a token; that is whitened over
all tokens of the batch. Here every token of a rollout has the verdict, whitened over rollouts. A value head would be a second
model with a loss and a rate of its own, for the one method that has it.

Paper and code disagree on nothing that is a setting of this file. What the code does differently:
  kl           subtracts .05 * log(p_old / q) (.01 for programs) from the reward of each token, and so before whitening; a term
               of the loss here, with the same coefficient
  reward       .1 for a wrong answer that can be read; the engine tells a method the verdict and nothing else
  epochs       two passes over a batch of 32 rollouts; the engine makes one update, the ratio is 1 and the clip never acts
  warm-up      a checkpoint after about 2 epochs, of the 40 that its SFT baseline has; here the run's sft, so that both share it
An update of a run's usual number of problems has an eighth of the rollouts of a group method; `samples` 8 makes them as many.
"""

from dataclasses import dataclass, replace
from statistics import fmean, pstdev

from engine.reduce import Denominator, mean_over_trajectories
from engine.words import Sample, Stage, Term, Trajectory, own

stages = (Stage("sft", method="sft"), Stage("reft", method="reft", parent="sft"))


@dataclass(frozen=True)
class Method:
    samples: int = 1
    clip: float = 0.2
    kl: float = 0.05
    reduce: Denominator = mean_over_trajectories

    needs = ("reference_logp",)

    def explore(self, problem, context):
        rollouts = yield Sample(self.samples)
        return [Trajectory(problem, (own(r, 0.0),), note=r.reward) for r in rollouts]  # `update` says how good that was

    def update(self, trajectories, context):
        rewards = [t.note for t in trajectories]
        mean, deviation = fmean(rewards), pstdev(rewards) or 1.0
        return [
            replace(t, segments=(replace(t.segments[0], advantage=(reward - mean) / deviation),))
            for t, reward in zip(trajectories, rewards, strict=True)
        ]

    def loss(self, t):
        ratio = (t.logp - t.old_logp).exp()
        gain = (t.advantage * ratio).minimum(t.advantage * ratio.clamp(1 - self.clip, 1 + self.clip))
        behind = t.reference_logp - t.logp
        return {
            "policy": Term(-gain, self.reduce),
            "kl": Term(behind.exp() - behind - 1, self.reduce, self.kl, mask=t.trained & ~t.expert),
        }
