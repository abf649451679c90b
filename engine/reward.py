"""What a rollout earns: 1 if the grader finds its answer correct, else 0; on request with a share of wrong verdicts."""

import random
from collections.abc import Sequence

from engine import seeds
from engine.data import Template, Tokenizer
from engine.grade import Grader
from engine.words import Problem, Rollout


class Reward:
    """Rewards of one stage (engine/explore.py). `noise` is the chance that a verdict is turned into its opposite; the same text
    for the same problem is always misjudged alike. Counts verdicts that were not reached, and those that were turned."""

    def __init__(self, grader: Grader, tokenizer: Tokenizer, template: Template, noise: float, run: int) -> None:
        self.grader, self.tokenizer, self.template, self.noise, self.run = grader, tokenizer, template, noise, run
        self.undecided = self.flipped = 0

    def __call__(self, pairs: Sequence[tuple[Problem, Rollout]]) -> list[float]:
        """1 for a correct response, prefix and completion read together, else 0."""
        texts = [self.tokenizer.decode(r.prefix + r.tokens, skip_special_tokens=True) for _, r in pairs]
        texts = [self.template.answered(text) for text in texts]
        grades = self.grader.grade([(text, problem.answer) for text, (problem, _) in zip(texts, pairs, strict=True)])
        self.undecided += sum(grade.status == "undecided" for grade in grades)
        turned = [self._errs(problem, rollout) for problem, rollout in pairs]
        self.flipped += sum(turned)
        return [float(grade.correct != wrong) for grade, wrong in zip(grades, turned, strict=True)]

    def _errs(self, problem: Problem, rollout: Rollout) -> bool:
        if not self.noise:
            return False
        response = " ".join(map(str, rollout.prefix + rollout.tokens))
        seed = seeds.seed(run=self.run, axis="reward noise", problem=problem.id, response=response)
        return random.Random(seed).random() < self.noise
