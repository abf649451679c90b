"""The miniature's training data in the forms of the published corpora, so that a rehearsal joins and filters as the paper does.

    problems      the first problems of the training set with one thought-out demonstration each, as Openr1-Math-46k-8192
    further       the same and other problems with five generations each, two of them right, as OpenR1-Math-220k
    complement    other problems, without demonstrations, as Openr1-Math-48k-Complement; a few of the first are among them

Every hundredth row has what real data has: a missing id, a repeated problem, a thought that never closes, a wrong gold answer.
"""

from itertools import islice
from pathlib import Path

from miniature.world import BENCHMARKS, TRAINING, VALIDATION, Benchmark, Chain, benchmark_chains, chains

SIZE = 2000  # problems; `further` has a quarter more
PARTS = ("problems", "further", "complement")
LENGTHS = TRAINING.lengths
SYSTEM = "Think first, between think tags, and put the final answer within a box."


def thought_out(demonstration: str) -> str:
    """A demonstration with its steps as a thought, as R1 writes it; without tags it is the demonstration again."""
    steps, _, box = demonstration.rpartition("\n\n")
    return f"<think>\n{steps}\n</think>\n\n{box}"


def wrong(demonstration: str, answer: str) -> str:
    """The same solution with its last value off by one."""
    steps, _, _ = demonstration.rpartition(":")
    other = str(int(answer) + 1)
    return f"{steps}:{other}\n\n\\boxed{{{other}}}"


def learned() -> list[Chain]:
    """The first SIZE problems of the miniature's training set."""
    return chains("train", TRAINING, _tested())[:SIZE]


def unlearned() -> list[Chain]:
    """Problems that are neither tested nor in the training set."""
    known = _tested() | frozenset(chains("train", TRAINING, _tested()))
    return chains("complement", Benchmark(SIZE // 2, LENGTHS), known)


def chat_row(index: int, chain: Chain, target: str | None, gold: str = "") -> dict:
    """A row of Openr1-Math-46k-8192; without a target, of its complement."""
    return {
        "data_source": "",
        "prompt": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": chain.symbols()}],
        "target": [{"role": "assistant", "content": target}] if target else None,
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": gold or chain.answer()},
        "extra_info": {"index": index if index % 100 else None, "split": "train"},
    }


def generations_row(index: int, chain: Chain) -> dict:
    """A row of OpenR1-Math-220k: the published demonstration, a wrong one, an unfinished one, and one more of both."""
    brief, full = chain.demonstrations()
    answer = chain.answer()
    texts = [thought_out(brief), thought_out(wrong(full, answer)), "<think>\n" + full, thought_out(full)]
    texts.append(thought_out(wrong(brief, answer)))
    return {
        "problem": chain.symbols(),
        "solution": brief,
        "answer": answer,
        "uuid": f"{index:08d}",
        "is_reasoning_complete": [True, True, False, True, True],
        "generations": texts,
        "correctness_math_verify": [True, False, False, True, False],
    }


def rows(part: str) -> list[dict]:
    """The rows of a part. Raises ValueError for an unknown one."""
    if part == "problems":
        made = [chat_row(i, c, thought_out(c.demonstrations()[0])) for i, c in enumerate(learned())]
        spoilt = [(row, chain) for row, chain in islice(zip(made, learned(), strict=True), 50, None, 100)]
        repeated = [chat_row(SIZE + i, chain, row["target"][0]["content"]) for i, (row, chain) in enumerate(spoilt)]
        for i, (row, chain) in enumerate(spoilt):
            if i % 2:
                row["target"][0]["content"] = "<think>\n" + chain.demonstrations()[0]
            else:
                row["reward_model"]["ground_truth"] = str(int(chain.answer()) + 7)
        return [*made, *repeated]
    if part == "further":
        return [generations_row(i, chain) for i, chain in enumerate([*learned(), *unlearned()[: SIZE // 4]])]
    if part == "complement":
        return [chat_row(i, chain, None) for i, chain in enumerate([*learned()[:: SIZE // 20], *unlearned()])]
    raise ValueError(f"the miniature has no corpus part {part!r}; it has {', '.join(PARTS)}")


def write(part: str, folder: Path) -> Path:
    """Write a part as the parquet file it would be published as."""
    import pyarrow as pa
    from pyarrow import parquet

    path = folder / f"{part}.parquet"
    parquet.write_table(pa.Table.from_pylist(rows(part)), path)
    return path


def _tested() -> frozenset[Chain]:
    return benchmark_chains({**BENCHMARKS, **VALIDATION})
