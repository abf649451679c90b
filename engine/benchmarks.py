"""Benchmarks as data: where each comes from, whether it is the list the papers used, and what is changed in it on purpose.

    python -m engine.benchmarks build '{...}' DATA.jsonl SOURCE.json      what the rule `data` runs
    python -m engine.benchmarks list --data-dir FOLDER --template FILE    every benchmark: size, digest, licence, first prompt

A list is known by its size and its digest: the sha256 of its [problem, answer] pairs in file order, as JSON without escapes,
each text in Unicode NFC, with \\n line ends and without outer whitespace. Options are part of the problem's text, labelled as
in their source. The digest is checked whenever a data file is built, before gold patches, lettering and shuffling: what comes
after it is asked for in the configuration and printed under the tables.
"""

import argparse
import csv
import hashlib
import json
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from engine import data, hub, record
from engine.choices import Question
from engine.record import log

CATALOGUE = Path("config/benchmarks.yaml")
PATCHES = Path("config/gold_patches.yaml")


def normalised(text: str) -> str:
    return unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n").strip()


def list_sha256(rows: Iterable[dict]) -> str:
    """The digest of a list of problems and answers, as defined above."""
    pairs = [[normalised(str(row["problem"])), normalised(str(row["answer"]))] for row in rows]
    return hashlib.sha256(json.dumps(pairs, ensure_ascii=False).encode()).hexdigest()


def table(path: Path) -> list[dict]:
    """Rows of a .jsonl, .parquet or .csv file."""
    if path.suffix == ".jsonl":
        return record.read_rows(path)
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return parquet.read_table(path).to_pylist()
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    raise ValueError(f"{path} is neither .jsonl, .parquet nor .csv; convert it to one of them")


def items(name: str, rows: Sequence[dict], columns: dict) -> list[dict]:
    """Rows with other columns as ours: id (by position), problem, answer, and `question` where the options are in columns.

    `columns["choices"]` is a column that holds a list of options or {text, label}, or a list of columns with one option each,
    of which `columns["answer"]` is one. Raises ValueError for a missing column or an answer that is no option.
    """
    choices = columns.get("choices")
    wanted = {columns["problem"], columns["answer"], *([choices] if isinstance(choices, str) else choices or ())}
    found = []
    for position, row in enumerate(rows):
        if missing := sorted(wanted - row.keys()):
            raise ValueError(
                f"benchmark {name}, row {position + 1} has no column {missing[0]!r}; it has {', '.join(row)}. Correct `columns`"
            )
        item: dict[str, Any] = {"id": f"{name}-{position:04d}"}
        item |= {
            key: data.as_text(row[columns[key]], f"benchmark {name}, row {position + 1}: {key}")
            for key in ("problem", "answer")
        }
        if choices:
            question = item["question"] = _asked(name, item, row, choices, columns["answer"])
            item |= {"problem": question.text, "answer": question.answer}
        found.append(item)
    return found


def _asked(name: str, item: dict, row: dict, choices: str | list[str], answer: str) -> Question:
    try:
        stem = item["problem"].strip()
        if isinstance(choices, list):
            return Question.build(stem, [row[c] for c in choices], chr(ord("A") + choices.index(answer)))
        if isinstance(row[choices], dict):
            return Question.build(stem, row[choices]["text"], item["answer"], "".join(row[choices]["label"]))
        return Question.build(stem, row[choices], item["answer"])
    except ValueError as error:
        raise ValueError(f"benchmark {name}, problem {item['id']}: {error}") from error


def check(name: str, rows: Sequence[dict], size: int, sha256: str | None) -> str:
    """Return the digest of a list. Raises ValueError if it is not the expected one; says so loudly if none is known."""
    found = list_sha256(rows)
    if len(rows) != size or (sha256 and found != sha256):
        raise ValueError(
            f"benchmark {name} is not the expected list: {len(rows)} problems with sha256 {found}, expected {size} with "
            f"{sha256 or 'any'}. Numbers on another copy cannot be compared: get the file that config/benchmarks.yaml "
            "describes, or, for another list on purpose, give it an entry and a name of its own there"
        )
    if not sha256:
        log.warning("WARNING: benchmark %s: digest not pinned, so nothing says it is the papers' list: sha256 %s", name, found)
    return found


