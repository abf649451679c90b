"""Where a result came from.

    python -m engine.provenance results/miniature/tables/provenance.json \
        --inputs results/miniature/scores.csv analysis --outputs results/miniature/tables/main.csv --about seeds=0,1

`made` says what made a result: commit, command, time, machine, versions. `write` puts that into a `provenance.json` beside a
table or figure, with the sha256 of every input and output. A stage has a record of its own, `done.json`, where it is under
"provenance". `assay verify` (engine/verify.py) recomputes the digests of both. Everything runs in the repository's root, so
inputs are named from there.
"""

import argparse
import functools
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from engine import record

PACKAGE = Path(__file__).resolve().parent
PACKAGES = ("torch", "transformers", "deepspeed", "math-verify", "pandas", "snakemake")
SUFFIX = "provenance.json"
CPUINFO = Path("/proc/cpuinfo")
BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # what processors call their instructions for bfloat16 (the last one Arm's)
NO_SOURCES = (":(top,exclude)docs", ":(top,exclude)tests", ":(top,exclude)*.md")  # a change there changes no result


def _git(*arguments: str) -> str | None:
    """What git prints; None if it fails or is not installed. Without locks: many stages may ask at the same time."""
    command = ["git", "--no-optional-locks", "-C", str(PACKAGE), *arguments]
    try:
        told = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return told.stdout.strip() if told.returncode == 0 else None


@functools.cache
def git() -> dict[str, Any]:
    """Commit of the repository that holds this package, and whether anything in it is uncommitted; None each if there is none.

    Asked once per process. A long process asks when it starts: a commit made while it runs is not what it runs.
    """
    if not _git("ls-files"):  # an installed copy may lie, ignored, in somebody else's repository
        return {"commit": None, "dirty": None}
    return {"commit": _git("rev-parse", "HEAD"), "dirty": _git("status", "--porcelain") != ""}


def same_sources(commit: str) -> bool:
    """Whether that commit and this one differ in nothing that could change a result; one that git does not know differs."""
    is_name = re.fullmatch("[0-9a-f]{40,64}", commit)  # it comes from a file: nothing else may reach git's command line
    return bool(is_name) and _git("diff", "--quiet", commit, "HEAD", "--", ":(top)", *NO_SOURCES) is not None


def made(started: float) -> dict[str, Any]:
    """What made a result, `started` in Unix seconds and ended now. Names no user, no host and no home folder."""
    ended = time.time()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    typed = os.environ.get("ASSAY_COMMAND")
    return {
        "git": dict(git()),
        "command": {
            "typed": typed and _anonymous(typed),
            "process": _anonymous(shlex.join([Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]])),
        },
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "ended": datetime.fromtimestamp(ended, UTC).isoformat(timespec="seconds"),
        "wall_seconds": round(ended - started, 1),
        "hardware": {
            "processor": _cpuinfo("model name") or platform.machine(),
            "bfloat16": sorted(BF16 & set((_cpuinfo("flags") or _cpuinfo("Features")).split())),
            "logical_cores": os.cpu_count(),
            "memory_gib": round(memory / 2**30, 1),
            "gpus": _gpus(),
            "gpu_ids": os.environ.get("CUDA_VISIBLE_DEVICES"),
        },
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
    }


def _anonymous(command: str) -> str:
    """A command without the folders of the person who gave it: paths from the repository's root, `~` for the home folder."""
    home = re.escape(os.path.expanduser("~"))
    return re.sub(rf"{home}(?![\w.-])", "~", command.replace(f"{Path.cwd()}/", ""))


def _cpuinfo(field: str) -> str:
    """What /proc/cpuinfo says of the first core; empty where it says nothing."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def _gpus() -> list[str] | None:
    """Names of the GPUs; None where torch, which knows them, was not used and is not worth loading."""
    torch = sys.modules.get("torch")
    return None if torch is None else [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write(out: Path, inputs: list[Path], outputs: list[Path], started: float, **about: Any) -> None:
    """Write `out`, a provenance.json, for outputs that exist. A folder stands for all its files but hidden and compiled ones.

    Raises OSError if a file is missing, ValueError if a folder holds none or if `verify` would not find `out` by its name.
    """
    if not out.name.endswith(SUFFIX):
        raise ValueError(f"{out}: the name must end in {SUFFIX}, or `assay verify` passes it over")
    written = {
        "made": made(started),
        "about": about,
        "inputs": {str(path): record.file_sha256(path) for given in inputs for path in _files(given)},
        "outputs": digests([path for given in outputs for path in _files(given) if path != out], out.parent),
    }
    record.write_json(out, {**written, "digest": record.digest(written)})


def digests(paths: list[Path], folder: Path) -> dict[str, str]:
    """sha256 of files, and of all files in folders, by their name relative to `folder`."""
    return {os.path.relpath(path, folder): record.file_sha256(path) for given in paths for path in _files(given)}


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    names = [p.relative_to(path) for p in sorted(path.rglob("*")) if p.is_file()]
    kept = [path / name for name in names if not any(part.startswith(".") or part == "__pycache__" for part in name.parts)]
    if not kept:
        raise ValueError(f"{path} holds no file whose digest could be written down")
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description="Write down what outputs were made from, right after they were made.")
    parser.add_argument("out", type=Path, metavar="OUT", help="the provenance.json to write")
    parser.add_argument("--inputs", nargs="+", type=Path, default=[], metavar="PATH", help="files, or folders of files, read")
    parser.add_argument("--outputs", nargs="+", type=Path, required=True, metavar="PATH", help="files written")
    parser.add_argument("--started", type=float, default=time.time(), metavar="UNIX_SECONDS", help="when that began")
    parser.add_argument("--about", nargs="+", default=[], metavar="KEY=VALUE", help="anything else that determined them")
    args = parser.parse_args()
    if unnamed := [text for text in args.about if "=" not in text]:
        parser.error(f"--about {unnamed[0]}: write KEY=VALUE")
    about = dict(text.split("=", 1) for text in args.about)
    try:
        write(args.out, args.inputs, args.outputs, args.started, **about)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
