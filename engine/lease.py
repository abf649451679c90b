"""GPUs for a command that no other command of this user on this machine has: Snakemake counts GPUs but assigns none.

    python -m engine.lease --gpus 2 -- python -m engine.stage ...

Waits until enough GPUs are free, takes them all at once, says which in CUDA_VISIBLE_DEVICES, and becomes the command. A GPU is
held by a lock on a file, so it is free again as soon as the command, and every child that inherited its open files, has ended,
however that happened; ranks of a stage do not inherit them, and end with it (engine/ranks.py). GPUs that were assigned already
(CUDA_VISIBLE_DEVICES, a Slurm job, a pod) are those it chooses from.
With --gpus 0 it only becomes the command.
"""

import argparse
import fcntl
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from engine import record

log = logging.getLogger("assay")
LOCKS = Path(f"/tmp/assay-gpus-{os.getuid()}")  # not in TMPDIR: two shells, or Slurm jobs, may have different ones
GPU, MIG = re.compile(r"GPU (\d+): .*\(UUID: (GPU-[^)]+)\)"), re.compile(r"\s+MIG .*\(UUID: (MIG-[^)]+)\)")


def listed(text: str) -> dict[str, str]:
    """UUIDs of the devices in the output of `nvidia-smi -L`, by the name that selects each: a GPU's number, or a MIG's UUID."""
    found: dict[str, str] = {}
    number = ""
    for line in text.splitlines():
        if whole := GPU.match(line):
            number = whole[1]
            found[number] = whole[2]
        elif part := MIG.match(line):
            found.pop(number, None)  # a divided GPU is used by its parts
            found[part[1]] = part[1]
    return found


def devices() -> dict[str, str]:
    """The GPUs to choose from, by the name that CUDA_VISIBLE_DEVICES takes, and what to call the lock of each: its UUID, under
    whatever name it was assigned. Raises ValueError if nvidia-smi fails."""
    known: dict[str, str] = {}
    if shutil.which("nvidia-smi"):
        asked = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
        if asked.returncode:
            raise ValueError(f"nvidia-smi -L failed ({(asked.stderr or asked.stdout).strip()}); check the driver")
        known = listed(asked.stdout)
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return known
    names = [name.strip() for name in given.split(",") if name.strip()]
    names = names[: names.index("-1")] if "-1" in names else names  # CUDA sees nothing from there on
    return {name: known.get(name) or _whole(name, known) for name in names}


def _whole(name: str, known: dict[str, str]) -> str:
    """A UUID may be shortened to what distinguishes it."""
    return next((uuid for uuid in known.values() if uuid.startswith(name)), name)


def take(count: int, folder: Path) -> list[str]:
    """Wait for `count` free GPUs and lock them, first come, first served; returns their names. The locks stay until this
    process and whoever inherits its open files have ended.

    Raises ValueError if there are not that many.
    """
    there = devices()
    if count > len(set(there.values())):
        names = ", ".join(there) or "CUDA_VISIBLE_DEVICES and nvidia-smi -L name none"
        raise ValueError(f"asked for {count} GPUs of {len(there)} ({names}); lower train.ranks or hardware.gpus")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "turn").open("w") as turn:  # held while waiting: nobody who wants fewer overtakes, and nobody holds a part
        if not _locked(turn.fileno()):
            log.info("waiting for %d of %d GPUs: another command is before this one", count, len(there))
            fcntl.flock(turn, fcntl.LOCK_EX)
        told = False
        while not (taken := _all_or_none(count, there, folder)):
            if not told:
                log.info("waiting for %d of %d GPUs: too many are in use", count, len(there))
            told = True
            time.sleep(0.2)
    return taken


def _all_or_none(count: int, there: dict[str, str], folder: Path) -> list[str]:
    """Lock `count` GPUs for this process and its children, or none if fewer are free."""
    files = {name: os.open(folder / lock.replace("/", "_"), os.O_RDWR | os.O_CREAT, 0o600) for name, lock in there.items()}
    free = [name for name, file in files.items() if _locked(file)]
    taken = free[:count] if len(free) >= count else []
    for name, file in files.items():
        if name in taken:
            os.set_inheritable(file, True)
        else:
            os.close(file)
    return taken


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a command on GPUs that no other command leased has.")
    parser.add_argument("--gpus", required=True, type=int, metavar="N", help="how many GPUs of this machine; 0: no lease")
    parser.add_argument("--folder", type=Path, default=LOCKS, help=f"where the locks are (default: {LOCKS})")
    parser.add_argument("command", nargs="+", metavar="-- COMMAND", help="what to run, with its arguments")
    args = parser.parse_args()
    record.start_logging()
    try:
        if shutil.which(args.command[0]) is None:
            raise ValueError(f"there is no program {args.command[0]}")
        if args.gpus < 0:
            raise ValueError(f"--gpus {args.gpus}: 0 for none, or how many")
        if args.gpus > 0:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(take(args.gpus, args.folder))
            os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # so that numbers mean what nvidia-smi means by them
        os.execvp(args.command[0], args.command)
    except (ValueError, OSError) as error:
        log.error("error: %s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