def patch(name: str, rows: Sequence[dict], answers: dict[str, list[str]]) -> None:
    """Replace gold answers, {id: [as it is, corrected]}. Raises ValueError if an id or its recorded answer is not there."""
    golds = {row["id"]: row for row in rows}
    for problem, (before, after) in answers.items():
        if problem not in golds:
            raise ValueError(f"gold patch of {name}: there is no problem {problem!r}; correct config/gold_patches.yaml")
        if golds[problem]["answer"] != before:
            raise ValueError(
                f"gold patch of {name}: {problem} has the answer {golds[problem]['answer']!r}, the patch expects {before!r}; "
                "review it again and correct config/gold_patches.yaml"
            )
        golds[problem]["answer"] = after


def arrange(name: str, row: dict, settings: dict) -> dict:
    """A multiple-choice row as it is asked: letters for labels, perhaps shuffled, perhaps with an instruction at the end.

    What was done is recorded in the row: `labels` before lettering, `shuffle` (the seed), `order` (where each option stood).
    """
    try:
        columns = row.pop("question", None)
        question = replace(columns, answer=row["answer"]) if columns else Question.parse(row["problem"], row["answer"])
    except ValueError as error:
        raise ValueError(f"benchmark {name}, problem {row['id']}: {error}") from error
    done: dict[str, Any] = {}
    if (lettered := question.lettered()) != question:
        done["labels"], question = question.labels, lettered
    if settings.get("shuffle") is not None:
        question, order = question.shuffled(name, row["id"], settings["shuffle"])
        done |= {"shuffle": settings["shuffle"], "order": order}
    text = f"{question.text}\n{settings['instruction']}" if settings.get("instruction") else question.text
    return {**row, "problem": text, "answer": question.answer, **done}


def build(spec: dict) -> tuple[list[dict], dict]:
    """The rows of a data file, and what they were made from. `spec`: `workflow.plan.Plan.data_spec`."""
    name, source = spec["name"], spec["source"]
    if source == "miniature":
        from miniature import world

        rows = list(world.benchmark_rows(name) if "size" in spec else world.training_rows())
    elif columns := spec.get("columns"):
        rows = items(name, table(_file(name, spec)), columns)
    else:
        rows = data.checked_rows(table(file := _file(name, spec)), file)
    pinned = spec.get("sha256")
    found = check(name, rows, spec["size"], pinned) if "size" in spec else list_sha256(rows)
    made = {"name": name, "source": source, "size": len(rows), "sha256": found, "pinned": bool(pinned)}
    for answers in spec.get("patches", {}).values():
        patch(name, rows, answers)
    if spec.get("choices") is not None:
        rows = [arrange(name, row, spec["choices"]) for row in rows]
    return rows, {**made, "patches": sorted(spec.get("patches", {})), "choices": spec.get("choices")}


def footer(notes: dict, made: Iterable[dict]) -> dict:
    """Notes for the tables, with the digests of lists for which none is pinned, and what corpora share with the tests."""
    made = list(made)
    unpinned = [f"{one['name']}: digest not pinned: sha256 {one['sha256']}" for one in made if not one["pinned"]]
    corpora = [_shared(one) for one in made if "overlap" in one]
    return {**notes, **({"lists": unpinned} if unpinned else {}), **({"training data": corpora} if corpora else {})}


def _shared(corpus: dict) -> str:
    """What a corpus (engine/overlap.py) has in common with the benchmarks, in words."""
    found = [
        f"{name} {one['tested, word for word']} word for word, {one['tested, 13 words in a row']} by 13 words in a row"
        for name, one in corpus["overlap"].items()
        if one["tested, word for word"] or one["tested, 13 words in a row"]
    ]
    tested = f"problems tested too: {'; '.join(found)}" if found else "no problem of it is tested"
    return f"{corpus['name']}, {corpus['size']:,} problems, {tested}"


