"""DFT: imitate every token of the expert in proportion to the probability it already has.

Paper        arXiv:2508.05629v3 (ICLR 2026): SFT is policy gradient with an importance weight 1 / p; multiplying by p removes it
Code         yongliang-wu/DFT@e153181, verl/verl/trainer/fsdp_dft_trainer.py; the same loss in TRL@f2cd577 (loss_type "dft")
Sampling     none; one demonstration per problem
Loss         -sg(p) log p on every expert token, end of sequence included. Its gradient is that of 1 - p, though the values
             differ: -p on log p, least where the policy least expects the expert
Denominator  mean over all expert tokens of the update, as in TRL. The authors' code averages in every micro-batch and adds the
             averages up, so that each micro-batch weighs the same and the norm is clipped that many times harder

Paper and code disagree on nothing that is a setting of this file: the paper draws its 100k problems at random, the code takes
the first ones. Left out: the ablated weights of a whole sequence (its probability, or the geometric mean of its tokens'), which
the paper finds to fail. The authors' p comes from bf16, which rounds it to .004 near 1; here it is that of the engine.
"""

from dataclasses import dataclass

from engine.reduce import Denominator, mean_over_tokens
from engine.words import Trajectory, expert


@dataclass(frozen=True)
class Method:
    reduce: Denominator = mean_over_tokens

    def explore(self, problem, context):
        return [Trajectory(problem, (expert(problem.demonstration()),))]

    def loss(self, t):
        return -t.logp.detach().exp() * t.logp
