"""What a checkpoint does before training starts from it: does it end its answers, and what does an expert's opening change?

    python -m engine.pilot preflight --spec '{...}' --out FILE.json        refuses a model that does not end its answers
    python -m engine.pilot prefixes --spec '{...}' --out FILE.parquet      continuations of expert openings, graded

Both sample training problems under the training template, temperature and limits. `spec` holds run, seed, checkpoint (a stage's
folder), sampler, template, data, problems (how many) and train; for `preflight` also min_finished, for `prefixes` also samples
(of each problem) and ratios. Which problems are taken depends on their ids and the seed alone; more of them keep the first.

A row of FILE.parquet is one continuation. `correct`: prefix and continuation read together, as training rewards them, but a
truncated one is wrong; `given`: the prefix was correct by itself, so that nothing was left to find. A ratio of 1 is the
demonstration as it stands, once. `backtracking` and `backward_chaining` count the phrases below in the continuation. The pilot
study after which this is made (arXiv:2512.17636, Fig. 2) asked a language model; a list is cruder, and the same for everybody.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine import data, record, samples, seeds
from engine.grade import Grader
from engine.sampler import Request, SamplerError, Sampling, build, packages, serve
from engine.stage import checked_model, log
from engine.words import Problem, Rollout, Sample

BACKTRACKING = re.compile(
    r"\b(?:wait|hold on|but|actually|alternatively|on second thought|mistake|start over|go back"
    r"|let me (?:re-?|double-)?(?:check|verify|think|examine|try|consider))\b",
    re.IGNORECASE,
)
BACKWARD_CHAINING = re.compile(
    r"\b(?:(?:we|i) (?:need|want)|in order to|it suffices|it is enough|(?:the|our|my) goal|for this to"
    r"|work(?:ing)? backwards?)\b",
    re.IGNORECASE,
)
EXAMPLES, EXAMPLE_LENGTH = 3, 120  # endings shown, and their characters
PREFIXES = pa.schema(
    [
        ("ratio", pa.float64()),
        *samples.KEY,
        ("correct", pa.bool_()),
        ("given", pa.bool_()),
        ("tokens", pa.int32()),  # of the continuation
        ("prefix_tokens", pa.int32()),
        ("finish_reason", pa.string()),  # "stop", "length", or "prefix" with nothing generated
        ("backtracking", pa.int32()),
        ("backward_chaining", pa.int32()),
    ]
)


def chosen(rows: Sequence[dict], count: int, run: int) -> list[dict]:
    """`count` rows in an order of the seed's own. Raises ValueError if there are fewer."""
    if not 1 <= count <= len(rows):
        raise ValueError(f"problems is {count}, and the data have {len(rows)} to choose from; choose between 1 and {len(rows)}")
    return sorted(rows, key=lambda row: seeds.seed(run=run, axis="pilot", problem=row["id"]))[:count]


