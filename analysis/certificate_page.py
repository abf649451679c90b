"""certificate.md: the certificate of a results folder as a page for a reader who doubts it."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from analysis.render import DASH, markdown_grid

Record = dict[str, Any]
SHOWN = 20  # golds compared as text that the page lists per data file; real data has hundreds, certificate.json has all
HOW_TO_READ = """\
- A check is a probe of the engine itself, before or while a stage trained, on the machine, with the versions and in the
  configuration it trained in. A cell says what was measured; what had to hold is listed under the table. A check that does
  not apply to a stage is a dash, for the reason given.
- A check that fails stops its stage, which then has no row in any table. The exception is a bug injected on purpose to see
  what it does to the results: it is the part after `+` in the run's name, and there a failed check is the right answer.
- Each stage's digest is that of its own `certificate.json`, beside the checkpoint; it also stands in `scores.csv` and
  `tables/main.csv` beside the numbers. The summary starts with the digest of the `certificate.json` beside this page: the
  first 16 hex digits of the SHA-256 of its `passed`, `stages` and `golds`, as Python's `json.dumps(..., sort_keys=True)`.
  Equal digests mean equal checks, measurements, configurations and golds.
- What passes here is the engine. That a method does what its authors meant, or that a result holds for another seed, model
  or data set, is for the methods' tests and the intervals in the tables to say."""


def to_markdown(record: Record) -> str:
    """The page of a certificate of `analysis.certificate.assemble`."""
    stages, golds = record["stages"], record["golds"]
    parts = [
        f"# Integrity certificate\n\n**{record['summary']}**",
        f"## Configuration\n\n{_configurations(stages)}",
        f"## Checks\n\n{_checks(stages)}",
        f"## The grader's check of itself\n\n{_golds(golds)}",
        f"## How to read this page\n\n{HOW_TO_READ}",
    ]
    return "\n\n".join(parts) + "\n"


def _name(stage: Record) -> str:
    return f"{stage['run']}/seed{stage['seed']}/{stage['stage']}"


def _names(stages: Iterable[Record]) -> str:
    """`grpo/seed{0,1}/grpo, sft/seed0/sft`: the stages, seeds of one together."""
    seeds: dict[tuple[str, str], list[str]] = {}
    for stage in stages:
        seeds.setdefault((stage["run"], stage["stage"]), []).append(str(stage["seed"]))
    alike = ((run, own[0] if len(own) == 1 else f"{{{','.join(own)}}}", stage) for (run, stage), own in seeds.items())
    return ", ".join(f"{run}/seed{numbers}/{stage}" for run, numbers, stage in alike)


def _configurations(stages: Sequence[Record]) -> str:
    """One column per distinct configuration; stages without one (base) trained nothing."""
    texts = {json.dumps(stage["configuration"], sort_keys=True): stage["configuration"] for stage in stages}
    distinct = [configuration for configuration in texts.values() if configuration]
    if not distinct:
        return "No stage trained."
    settings = dict.fromkeys(key for configuration in distinct for key in configuration)
    titles = ["all trained stages"] if len(distinct) == 1 else [f"({number})" for number in range(1, len(distinct) + 1)]
    rows = [["setting", *titles]]
    rows += [[key.replace("_", " "), *(_value(one.get(key, DASH)) for one in distinct)] for key in settings]
    table = "\n".join(markdown_grid(rows, numbers=False))
    if len(distinct) == 1:
        return table
    users = [_names(stage for stage in stages if stage["configuration"] == one) for one in distinct]
    return f"{table}\n\n{_list(f'{title} {names}' for title, names in zip(titles, users, strict=True))}"


