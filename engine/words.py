"""The nouns of the harness. A method reads `Problem`, asks with `Sample`, receives `Rollout`, answers with `Trajectory`.

One worked example runs through the docstrings: a four-token prompt, a two-token expert prefix, a three-token completion.

    prompt      11 12 13 14         expert prefix  21 22         generated  31 32 33
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.reduce import Denominator

if TYPE_CHECKING:  # method files import this module while torch is blocked
    from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """A question with its gold answer and expert solutions, all in tokens.

        Problem("train-7", prompt=(11, 12, 13, 14), answer="20", demonstrations=((21, 22, 23, 24, 2),), breaks=((1,),))

    `demonstrations` end with the end-of-sequence token (2 above). `breaks` lists, per demonstration, the indices of the
    tokens whose text holds a blank line; here token 22.
    """

    id: str
    prompt: tuple[int, ...]
    answer: str
    demonstrations: tuple[tuple[int, ...], ...] = ()
    breaks: tuple[tuple[int, ...], ...] = ()

    def demonstration(self, index: int = 0) -> tuple[int, ...]:
        """Expert solution number `index`, end of sequence included. Raises ValueError if the data has none."""
        if index >= len(self.demonstrations):
            raise ValueError(
                f"problem {self.id!r} has {len(self.demonstrations)} demonstration(s) and number {index} was asked for; "
                "give the data one more, or choose a method or preset that needs fewer"
            )
        return self.demonstrations[index]

    def prefix(self, ratio: float, demonstration: int = 0, reach: float = 0.0) -> tuple[int, ...]:
        """The opening `ratio` of a demonstration; 0 is nothing, 1 the whole of it with its end of sequence.

        With `reach` > 0 the cut moves forward to just past the first blank line after it, if one lies within a further
        `reach` of the length; otherwise it stays. (arXiv:2512.17636's code, mix_vllm_rollout.py:116-130.)

            prefix(0.2) == (21,)      prefix(0.0) == ()      prefix(0.2, reach=0.3): no blank line strictly after 1 -> (21,)
        """
        if ratio <= 0:
            return ()
        tokens = self.demonstration(demonstration)
        if ratio >= 1:
            return tokens
        cut = int(len(tokens) * ratio)
        if reach > 0:
            limit = len(tokens) * (ratio + reach)
            cut = next((i + 1 for i in self.breaks[demonstration] if cut < i < limit), cut)
        return tokens[:cut]

    def steps(self, at_most: int, demonstration: int = 0) -> tuple[int, ...]:
        """Tokens of a demonstration up to the end of each of its steps, of which there are at most `at_most`: its paragraphs,
        neighbours joined evenly, or stretches of equal length where it has no blank line. The last is the whole of it.

            steps(5) == (2, 5): the paragraph 21 22, and the rest
        """
        length = len(self.demonstration(demonstration))
        breaks = self.breaks[demonstration] if demonstration < len(self.breaks) else ()
        ends = [i + 1 for i in breaks if i + 1 < length] + [length]
        if len(ends) == 1:
            ends = list(range(1, length + 1))
        count = min(at_most, len(ends))
        return tuple(ends[len(ends) * k // count - 1] for k in range(1, count + 1))


@dataclass(frozen=True)
class Sample:
    """A request for `n` rollouts that continue prompt + `prefix`; `max_new_tokens=0` grades the prefix as it stands.

        Sample(3, prefix=(21, 22))        three continuations of 11 12 13 14 21 22

    `max_new_tokens=None` means what the run's response limit leaves after the prefix.
    """

    n: int
    prefix: tuple[int, ...] = ()
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class Rollout:
    """One graded response: the prefix it was given and what the policy wrote after it.

        Rollout(prefix=(21, 22), tokens=(31, 32, 33), logp=(-0.1, -2.3, -0.7), reward=1.0, finish_reason="stop")

    `logp` is in nats under the sampling distribution, one value per generated token. The reward is of prefix and generated
    tokens together. `finish_reason`: "stop" (ended by itself), "length" (cut at the limit) or "prefix" (nothing generated).
    """

    prefix: tuple[int, ...]
    tokens: tuple[int, ...]
    logp: tuple[float, ...]
    reward: float
    finish_reason: str


@dataclass(frozen=True)
class Segment:
    """A stretch of response tokens with one author and one purpose.

        Segment((21, 22), expert=True, trained=True, advantage=1.0)
        Segment((31, 32, 33), expert=False, trained=True, advantage=0.5, logp=(-0.1, -2.3, -0.7))

    `trained` decides whether the tokens enter loss and count; `advantage` may be 0 and the tokens still count. `replay`: own
    tokens that were sampled at an earlier update; their log-probs are those recorded then.
    """

    tokens: tuple[int, ...]
    expert: bool
    trained: bool
    advantage: float = 0.0
    logp: tuple[float, ...] = ()
    replay: bool = False

    def __post_init__(self) -> None:
        if len(self.logp) != (0 if self.expert else len(self.tokens)):
            raise ValueError(
                f"a segment of {len(self.tokens)} tokens (expert={self.expert}) has {len(self.logp)} behaviour log-probs; "
                "own tokens need one each, expert tokens none: build segments with own(), replay() and expert()"
            )


def own(rollout: Rollout, advantage: float) -> Segment:
    """The tokens the policy generated in `rollout`, trained with `advantage`."""
    return Segment(rollout.tokens, expert=False, trained=True, advantage=advantage, logp=rollout.logp)


def replay(tokens: tuple[int, ...], logp: tuple[float, ...], advantage: float) -> Segment:
    """Tokens the policy generated at an earlier update, with the log-probs recorded then."""
    return Segment(tokens, expert=False, trained=True, advantage=advantage, logp=logp, replay=True)


def expert(tokens: tuple[int, ...], advantage: float = 1.0, trained: bool = True) -> Segment:
    """Expert tokens with their advantage or imitation weight; `trained=False` shows them without learning from them."""
    return Segment(tokens, expert=True, trained=trained, advantage=advantage)


@dataclass(frozen=True)
class Trajectory:
    """What a method hands to the trainer: a problem and the segments of one response to it, in order.

        Trajectory(problem, (expert((21, 22)), own(rollout, 0.5)))

    becomes, with T = 8 predicted tokens (engine/tokens.py):

        predicted   12 13 14 21 22 31 32 33
        response     0  0  0  1  1  1  1  1
        expert       0  0  0  1  1  0  0  0
        advantage    0  0  0  1  1 .5 .5 .5

    `note` is what `explore` has to tell the method's own `update` (a reward, say); nothing else reads it.
    """

    problem: Problem
    segments: tuple[Segment, ...]
    note: Any = None


@dataclass(frozen=True)
class Context:
    """Where a run stands while it explores one problem (or regroups one update).

    `rng` is seeded from (run seed, step, problem), so its draws do not depend on timing. `memory` is the method's own
    persistent state: one dict per stage, saved with every checkpoint; it must hold JSON values only. `response_tokens` is the
    run's response limit, `problems` how many of them the run gives an update, `spent` the share of its sampling budget used.
    `second`: the problem is one of the second stream, for methods that ask for one. `explored`: problems of this update
    explored so far, for `wanting`.
    """

    step: int
    total_steps: int
    rng: random.Random
    memory: dict[str, Any]
    response_tokens: int = 0
    problems: int = 0
    spent: float = 0.0
    second: bool = False
    explored: int = 0

    @property
    def progress(self) -> float:
        """Share of the stage already made, in [0, 1): of its updates, or of the tokens it may sample if that is more; 0 in
        `keep`, which is asked before the first update."""
        return max(0.0, self.step / self.total_steps, self.spent)


@dataclass(frozen=True)
class Term:
    """One named loss stream, as `Method.loss` may return several: {"policy": Term(...), "entropy": Term(...)}.

    `values` [B, T] are per token; `mask` [B, T] bool says which of them count (None: the trained tokens) and must not depend
    on the policy; the engine adds coefficient * sum(values over mask) / denominator to the loss.
    """

    values: "Tensor"
    reduce: Denominator
    coefficient: float = 1.0
    mask: "Tensor | None" = None

    def counted(self, trained: "Tensor") -> "Tensor":
        """Which tokens count, [B, T] bool; `trained`: those where it has no mask of its own."""
        return trained if self.mask is None else self.mask


@dataclass(frozen=True)
class Stage:
    """One step of a pipeline, checkpoint -> checkpoint: a method file's `stages` name them in order.

        stages = (Stage("imitate", method="a"), Stage("reinforce", method="b", parent="imitate"))

    `method` is the name of a method file (None: the base model as it is). A stage without a parent starts from the base model
    and, without settings of its own, is the very stage that the run of that method trains: it is shared, never repeated. With
    `times` it is trained as that run's, but for so many times its updates, and belongs to the pipeline.
    """

    name: str
    method: str | None
    parent: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    times: float = 1.0

    def __post_init__(self) -> None:
        if self.times <= 0 or (self.times != 1 and (self.parent or self.settings)):
            raise ValueError(
                f"stage {self.name!r} has times {self.times}: give a positive number, and only to a stage that has neither a "
                "parent nor settings, for it says how much longer than another run's the stage is"
            )