class Policy:
    """A checkpoint with its template, loaded to sample under the training settings of `spec`."""

    def __init__(self, spec: dict) -> None:
        packages(spec["sampler"])  # before anything is loaded
        from transformers import AutoTokenizer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        source, self.train = checked_model(Path(spec["checkpoint"])), spec["train"]
        self.name = f"{spec['run']} seed {spec['seed']}"
        self.tokenizer: Any = AutoTokenizer.from_pretrained(source)
        self.template = data.Template.read(Path(spec["template"]))
        sampling = Sampling(
            self.tokenizer.pad_token_id,
            self.tokenizer.eos_token_id,
            self.train["max_prompt_tokens"],
            self.train["max_response_tokens"],
            self.train["temperature"],
            self.train["sample_batch_tokens"],
            self.train["dtype"],
            self.train["device"],
        )
        self.sampler = build(spec["sampler"], source, sampling)

    def problems(self, rows: Sequence[dict], demonstrations: bool) -> list[Problem]:
        limits = self.train["max_prompt_tokens"], self.train["max_response_tokens"] if demonstrations else 0
        return data.problems(rows, self.tokenizer, self.template, *limits)

    def sample(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        return serve(self.sampler, requests, progress=self.name)

    def text(self, tokens: tuple[int, ...]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def response(self, tokens: tuple[int, ...]) -> str:
        """Tokens after the prompt as they are graded."""
        return self.template.answered(self.text(tokens))

    def correct(self, grader: Grader, rollouts: Sequence[tuple[Problem, Rollout]]) -> list[bool]:
        """Of prefix and continuation together."""
        pairs = [(self.response(rollout.prefix + rollout.tokens), problem.answer) for problem, rollout in rollouts]
        grades = grader.grade(pairs, [rollout.finish_reason == "length" for _, rollout in rollouts])
        return [grade.correct for grade in grades]


def preflight(spec: dict, out: Path) -> None:
    """Sample each problem once and write what share of the responses ended by themselves, what share is correct, and examples.

    Raises ValueError if fewer than min_finished ended.
    """
    rows = chosen(data.read_rows(Path(spec["data"])), spec["problems"], spec["seed"])
    policy = Policy(spec)
    problems = policy.problems(rows, demonstrations=False)
    own = [seeds.seed(run=spec["seed"], axis="preflight", problem=problem.id) for problem in problems]
    requests = [Request(problem, Sample(1), (seed,)) for problem, seed in zip(problems, own, strict=True)]
    rollouts = [(problem, group[0]) for problem, group in zip(problems, policy.sample(requests), strict=True)]
    finished = sum(r.finish_reason == "stop" for _, r in rollouts) / len(rollouts)
    rollouts.sort(key=lambda pair: pair[1].finish_reason == "stop")  # examples are of unfinished ones, where there are any
    examples = [policy.text(r.tokens)[-EXAMPLE_LENGTH:] for _, r in rollouts[:EXAMPLES]]
    if finished < spec["min_finished"]:
        raise ValueError(
            f"{finished:.0%} of {len(rollouts)} responses of {spec['checkpoint']} with the template {spec['template']} ended "
            f"by themselves, train.min_finished is {spec['min_finished']:.0%}: check template and end-of-sequence token, "
            f"raise train.max_response_tokens ({policy.train['max_response_tokens']}), or lower train.min_finished if that is "
            f"what you mean to train. Endings: {', '.join(map(repr, examples))}"
        )
    with Grader() as grader:
        correct = policy.correct(grader, rollouts)
    found = {
        "checkpoint": spec["checkpoint"],
        "template": policy.template.label,
        "problems": len(rollouts),
        "finished": round(finished, 4),
        "min_finished": spec["min_finished"],
        "correct": round(sum(correct) / len(correct), 4),
        "mean_tokens": round(sum(len(r.tokens) for _, r in rollouts) / len(rollouts), 2),
        "examples": examples,
    }
    record.write_json(out, found)


def prefixes(spec: dict, out: Path) -> None:
    """Sample continuations of expert openings of every ratio and write a row for each, graded and with its marks counted."""
    ratios = spec["ratios"]
    if not ratios or len(set(ratios)) < len(ratios) or not all(0 <= ratio <= 1 for ratio in ratios):
        raise ValueError(f"ratios {ratios} must be distinct shares of a demonstration, like [0, .2, .4, .6, .8]")
    if spec["samples"] < 1:
        raise ValueError(f"samples is {spec['samples']}; at least 1 continuation of each problem is needed")
    shown = [row for row in data.read_rows(Path(spec["data"])) if row.get("demonstrations")]
    rows = chosen(shown, spec["problems"], spec["seed"])
    policy = Policy(spec)
    problems = policy.problems(rows, demonstrations=True)
    asked = [(ratio, problem) for ratio in ratios for problem in problems]
    served = policy.sample([request(problem, ratio, spec["samples"], spec["seed"]) for ratio, problem in asked])
    rollouts = [(problem, rollout) for (_, problem), group in zip(asked, served, strict=True) for rollout in group]
    places = [(ratio, k) for (ratio, _), group in zip(asked, served, strict=True) for k in range(len(group))]
    with Grader() as grader:
        correct = policy.correct(grader, rollouts)
        given = grader.grade([(policy.response(rollout.prefix), problem.answer) for problem, rollout in rollouts])
    samples.write(
        out,
        (
            {
                "ratio": ratio,
                "problem_id": problem.id,
                "sample": k,
                "correct": correct[row],
                "given": given[row].correct,
                "tokens": len(rollout.tokens),
                "prefix_tokens": len(rollout.prefix),
                "finish_reason": rollout.finish_reason,
                "backtracking": len(BACKTRACKING.findall(policy.text(rollout.tokens))),
                "backward_chaining": len(BACKWARD_CHAINING.findall(policy.text(rollout.tokens))),
            }
            for row, ((ratio, k), (problem, rollout)) in enumerate(zip(places, rollouts, strict=True))
        ),
        PREFIXES,
    )


def request(problem: Problem, ratio: float, count: int, run: int) -> Request:
    """For continuations of the opening `ratio` of the first demonstration, each with a seed of its own."""
    sample = Sample(1, problem.prefix(1), max_new_tokens=0) if ratio >= 1 else Sample(count, problem.prefix(ratio))
    axes = {"run": run, "axis": "prefixes", "problem": problem.id, "ratio": f"{ratio:g}"}
    return Request(problem, sample, tuple(seeds.seed(**axes, sample=k) for k in range(sample.n)))


def main() -> int:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m engine.pilot", description=__doc__, formatter_class=text)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, title in (("preflight", "does the checkpoint end its answers"), ("prefixes", "continue expert openings")):
        one = verbs.add_parser(verb, help=title)
        one.add_argument("--spec", required=True, type=json.loads, help="the pilot as JSON, as workflow/plan.py writes it")
        one.add_argument(
            "--sizes", type=json.loads, default={}, help="{preflight: problems and settings of memory}, added to it"
        )
        one.add_argument("--out", required=True, type=Path, help="file to write")
    args = parser.parse_args()
    record.start_logging()
    try:
        sizes = dict(args.sizes.get(args.verb, {}))
        if "problems" in sizes:
            args.spec["problems"] = sizes.pop("problems")
        args.spec["train"] |= sizes
        (preflight if args.verb == "preflight" else prefixes)(args.spec, args.out)
    except (ValueError, SamplerError, OSError) as error:
        log.error("error: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
