"""Training corpora by name: where each comes from, and the command that builds one.

    python -m engine.corpus build '{...}' TRAIN.jsonl REPORT.json      what the rule `corpus` runs; `engine.preparation` does it
    python -m engine.corpus list --data-dir FOLDER                     every corpus: what it is and which of its files are here

The command also writes TRAIN.tokens.arrow (`engine.tokenised`). This module imports nothing heavy: the plan reads it.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import jsonschema

from engine import benchmarks, hub, record
from engine.methods import nearest
from engine.record import log

CATALOGUE = Path("config/corpora.yaml")
SCHEMA = Path("workflow/schemas/corpora.schema.yaml")
PARTS = ("problems", "further", "without")  # the sources an entry may have
MINIATURE = "miniature:"  # a source that miniature/corpus.py generates
Source = dict[str, Any]


def catalogue(path: Path = CATALOGUE) -> dict[str, dict]:
    """The corpora of a catalogue, checked. Raises ValueError naming the first setting that is wrong."""
    known = benchmarks.read_yaml(path)
    try:
        jsonschema.validate(known, benchmarks.read_yaml(SCHEMA))
    except jsonschema.ValidationError as error:
        raise ValueError(f"{path}, {error.json_path.removeprefix('$.')}: {error.message}") from error
    return known


def entry_of(name: str, known: dict[str, dict]) -> dict:
    """The entry of a corpus. Raises ValueError with the nearest known name for an unknown one."""
    if name not in known:
        raise nearest("corpus", name, known, "; or name a .jsonl file")
    return known[name]


def spec_of(name: str, entry: dict, data_dir: str) -> dict[str, Any]:
    """What `build` needs of an entry: its name, and the entry with {data_dir} replaced. The caller adds `model` (whose
    tokenizer counts), `template` (a file), `max_prompt_tokens`, `max_response_tokens` and `benchmarks` (data files, which only
    `overlap: drop` needs)."""
    resolved = {
        part: {**entry[part], "source": entry[part]["source"].replace("{data_dir}", data_dir)}
        for part in PARTS
        if part in entry
    }
    return {"name": name, "entry": {**entry, **resolved}}


def inputs(spec: dict) -> list[str]:
    """The local files that a corpus is built from, where they exist; what is not here comes from the hub or is generated."""
    sources = [spec["entry"][part]["source"] for part in PARTS if part in spec["entry"]]
    return [str(path) for source in sources if not source.startswith(MINIATURE) for path in _local(Path(source))]


def files_of(name: str, source: Source, folder: Path) -> list[Path]:
    """The files of a source: local ones, else the hub's, or generated ones, written to `folder`."""
    place = source["source"]
    if place.startswith(MINIATURE):
        from miniature import corpus

        return [corpus.write(place.removeprefix(MINIATURE), folder)]
    if found := _local(Path(place)):
        return found
    where = source.get("hub")
    if not where:
        raise ValueError(
            f"corpus {name}: {place} does not exist and its entry in config/corpora.yaml has no `hub`; place it there"
        )
    download = hub.dataset_files if "*" in where["file"] else lambda *given: [hub.dataset_file(*given)]
    return download(f"corpus {name}", where, place)


def _local(place: Path) -> list[Path]:
    """A file, or the data files in a folder."""
    if place.is_dir():
        return sorted(path for path in place.iterdir() if path.suffix in (".parquet", ".jsonl"))
    return [place] if place.is_file() else []


def look(name: str, entry: dict, data_dir: str) -> str:
    """What can be said of a corpus on this machine without building it."""
    lines = [f"{name}: {entry['title']}, {entry['licence']}"]
    resolved = spec_of(name, entry, data_dir)["entry"]
    for part in PARTS:
        if part in entry:
            source = resolved[part]
            where = source.get("hub")
            origin = f", else {where['file']} of {where['id']} at {where['revision'] or 'ITS NEWEST REVISION'}" if where else ""
            here = source["source"].startswith(MINIATURE) or _local(Path(source["source"]))
            lines.append(f"  {part}: {source['source']} ({'here' if here else 'not here'}){origin}")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Build a training corpus, or look at the known ones.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    building = verbs.add_parser("build", help="write a corpus, its tokens beside it, and a report of what it was made from")
    building.add_argument("spec", type=json.loads, help="the corpus as JSON, as workflow/plan.py writes it")
    building.add_argument("out", type=Path)
    building.add_argument("report", type=Path)
    building.add_argument("--workers", type=int, default=1, help="processes that grade (default: %(default)s)")
    looking = verbs.add_parser("list", help="every corpus: title, licence, sources and whether they are here")
    looking.add_argument("--data-dir", default="data")
    args = parser.parse_args()
    record.start_logging()
    try:
        if args.verb == "build":
            from engine import preparation

            with tempfile.TemporaryDirectory() as folder:
                record.write_json(
                    args.report, preparation.build({**args.spec, "workers": args.workers}, args.out, Path(folder))
                )
        else:
            for name, entry in catalogue().items():
                sys.stdout.write(look(name, entry, args.data_dir))
    except (ValueError, OSError) as error:
        log.error("error: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
