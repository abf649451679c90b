"""A stage on two nodes: two network namespaces joined by a cable, with host names of their own, stand in for machines."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from engine import nodes, ranks, record
from tests.conftest import ROOT
from tests.test_ranks import on_two
from tests.test_stage import finish, outcome, start

FIRST, SECOND = "10.98.76.1", "10.98.76.2"


@dataclass(frozen=True)
class Cable:
    """Two network namespaces; `prefixes` run a command in either, under a host name of its own."""

    names: tuple[str, str]

    @property
    def prefixes(self) -> list[list[str]]:
        return [
            ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", f'hostname {name} && exec "$0" "$@"']
            for name in self.names
        ]

    def start(self, spec: dict, out: Path) -> subprocess.Popen:
        """A stage whose process is on the first node."""
        command = [
            *self.prefixes[0],
            sys.executable,
            "-m",
            "engine.stage",
            "--out",
            str(out),
            "--spec",
            json.dumps(spec),
        ]
        told = {"MASTER_ADDR": FIRST, "OMP_NUM_THREADS": "1", "ASSAY_NODES": "; ".join(map(shlex.join, self.prefixes))}
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, **told})

    def processes(self, node: int) -> list[psutil.Process]:
        """What runs on a node now."""
        found = subprocess.run(["ip", "netns", "pids", self.names[node]], capture_output=True, text=True, check=True)
        return [psutil.Process(int(pid)) for pid in found.stdout.split() if psutil.pid_exists(int(pid))]


def ip(*arguments: str) -> bool:
    return subprocess.run(["ip", *arguments], capture_output=True).returncode == 0


@pytest.fixture
def cable() -> Iterator[Cable]:
    if os.getuid() != 0 or shutil.which("ip") is None:
        pytest.skip("skipped: network namespaces need root and iproute2")
    names = (f"one{os.getpid()}", f"two{os.getpid()}")
    try:
        if not ip("netns", "add", names[0]):
            pytest.skip("skipped: this machine allows no network namespaces")
        ends = [name.replace("o", "v", 1)[:15] for name in names]
        made = [ip("netns", "add", names[1]), ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])]
        for name, end, address in zip(names, ends, (FIRST, SECOND), strict=True):
            inside = ("-n", name)
            made += [ip("link", "set", end, "netns", name), ip(*inside, "addr", "add", f"{address}/24", "dev", end)]
            made += [ip(*inside, "link", "set", "lo", "up"), ip(*inside, "link", "set", end, "up")]
        assert all(made)
        cable = Cable(names)
        yield cable
        for process in (*cable.processes(0), *cable.processes(1)):  # a test that failed
            process.kill()
    finally:
        for name in names:
            ip("netns", "del", name)


LONG = {"updates": 1000}  # a stage that does not end by itself while a test looks


def on_two_nodes(spec: dict, **changes) -> dict:
    return on_two(spec, nodes=2, **changes)


def until_trained(out: Path, process: subprocess.Popen) -> None:
    while not (out / "state" / "step-000002").exists() and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None


def test_two_nodes_do_what_two_ranks_on_one_do(spec: dict, tmp_path: Path, cable: Cable) -> None:
    """The same bits: where a rank is changes nothing."""
    one, two = tmp_path / "one", tmp_path / "two"
    finish(start(on_two(spec), one))
    process = cable.start(on_two_nodes(spec), two)
    until_trained(two, process)
    there = cable.processes(1)
    assert any("--multiprocessing-fork" in each.cmdline() for each in there)  # a rank trains on the second node
    finish(process)
    rows = record.read_rows(two / "metrics.jsonl")
    assert len(rows) == 4 and min(row["grad_norm"] for row in rows) > 0
    assert outcome(two)[:2] == outcome(one)[:2]
    assert not psutil.wait_procs(there, timeout=5)[1]


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_stage_that_ends_leaves_nothing_on_any_node(spec: dict, tmp_path: Path, cable: Cable, how: str) -> None:
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests
    process = cable.start(on_two_nodes(spec, **LONG), tmp_path / "out")
    signal.signal(signal.SIGINT, before)
    until_trained(tmp_path / "out", process)
    running = [cable.processes(0), cable.processes(1)]
    assert all(len(found) >= 2 for found in running)  # a launcher and its rank
    process.send_signal(getattr(signal, how))
    process.communicate(timeout=60)
    assert not psutil.wait_procs([*running[0], *running[1]], timeout=10)[1]
    assert not (tmp_path / "out" / "done.json").exists()


def test_a_killed_rank_on_another_node_ends_the_stage(spec: dict, tmp_path: Path, cable: Cable) -> None:
    process = cable.start(on_two_nodes(spec, **LONG), tmp_path / "out")
    until_trained(tmp_path / "out", process)
    running = [cable.processes(0), cable.processes(1)]
    next(each for each in running[1] if "--multiprocessing-fork" in each.cmdline()).kill()
    said = finish(process, code=1)
    assert re.search(rf"error on node 1 \({cable.names[1]}\): rank 1 of 2 was killed by SIGKILL; out of memory\?", said)
    assert "error: the ranks on one of 2 nodes failed; it said why above" in said
    assert not psutil.wait_procs([*running[0], *running[1]], timeout=10)[1]


def test_ranks_and_nodes_that_cannot_be_had_are_refused(spec: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ASSAY_NODES", "SLURM_JOB_ID", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"train.ranks 3 is the number of processes on all train.nodes 2.*a multiple of 2"):
        ranks.train(on_two(spec, ranks=3, nodes=2), tmp_path, {})
    with pytest.raises(ValueError, match=r"train.nodes 2 needs a Slurm job of 2 nodes .* or ASSAY_NODES"):
        nodes.commands(2, 0)
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    with pytest.raises(ValueError, match=r"train.nodes is 2 and this Slurm job has 1; ask for more"):
        nodes.commands(2, 0)
    monkeypatch.setenv("ASSAY_NODES", "ssh one;")
    with pytest.raises(ValueError, match=r"train.nodes is 2 and ASSAY_NODES has 1 commands"):
        nodes.commands(2, 0)
    monkeypatch.setenv("ASSAY_NODES", "ssh -x one; ssh two")
    assert [command[:3] for command in nodes.commands(2, 0)] == [["ssh", "-x", "one"], ["ssh", "two", "env"]]


def test_an_address_that_other_nodes_cannot_use_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "given")
    assert nodes.address() == "given"
    monkeypatch.delenv("MASTER_ADDR")
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    with pytest.raises(ValueError, match=r"'localhost' is 127.0.0.1 here, which no other node reaches; set MASTER_ADDR"):
        nodes.address()
    assert nodes.interface("127.0.0.1") == "lo"