def _value(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _checks(stages: Sequence[Record]) -> str:
    """Stages x checks, then what failed, what had to hold, and why a check does not apply."""
    names = list(dict.fromkeys(check["name"] for stage in stages for check in stage["checks"]))
    rows = [["stage", *names, "digest"]]
    limits: dict[str, None] = {}
    absent: dict[str, list[Record]] = {}
    for stage in stages:
        by_name = {check["name"]: check for check in stage["checks"]}
        rows.append([_name(stage), *(_cell(by_name.get(name)) for name in names), _code(stage["digest"])])
        for check in stage["checks"]:
            if check["status"] == "not applicable":
                absent.setdefault(f"{check['name']}: {check['measured']}", []).append(stage)
            else:
                limits[f"{check['name']}: {check['limit']}"] = None
    failures = _failures([stage for stage in stages if not stage["inject"]])
    failures += _failures([stage for stage in stages if stage["inject"]])
    parts = ["\n".join(markdown_grid(rows, numbers=False))]
    parts += [f"What failed:\n\n{_list(failures)}"] if failures else ["No check failed."]
    if unseen := _names(stage for stage in stages if stage["inject"] and stage["passed"]):
        parts.append(f"Stages with an injected bug that none of their checks saw: {unseen}.")
    parts.append(f"What had to hold:\n\n{_list(limits)}")
    parts += [f"What did not apply:\n\n{_list(f'{why} ({_names(own)})' for why, own in absent.items())}"] if absent else []
    return "\n\n".join(parts)


def _failures(stages: Sequence[Record]) -> list[str]:
    """A line for each failed check of a run's stage, its seeds together."""
    alike: dict[tuple[str, ...], list[tuple[Record, str]]] = {}
    for stage in stages:
        for check in stage["checks"]:
            if check["status"] == "failed":
                key = (stage["run"], stage["stage"], check["name"], check["limit"], check["remedy"])
                alike.setdefault(key, []).append((stage, check["measured"]))
    lines = []
    for (*_, name, limit, remedy), found in alike.items():
        measured = ", ".join(dict.fromkeys(value for _, value in found))
        inject = found[0][0]["inject"]
        purpose = f" The bug `{inject}` was injected on purpose." if inject else ""
        where = f"**{_names(stage for stage, _ in found)}, {name}**"
        lines.append(f"{where}: measured {measured}; what had to hold: {limit}.{purpose} Remedy: {remedy or 'none known'}")
    return lines


def _cell(check: Record | None) -> str:
    if check is None or check["status"] == "not applicable":
        return DASH
    return f"**FAILED** {check['measured']}" if check["status"] == "failed" else check["measured"]


def _golds(golds: Sequence[Record]) -> str:
    """One row per data file, then every gold that does not grade as correct, and those compared as text."""
    rows = [["data file", "golds", "not correct", "known", "as text only", "result"]]
    exceptions: list[str] = []
    texts: list[str] = []
    for check in golds:
        known, wrong = set(check["known"]), check["wrong"]
        counts = (check["golds"], len(wrong), sum(gold["id"] in known for gold in wrong), len(check["text_only"]))
        rows.append([check["name"], *(f"{count:,}" for count in counts), "passed" if check["passed"] else "**FAILED**"])
        for gold in wrong:
            verdict = "known exception" if gold["id"] in known else "**not known**"
            exceptions.append(
                f"{check['name']} {_code(gold['id'])}: {_code(gold['gold'])} grades as {gold['status']}, {verdict}"
            )
        if check["text_only"]:
            listed = ", ".join(f"{_code(gold['id'])} {_code(gold['gold'])}" for gold in check["text_only"][:SHOWN])
            more = len(check["text_only"]) - SHOWN
            texts.append(f"{check['name']}: {listed}" + (f" and {more:,} more in certificate.json" if more > 0 else ""))
    parts = [
        "Every gold answer, given as a response, must grade as correct against itself.",
        "\n".join(markdown_grid(rows)),
        f"Exceptions:\n\n{_list(exceptions)}" if exceptions else "No exceptions.",
    ]
    if texts:
        parts.append(f"Golds that can only be compared as text, so another spelling of them is wrong:\n\n{_list(texts)}")
    graders = dict.fromkeys(check["grader"] for check in golds)
    return "\n\n".join([*parts, f"Grader: {'; '.join(graders)}."])


def _list(texts: Iterable[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def _code(text: str) -> str:
    """Verbatim Markdown on one line, whatever backticks or line breaks the text holds."""
    line = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"`{line}`"
