"""A stage's ranks on several machines that see the same folders: starts a launcher on each, and ends them with the stage.

Inside a Slurm job `srun` starts the launchers; elsewhere ASSAY_NODES has a command for each node, such as "ssh one; ssh two".
A launcher (engine/ranks.py) reads from standard input what to do, and leaves when its standard input ends. So nothing survives
the stage, however that ends: a pipe needs no signal, and srun and ssh pass its end on.

DeepSpeed takes its ranks from the environment (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT). That is all its own
launchers hand over: `deepspeed --launcher slurm` is one `srun` of a process per GPU, and `pdsh` needs ssh and a file of hosts.
"""

import ipaddress
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import psutil

PATIENCE = 10.0  # seconds launchers have to leave by themselves when their standard input has ended
JOB = ("SLURM_JOB_ID", "SLURM_CONF", "SLURM_CLUSTER_NAME")  # what a new step needs to know; the rest is about another step
STEP = ("--overlap", "--ntasks-per-node=1", "--cpu-bind=none", "--kill-on-bad-exit=1")


def address() -> str:
    """The name under which other nodes reach this one: MASTER_ADDR, else the host's name.

    Raises ValueError if that name means something only on this machine.
    """
    if given := os.environ.get("MASTER_ADDR"):
        return given
    name = socket.gethostname()
    try:
        found = socket.gethostbyname(name)
    except OSError as error:
        raise ValueError(f"train.nodes: this host's name {name!r} has no address ({error}); set MASTER_ADDR to one") from error
    if ipaddress.ip_address(found).is_loopback:
        raise ValueError(
            f"train.nodes: this host's name {name!r} is {found} here, which no other node reaches; set MASTER_ADDR to this "
            "node's address in the cluster's network, or mend /etc/hosts"
        )
    return name


def interface(target: str) -> str:
    """The network interface through which this machine reaches a host. Left alone, gloo takes the one that the host's own name
    belongs to, which is often the loopback. Raises OSError if there is no way to the host."""
    family, kind, _, _, there = socket.getaddrinfo(target, 1, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(there)  # sends nothing
        own = probe.getsockname()[0]
    return next(name for name, known in psutil.net_if_addrs().items() if own in (one.address.split("%")[0] for one in known))


def commands(nodes: int, gpus: int) -> list[list[str]]:
    """What starts a launcher on every node, with `gpus` GPUs on each. Raises ValueError if there are not that many nodes."""
    launcher = [sys.executable, "-m", "engine.ranks"]
    if given := os.environ.get("ASSAY_NODES"):
        prefixes = [shlex.split(prefix) for prefix in given.split(";") if prefix.strip()]
        if len(prefixes) != nodes:
            raise ValueError(f"train.nodes is {nodes} and ASSAY_NODES has {len(prefixes)} commands; give one for each node")
        here = ["env", f"--chdir={os.getcwd()}"]
        return [[*prefix, *here, *launcher, "--node", str(node)] for node, prefix in enumerate(prefixes)]
    if "SLURM_JOB_ID" not in os.environ:
        raise ValueError(
            f"train.nodes {nodes} needs a Slurm job of {nodes} nodes (workflow/profiles/slurm), or ASSAY_NODES with a command "
            "for each node, such as 'ssh one; ssh two' (docs/clusters.md)"
        )
    if (had := int(os.environ.get("SLURM_JOB_NUM_NODES", nodes))) < nodes:  # not everywhere said; then srun refuses
        raise ValueError(f"train.nodes is {nodes} and this Slurm job has {had}; ask for more (resources: nodes), or lower it")
    # Without their number, a step that shares the node of another one is given one GPU there (22.05).
    asked = [f"--gpus-per-node={gpus}"] if gpus else []
    return [["srun", f"--nodes={nodes}", f"--ntasks={nodes}", *asked, *STEP, *launcher]]


def run(nodes: int, gpus: int, work: dict[str, Any]) -> bool:
    """Run launchers on all nodes, with `gpus` GPUs each, until their work is done; False if one failed, and all were ended."""
    environment = {name: value for name, value in os.environ.items() if name in JOB or not name.startswith(("SLURM_", "SRUN_"))}
    line = json.dumps({**work, "environment": environment}).encode() + b"\n"
    # In a session of their own: a SIGINT from the terminal is for the stage, which ends them in order.
    launchers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True)
        for command in commands(nodes, gpus)
    ]
    try:
        for launcher in launchers:
            assert launcher.stdin is not None
            with suppress(BrokenPipeError):  # it has ended already; its exit status is looked at below
                launcher.stdin.write(line)
                launcher.stdin.flush()
        while None in (ended := [launcher.poll() for launcher in launchers]) and not any(ended):
            time.sleep(0.1)
    finally:
        _end(launchers)
    return not any(ended)


def _end(launchers: Sequence[subprocess.Popen]) -> None:
    for launcher in launchers:
        assert launcher.stdin is not None
        with suppress(BrokenPipeError):
            launcher.stdin.close()
    _, alive = psutil.wait_procs([psutil.Process(one.pid) for one in launchers if one.poll() is None], PATIENCE)
    for process in alive:
        process.kill()
    for launcher in launchers:
        launcher.wait()
