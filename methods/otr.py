"""OTR: at every token of the expert, reinforce in one step what the policy would have said there: the expert's token earns 1.

Paper        arXiv:2509.26313 (submission withdrawn), known here from its abstract, its reviews and others' notes
Code         none found
Sampling     no rollouts; one demonstration per problem. At each of its tokens the paper draws K = 256 candidates from pi', the
             policy at temperature `kappa`, and gives the expert's token 1 and every other token `beta`
Loss         the paper's -mean over candidates of reward * log p(candidate), in expectation: with pi' held constant,
             -sum over the vocabulary of pi'(a) (beta + (1 - beta) [a is the expert's]) log p(a)
             = -(1 - beta) pi'(expert) log p(expert) - beta sum of pi' log p. That is the gradient of the draws on average,
             without their noise, and the same however the update is cut up; the draws need the whole distribution too
Denominator  mean over all expert tokens of the update (the paper's: per sequence or batch, not known)

At kappa 1 the second part has no gradient (sum of p d log p = 0), and what is left is (1 - beta) times DFT's: all that OTR is
beyond DFT is its temperature. Unverified: kappa 1.3 and beta -.1 (others' recollection), and that log p is taken at temperature
1 and pi' alone at kappa. Of the paper, no optimiser setting and no score is known here.
"""

from dataclasses import dataclass

from engine.reduce import Denominator, mean_over_tokens
from engine.words import Trajectory, expert


@dataclass(frozen=True)
class Method:
    kappa: float = 1.3
    beta: float = -0.1
    reduce: Denominator = mean_over_tokens

    def __post_init__(self):
        if self.kappa <= 0:
            raise ValueError(f"kappa {self.kappa} is no temperature; use one above 0, as 1.3")
        if self.beta >= 1:
            raise ValueError(f"beta {self.beta} earns a wrong token as much as the expert's; use less than 1, as -0.1")

    def explore(self, problem, context):
        return [Trajectory(problem, (expert(problem.demonstration()),))]

    def read(self, d):
        drawn = (d.logp.detach() / self.kappa).softmax(-1)
        return {"drawn": drawn.gather(-1, d.token[:, None])[:, 0], "cross": (drawn * d.logp).sum(-1)}

    def loss(self, t):
        return -(1 - self.beta) * t.read["drawn"] * t.logp - self.beta * t.read["cross"]
