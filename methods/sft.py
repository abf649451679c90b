"""SFT: imitate the expert's solution token by token.

Paper        the common baseline; corrected settings in arXiv:2604.23747 (lr 5e-5 cosine, batch 64, 3 epochs)
Sampling     none; one demonstration per problem
Loss         -log p on every expert token, end of sequence included
Denominator  mean over all expert tokens of the update, across micro-batches and ranks. The baselines printed by LUFFY and
             others averaged per micro-batch and lost micro-batches (arXiv:2604.23747); here neither can happen.
Paper and code disagree on nothing that is a setting of this file.
"""

from dataclasses import dataclass

from engine.reduce import mean_over_tokens
from engine.words import Trajectory, expert


@dataclass(frozen=True)
class Method:
    reduce = mean_over_tokens

    def explore(self, problem, context):
        return [Trajectory(problem, (expert(problem.demonstration()),))]

    def loss(self, t):
        return -t.logp
