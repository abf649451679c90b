"""Carries a training stage out in this process, or in several that each explore and train a share, on one machine or more.

    python -m engine.ranks [--node 1]

is the launcher of one node (engine/nodes.py): it reads what to do from standard input and starts the ranks of its machine. The
first rank alone writes what is not a checkpoint's shard; all nodes have to see the same folders.
"""

import argparse
import json
import logging
import multiprocessing
import os
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from engine import certificate as certificates
from engine import logs, nodes, record
from engine.sampler import SamplerError
from engine.training import Training

log = logging.getLogger("assay")
FAILURES = (ValueError, FloatingPointError, certificates.IntegrityError, SamplerError, OSError)  # what needs no traceback


class RankError(Exception):
    """A rank of the stage ended before its work was done."""


@dataclass(frozen=True)
class Place:
    """The ranks of one machine: `count` of `total`, from `first` on, which all meet at a store that the stage itself serves."""

    first: int
    count: int
    total: int
    address: str
    port: int

    def environment(self, local: int) -> dict[str, str]:
        """What a rank is told, as DeepSpeed's and torch's launchers tell it. The last is torchrun's word for a store that no
        rank serves: none has to find a free port, and the first may be on any machine."""
        told = {
            "RANK": self.first + local,
            "LOCAL_RANK": local,
            "LOCAL_WORLD_SIZE": self.count,
            "WORLD_SIZE": self.total,
            "MASTER_ADDR": self.address,
            "MASTER_PORT": self.port,
            "TORCHELASTIC_USE_AGENT_STORE": True,
        }
        return {name: str(value) for name, value in told.items()}


def train(spec: dict, out: Path, parts: dict, log_to: Sequence[str] = ()) -> dict[str, Any]:
    """Carry a training stage out, in this process or in `train.ranks` others, as many on each of `train.nodes` machines;
    returns its certificate.

    `log_to` names the loggers (engine/logs.py) that are told each update, besides metrics.jsonl.

    Raises RankError if one of several ranks fails: the others are stopped, and what it said is on standard error. ValueError if
    ranks or nodes cannot be had.
    """
    logs.prepare(log_to, out)
    count, machines = spec["train"]["ranks"], spec["train"].get("nodes", 1)
    if count % machines:
        raise ValueError(
            f"train.ranks {count} is the number of processes on all train.nodes {machines} together, as many on each; make it "
            f"a multiple of {machines}"
        )
    if count == 1:
        return Training(spec, out, parts, log_to).run()
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    os.environ.setdefault("PYTHONHASHSEED", "0")  # of the ranks: a method that goes through a set does so in one order
    place = Place(0, count // machines, count, "127.0.0.1" if machines == 1 else nodes.address(), store.port)
    work = {"spec": spec, "out": str(out), "parts": parts, "log_to": list(log_to)}
    if machines == 1:
        run_here(place, work)
        return record.read_json(out / "certificate.json")
    gpus = place.count if spec["train"]["device"] == "cuda" else 0
    if not nodes.run(machines, gpus, {**work, "place": asdict(place)}):
        raise RankError(f"the ranks on one of {machines} nodes failed; it said why above")
    return record.read_json(out / "certificate.json")


def run_here(place: Place, work: dict[str, Any]) -> None:
    """Start the ranks of this machine and wait for them. Raises RankError if one fails; then the others are killed."""
    from torch.multiprocessing.spawn import ProcessExitedException, spawn

    ranks: Any = spawn(_rank, (place, work), nprocs=place.count, join=False)
    try:
        while not ranks.join():
            pass
    except ProcessExitedException as error:
        how = f"was killed by {error.signal_name}; out of memory?" if error.signal_name else "failed; it said why above"
        raise RankError(f"rank {place.first + error.error_index} of {place.total} {how}") from error
    finally:
        for process in ranks.processes:
            process.kill()
            process.join()


def _rank(local: int, place: Place, work: dict[str, Any]) -> None:
    """One of several processes of a stage."""
    from torch.distributed import destroy_process_group

    threading.Thread(target=_leave_with_parent, daemon=True).start()
    os.environ.update(place.environment(local))
    record.start_logging()
    try:
        Training(work["spec"], Path(work["out"]), work["parts"], work["log_to"]).run()
    except FAILURES as error:
        log.error("error on rank %d: %s", place.first + local, error)
        sys.exit(1)
    destroy_process_group()
    # Everything is written. Python's own way out would end C++ threads of the process group under their feet, and now and then
    # abort a rank that has done its work.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _leave_with_parent() -> None:
    """End this process as soon as its parent has ended: the folder is the parent's, and another stage may enter it now."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _leave_with_input() -> None:
    """End this launcher, and so its ranks, when its standard input ends: the stage has, or wants it to."""
    while os.read(0, 4096):
        pass
    os._exit(1)


def main() -> int:
    parser = argparse.ArgumentParser(description="Start a stage's ranks on this node, as standard input says.")
    parser.add_argument("--node", type=int, help="which of the stage's nodes this is, from 0 on; default: SLURM_NODEID")
    node = parser.parse_args().node
    if node is None and "SLURM_NODEID" not in os.environ:
        parser.error("--node is needed outside Slurm; a stage starts its launchers itself (train.nodes)")
    node = int(os.environ["SLURM_NODEID"]) if node is None else node
    record.start_logging()
    work = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_leave_with_input, daemon=True).start()
    for name, value in work.pop("environment").items():
        os.environ.setdefault(name, value)  # ssh passes little on; what this node says of itself stays
    place = Place(**work.pop("place"))
    try:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", nodes.interface(place.address))
        run_here(replace(place, first=node * place.count), work)
    except (*FAILURES, RankError) as error:
        log.error("error on node %d (%s): %s", node, socket.gethostname(), error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
