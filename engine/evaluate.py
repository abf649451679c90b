"""Evaluate a checkpoint: one load for all benchmarks, samples written before anything is graded, grading apart.

    python -m engine.evaluate generate --spec '{...}' --out results/miniature/RUN/seed0/eval
    python -m engine.evaluate grade <benchmark>.samples.parquet...      writes <benchmark>.grades.parquet beside each
    python -m engine.evaluate golds DATA.jsonl OUT.json      the grader's self-check on the gold answers of a data file

Every sample of every problem has its own seed, from (run seed, benchmark, problem, sample); raising the number of samples
keeps the earlier ones.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from engine import data, record, samples, seeds
from engine.grade import PRESETS, Grader, grader_version
from engine.sampler import Request, SamplerError, Sampling, build, packages, serve
from engine.stage import checked_model, log
from engine.words import Problem, Sample


def generate(spec: dict, out: Path) -> None:
    """Sample completions for every benchmark of `spec`, all at once, and write `<benchmark>.samples.parquet` files.

    What shares a batch decides how log-probs round: with other benchmarks beside it, one may rarely get another sample.
    """
    packages(spec["sampler"])  # before anything is loaded
    from transformers import AutoConfig, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    source, settings = checked_model(Path(spec["checkpoint"])), spec["evaluation"]
    tokenizer = AutoTokenizer.from_pretrained(source)
    template = data.Template.read(Path(spec["template"]))
    sampling = Sampling(
        tokenizer.pad_token_id,
        tokenizer.eos_token_id,
        settings["max_prompt_tokens"],
        settings["max_new_tokens"],
        settings["temperature"],
        settings["sample_batch_tokens"],
        settings["dtype"],
        settings["device"],
    )
    problems = {
        name: data.problems(rows(benchmark), tokenizer, template, settings["max_prompt_tokens"])
        for name, benchmark in spec["benchmarks"].items()
    }
    window = AutoConfig.from_pretrained(source).max_position_embeddings if spec.get("within_window") else None
    asked = [
        (name, request)
        for name, benchmark in spec["benchmarks"].items()
        for request in requests(name, problems[name], benchmark["samples"], spec["seed"], window)
    ]
    asked.sort(key=lambda one: len(one[1].prompt), reverse=True)  # a long problem is expected to need a long answer
    sampler = build(spec["sampler"], source, sampling)
    served = serve(sampler, [request for _, request in asked], progress=f"{spec['run']} seed {spec['seed']}")
    groups = {(name, request.problem.id): group for (name, request), group in zip(asked, served, strict=True)}
    for name in spec["benchmarks"]:
        sampled = [
            {
                "problem_id": problem.id,
                "sample": k,
                "seed": seed_of(name, problem, k, spec["seed"]),
                "answer": problem.answer,
                "completion": template.answered(tokenizer.decode(rollout.tokens, skip_special_tokens=True)),
                "tokens": len(rollout.tokens),
                "finish_reason": rollout.finish_reason,
                "template": template.label,
            }
            for problem in problems[name]
            for k, rollout in enumerate(groups[name, problem.id])
        ]
        samples.write(out / f"{name}.samples.parquet", sampled, samples.SAMPLES)


def rows(benchmark: dict) -> list[dict]:
    """The rows of a benchmark, or the first `problems` of them."""
    return data.read_rows(Path(benchmark["file"]))[: benchmark.get("problems")]


def seed_of(benchmark: str, problem: Problem, sample: int, run: int) -> int:
    """Each sample has a seed of its own."""
    return seeds.seed(run=run, benchmark=benchmark, problem=problem.id, sample=sample)


def requests(name: str, problems: Sequence[Problem], count: int, run: int, window: int | None = None) -> list[Request]:
    """One request for every problem of a benchmark, for `count` samples, which end at the latest with the `window` if given."""

    def room(problem: Problem) -> int | None:
        return None if window is None else max(0, window - len(problem.prompt))

    return [
        Request(p, Sample(count, max_new_tokens=room(p)), tuple(seed_of(name, p, k, run) for k in range(count)))
        for p in problems
    ]


def grade(source: Path, out: Path, grader: Grader) -> None:
    """Grade a file of samples. A response that ran into the length limit is wrong whatever it says: what it would have gone on
    to say is not known. It has a status of its own and no vote in a majority."""
    rows = samples.read(source, samples.SAMPLES)
    problems: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        problems.setdefault(row["problem_id"], []).append(place)
    pairs = [(row["completion"], row["answer"]) for row in rows]
    grades = grader.grade(pairs, [row["finish_reason"] == "length" for row in rows])
    classes = grader.answer_classes([[grades[place] for place in places] for places in problems.values()])
    votes = dict(zip(chain.from_iterable(problems.values()), chain.from_iterable(classes), strict=True))
    kept = ("problem_id", "sample", "tokens", "finish_reason", "template")
    version = grader_version(grader.preset)
    samples.write(
        out,
        (
            {
                **{key: row[key] for key in kept},
                "correct": one.correct,
                "status": one.status,
                "extracted": one.extracted,
                "answer_class": votes[place],
                "grader": version,
            }
            for place, (row, one) in enumerate(zip(rows, grades, strict=True))
        ),
        samples.GRADES,
    )


def golds(source: Path, out: Path, known: Sequence[str]) -> None:
    """Grade every gold answer of a data file against itself, and list those that can only be compared as text.

    `known`: ids of golds that are known not to grade as correct. Raises ValueError if another one does not, or if a known one
    is not in the file or grades as correct after all.
    """
    rows = data.read_rows(source)
    answers = [str(row["answer"]) for row in rows]
    with Grader() as grader:
        grades = grader.grade([(f"\\boxed{{{answer}}}", answer) for answer in answers])
        unread = set(grader.unread(list(dict.fromkeys(answers))))
    wrong = [
        {"id": row["id"], "gold": str(row["answer"]), "status": grade.status}
        for row, grade in zip(rows, grades, strict=True)
        if not grade.correct
    ]
    unexpected = sorted({row["id"] for row in wrong} ^ set(known))
    found = {
        "name": source.stem,
        "golds": len(rows),
        "wrong": wrong,
        "known": list(known),
        "text_only": [{"id": row["id"], "gold": str(row["answer"])} for row in rows if str(row["answer"]) in unread],
        "grader": grader_version(),
        "passed": not unexpected,
    }
    record.write_json(out, found)
    if unexpected:
        raise ValueError(
            f"grader self-check of {source}: a gold answer must be correct against itself, except those of known_golds; it is "
            f"otherwise for {len(unexpected)}: {', '.join(unexpected[:10])}. Mend the data, or correct known_golds of this file"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description="Sample a checkpoint on benchmarks, or grade samples.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    sampling = verbs.add_parser("generate", help="write <benchmark>.samples.parquet for every benchmark of the specification")
    sampling.add_argument(
        "--spec", required=True, type=json.loads, help="the evaluation as JSON, as workflow/plan.py writes it"
    )
    sampling.add_argument("--sizes", type=json.loads, default={}, help="{evaluation: settings of memory}, added to it")
    sampling.add_argument("--out", required=True, type=Path, help="folder for the samples")
    grading = verbs.add_parser("grade", help="grade files of samples; <benchmark>.grades.parquet appears beside each")
    grading.add_argument("samples", type=Path, nargs="+", metavar="BENCHMARK.samples.parquet")
    grading.add_argument("--grader", choices=PRESETS, default=PRESETS[0], help="(default: %(default)s)")
    grading.add_argument("--cache", type=Path, metavar="FILE", help="keeps verdicts for other graders and other days")
    checking = verbs.add_parser("golds", help="the grader's self-check on one data file")
    checking.add_argument("source", type=Path)
    checking.add_argument("out", type=Path)
    checking.add_argument("--known", nargs="*", default=[], metavar="ID", help="golds known not to grade as correct")
    args = parser.parse_args()
    record.start_logging()
    try:
        if args.verb == "generate":
            args.spec["evaluation"] |= args.sizes.get("evaluation", {})
            generate(args.spec, args.out)
        elif args.verb == "golds":
            golds(args.source, args.out, args.known)
        else:
            with Grader(preset=args.grader, cache=args.cache) as grader:
                for path in args.samples:
                    grade(path, path.with_name(path.name.replace(".samples.", ".grades.")), grader)
    except (ValueError, SamplerError, OSError) as error:
        log.error("error: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