def look(name: str, entry: dict, data_dir: str, template: data.Template) -> str:
    """What can be said of a benchmark on this machine; builds it if its file is here."""
    spec = spec_of(name, entry, data_dir)
    about = f"{name}: {entry['title']}, {entry['group']}, {metric(entry['samples'])}, {entry['licence']}\n"
    if not _here(spec):
        return f"{about}  {entry['size']} problems, MISSING here: {entry.get('origin') or spec['source']}\n"
    try:
        rows, made = build(spec)
    except ValueError as error:
        return f"{about}  WRONG: {error}\n"
    state = "ok" if made["pinned"] else "not pinned"
    patches = ", ".join(sorted(p for p, one in read_yaml(PATCHES).items() if one["benchmark"] == name)) or "none"
    prompt = template.render(rows[0]["problem"]).replace("\n", "\n    | ")
    return f"{about}  {len(rows)} problems, sha256 {made['sha256'][:16]} {state}, gold patches: {patches}\n    | {prompt}\n"


def _file(name: str, spec: dict) -> Path:
    if "hub" in spec:
        return hub.dataset_file(f"benchmark {name}", spec["hub"], spec["place"])
    path, origin = Path(spec["source"]), spec.get("origin")
    if not path.is_file():
        remedy = (
            f"place it there: it is made of {origin}" if origin else "check data_dir and the file names in the configuration"
        )
        raise ValueError(f"data file {path} does not exist; {remedy}")
    return path


def _here(spec: dict) -> bool:
    if where := spec.get("hub"):
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(where["id"], where["file"], revision=where["revision"], repo_type="dataset")
        return isinstance(found, str)
    return spec["source"] == "miniature" or Path(spec["source"]).is_file()


def metric(samples: int) -> str:
    return f"avg@{samples}" if samples > 1 else "pass@1"


def read_yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def spec_of(name: str, entry: dict, data_dir: str) -> dict[str, Any]:
    """What `build` needs of a catalogue entry. A local file is used where it exists, else the hub: the digest is the same."""
    spec = {key: entry[key] for key in ("size", "sha256", "choices", "origin") if key in entry}
    source, where = entry["source"].replace("{data_dir}", data_dir), entry.get("hub")
    if where and not Path(source).is_file():
        found = {"source": f"{where['id']}@{where['revision']}", "place": source, "hub": where, "columns": where.get("columns")}
        return {**spec, "name": name, **found}
    return {**spec, "name": name, "source": source, "columns": entry.get("columns")}


def main() -> int:
    parser = argparse.ArgumentParser(description="Build a data file, or look at the benchmarks.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    building = verbs.add_parser("build", help="write a data file and what it was made from")
    building.add_argument("spec", type=json.loads, help="the data file as JSON, as workflow/plan.py writes it")
    building.add_argument("out", type=Path)
    building.add_argument("made", type=Path)
    noting = verbs.add_parser("notes", help="write the notes for the tables, with digests that are not pinned")
    noting.add_argument("notes", type=json.loads)
    noting.add_argument("out", type=Path)
    noting.add_argument("made", type=Path, nargs="*", help="what `build` wrote")
    looking = verbs.add_parser("list", help="every benchmark: size, digest, licence, patches, first prompt")
    looking.add_argument("--data-dir", default="data")
    looking.add_argument("--template", type=Path, default=Path("config/templates/chat.txt"))
    args = parser.parse_args()
    record.start_logging()
    try:
        if args.verb == "build":
            rows, made = build(args.spec)
            record.write_rows(args.out, rows)
            record.write_json(args.made, made)
        elif args.verb == "notes":
            record.write_json(args.out, footer(args.notes, map(record.read_json, args.made)))
        else:
            template = data.Template.read(args.template)
            for name, entry in read_yaml(CATALOGUE).items():
                sys.stdout.write(look(name, entry, args.data_dir, template))
    except (ValueError, OSError) as error:
        log.error("error: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
