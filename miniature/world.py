"""The miniature world: chains of + - * worked from left to right, with step-by-step expert demonstrations.

A chain starts from a number and applies operations one after another, left to right, without precedence; every
intermediate value stays within 0..99, so a digit-level model of a million parameters can learn the arithmetic.

    Chain(start=7, steps=(("+", 5), ("*", 2), ("-", 4)))      7 -> 12 -> 24 -> 20

The same chain has two wordings and three ways to write an answer:

    symbols     Work left to right: 7 + 5 * 2 - 4
    words       Start with 7, add 5, multiply by 2, take away 4.
    direct      \\boxed{20}                                             how the base model mostly answers
    steps       7+5=12, 12*2=24, 24-4=20. \\boxed{20}                   how the base model sometimes answers
    expert      +5:12⏎⏎*2:24⏎⏎-4:20⏎⏎\\boxed{20}                         never seen in pre-training; two variants

What the base model saw and what it is trained on and tested on is the table `BENCHMARKS` and the constants beside it. They
are tuned so that the miniature discriminates between methods (`docs/LOG.md` has the trials), never so that one wins.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

LIMIT = 99
WORDS = {"+": "add", "-": "take away", "*": "multiply by"}


@dataclass(frozen=True)
class Chain:
    """A start value and the operations applied to it, left to right."""

    start: int
    steps: tuple[tuple[str, int], ...]

    def values(self) -> list[int]:
        """The value after each operation; the last one is the answer."""
        values, value = [], self.start
        for operator, operand in self.steps:
            value = {"+": value + operand, "-": value - operand, "*": value * operand}[operator]
            values.append(value)
        return values

    def symbols(self) -> str:
        return f"Work left to right: {self.start} " + " ".join(f"{o} {n}" for o, n in self.steps)

    def words(self) -> str:
        return f"Start with {self.start}, " + ", ".join(f"{WORDS[o]} {n}" for o, n in self.steps) + "."

    def answer(self) -> str:
        return str(self.values()[-1])

    def direct(self) -> str:
        return f"\\boxed{{{self.answer()}}}"

    def steps_style(self) -> str:
        before = [self.start, *self.values()[:-1]]
        lines = [f"{b}{o}{n}={v}" for b, (o, n), v in zip(before, self.steps, self.values(), strict=True)]
        return ", ".join(lines) + ". " + self.direct()

    def demonstrations(self) -> tuple[str, str]:
        """Two correct expert solutions of the same chain, in paragraphs; the second stands for OpenR1's extra trajectory."""
        before = [self.start, *self.values()[:-1]]
        steps = list(zip(before, self.steps, self.values(), strict=True))
        brief = [f"{o}{n}:{v}" for _, (o, n), v in steps]
        full = [f"{b}{o}{n}:{v}" for b, (o, n), v in steps]
        return "\n\n".join([*brief, self.direct()]), "\n\n".join([*full, self.direct()])


@dataclass(frozen=True)
class Benchmark:
    """A test set: how many problems, which chain lengths, operators and wording."""

    size: int
    lengths: tuple[int, ...]
    operators: str = "+-*"
    wording: str = "symbols"


# The training set mixes lengths at which the base model finds reward by itself with lengths at which only an expert helps.
TRAINING = Benchmark(6000, (2, 3, 4, 5, 6))
BENCHMARKS = {
    "mini_sums": Benchmark(400, (3, 4), operators="+-"),
    "mini_mixed": Benchmark(400, (3, 4)),
    "mini_long": Benchmark(400, (5, 6)),
    "mini_words": Benchmark(400, (3, 4, 5), wording="words"),  # out of distribution: the wording is never trained on
    "mini_marathon": Benchmark(400, (7, 8)),  # out of distribution: longer than anything trained on
}
# Multiple choice over chains of Mixed, for rehearsals of the general benchmarks; never a result.
CHOICE = "mini_choice"
# Like the training set; for choosing settings, never a result.
VALIDATION = {"mini_validation": Benchmark(400, (2, 3, 4, 5, 6))}


def draw(rng: random.Random, length: int, operators: str = "+-*") -> Chain:
    """A random chain whose values stay within 0..LIMIT; operations that cannot be applied are redrawn."""
    start = value = rng.randint(2, 30)
    steps: list[tuple[str, int]] = []
    while len(steps) < length:
        operator = rng.choice(operators)
        if operator == "+" and value < LIMIT:
            operand = rng.randint(1, min(30, LIMIT - value))
        elif operator == "-" and value > 0:
            operand = rng.randint(1, min(40, value))
        elif operator == "*" and 2 <= value <= LIMIT // 2:
            operand = rng.randint(2, min(9, LIMIT // value))
        else:
            continue
        steps.append((operator, operand))
        value = {"+": value + operand, "-": value - operand, "*": value * operand}[operator]
    return Chain(start, tuple(steps))


def chains(name: str, spec: Benchmark, exclude: frozenset[Chain] = frozenset()) -> list[Chain]:
    """`spec.size` distinct chains, a function of the name alone; none of them in `exclude`."""
    rng = random.Random(f"miniature/{name}")
    found: dict[Chain, None] = {}
    while len(found) < spec.size:
        chain = draw(rng, spec.lengths[len(found) % len(spec.lengths)], spec.operators)
        if chain not in exclude:
            found[chain] = None
    return list(found)


def benchmark_chains(specs: dict[str, Benchmark] = BENCHMARKS) -> frozenset[Chain]:
    """Every chain of the given benchmarks: what corpus and training set must leave out."""
    return frozenset(chain for name, spec in specs.items() for chain in chains(name, spec))


def training_rows() -> Iterator[dict]:
    """Rows of the training set; no chain of it is in a benchmark or in the validation set."""
    tested = benchmark_chains({**BENCHMARKS, **VALIDATION})
    for i, chain in enumerate(chains("train", TRAINING, tested)):
        yield {
            "id": f"train-{i:05d}",
            "problem": chain.symbols(),
            "answer": chain.answer(),
            "demonstrations": list(chain.demonstrations()),
        }


def choice_rows() -> Iterator[dict]:
    """The first chains of Mixed with four options each, one of them right."""
    for i, chain in enumerate(chains("mini_mixed", BENCHMARKS["mini_mixed"])[:100]):
        rng, right = random.Random(f"miniature/{CHOICE}/{i}"), int(chain.answer())
        options = rng.sample([value for value in range(LIMIT + 1) if value != right], 3)
        options.insert(place := rng.randrange(4), right)
        text = "".join(f"{label}) {option}\n" for label, option in zip("ABCD", options, strict=True))
        yield {"id": f"{CHOICE}-{i:04d}", "problem": f"{chain.symbols()}\n\n{text}", "answer": "ABCD"[place]}


def benchmark_rows(name: str) -> Iterator[dict]:
    if name == CHOICE:
        yield from choice_rows()
        return
    spec = {**BENCHMARKS, **VALIDATION}[name]
    for i, chain in enumerate(chains(name, spec)):
        text = chain.words() if spec.wording == "words" else chain.symbols()
        yield {"id": f"{name}-{i:04d}", "problem": text, "answer": chain.answer()}
