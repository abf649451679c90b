"""A real Slurm, started here: one machine as two nodes of a cluster, with GPUs that are only device files."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import yaml

from engine import nodes, record
from tests.conftest import ROOT, free_ports
from tests.test_ranks import on_two
from tests.test_workflow import SMALL

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch")
PROFILE = ROOT / "workflow" / "profiles" / "slurm"
CONF = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,batch_sched_delay=0
KillWait=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=one,two NodeHostname=localhost NodeAddr=127.0.0.1 Port=[{first},{second}] CPUs=16 RealMemory=1000000 Gres=gpu:2
PartitionName=gpu Nodes=one,two Default=YES MaxTime=INFINITE State=UP
"""
SNAKEFILE = """
GPUS = {"none": 0, "one": 1, "two": 2, "wide": 4, "cpus": 0}
NODES = {"wide": 2, "cpus": 2}
rule all:
    input: expand("{name}.txt", name=GPUS)
rule train:
    output: "{name}.txt"
    threads: 2
    resources:
        gpu=lambda wildcards: GPUS[wildcards.name],
        nodes=lambda wildcards: NODES.get(wildcards.name, 1),
        tasks=lambda wildcards: NODES.get(wildcards.name, 1),
        mpi=lambda wildcards: "srun" if wildcards.name in NODES else "",
    params:
        here=lambda wildcards: GPUS[wildcards.name] // NODES.get(wildcards.name, 1)
    shell: "cd ROOT && PYTHON -m engine.lease --gpus {params.here} --folder FOLDER/locks --"
           " sh FOLDER/tell.sh > FOLDER/{output}"
"""
TELL = "squeue --noheader --jobs $SLURM_JOB_ID --format '%i %D %C'; echo $CUDA_VISIBLE_DEVICES"  # number, nodes, CPUs; GPUs


@dataclass(frozen=True)
class Cluster:
    """Where a Slurm keeps itself, and the environment in which its commands find it."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "CUDA_"))}
        told = {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": f"{self.folder}/bin:{outside['PATH']}"}
        return {**outside, **told, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}

    def call(self, *command: str, folder: Path = ROOT) -> str:
        """What a command prints; it must succeed."""
        done = subprocess.run(command, cwd=folder, env=self.environment, text=True, capture_output=True, timeout=280)
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
        return done.stdout

    def snakemake(self, *arguments: str, folder: Path) -> str:
        """A workflow run through the profile; asked for states sooner than a real cluster should be."""
        hurry = [
            "--slurm-init-seconds-before-status-checks",
            "2",
            "--seconds-between-status-checks",
            "2",
            "--latency-wait",
            "20",
        ]
        here = ["--slurm-status-command", "squeue", "--retries", "0"]  # there is no database of past jobs
        command = [sys.executable, "-m", "snakemake", "--profile", str(PROFILE), *hurry, *here]
        return self.call(*command, *arguments, folder=folder)

    def job(self, folder: Path, *command: str, gpus: int = 0) -> str:
        """Submit a job of two nodes, which starts on the first as the profile's plugin lets it; returns its number."""
        (folder / "job.sh").write_text(f"#!/bin/sh\n{shlex.join(command)}\n")
        asked = [f"--gpus={2 * gpus}"] if gpus else []
        sent = ["sbatch", "--parsable", "--nodes=2", "--ntasks=2", "--cpus-per-task=1", "--mem=1000", *asked]
        return self.call(*sent, f"--output={folder}/job.out", str(folder / "job.sh")).strip()

    def state(self, job: str) -> str:
        return self.call("scontrol", "show", "job", job).split("JobState=")[1].split()[0]

    def processes(self, job: str) -> dict[int, str]:
        """Python processes of a job and the node each is on."""
        found = {}
        for process in psutil.process_iter():
            try:
                around = process.environ()
            except psutil.Error:
                continue
            if around.get("SLURM_JOB_ID") == job and "python" in process.name() and "SLURMD_NODENAME" in around:
                found[process.pid] = around["SLURMD_NODENAME"]
        return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes named one and two, each with 16 CPUs and 2 GPUs that are not there."""
    if os.getuid() != 0 or not all(map(shutil.which, PROGRAMS)):
        pytest.skip("skipped: needs root, and Slurm and munge (apt-get install slurm-wlm munge)")
    if find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("skipped: needs snakemake-executor-plugin-slurm (requirements/slurm.txt)")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("munge", "state", "spool-one", "spool-two", "bin"):
        (folder / name).mkdir(mode=0o700)
    (folder / "munge" / "key").write_bytes(os.urandom(128))
    (folder / "munge" / "key").chmod(0o600)
    for number in (0, 1):
        os.mknod(folder / f"nvidia{number}", 0o20600, os.makedev(1, 3))
    (folder / "gres.conf").write_text(f"NodeName=one,two Name=gpu File={folder}/nvidia[0-1]\n")
    port, first, second = free_ports(3)
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, port=port, first=first, second=second))
    for program in ("srun", "squeue", "scontrol", "sinfo"):  # the plugin's steps forget SLURM_CONF
        found = shutil.which(program)
        (folder / "bin" / program).write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {found} "$@"\n')
        (folder / "bin" / program).chmod(0o755)
    made, munge = Cluster(folder), folder / "munge"
    log = (folder / "daemons.log").open("w")
    keep = [f"--{name}-file={munge / name}" for name in ("key", "pid", "log", "seed")]
    daemons = [
        ["munged", "--foreground", "--force", f"--socket={munge}/socket", *keep],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", "one"],
        ["slurmd", "-D", "-N", "two"],
    ]
    started: list[subprocess.Popen] = []
    try:
        for daemon in daemons:
            started.append(subprocess.Popen(daemon, env=made.environment, stdout=log, stderr=log))
            while daemon[0] == "munged" and not (munge / "socket").exists() and started[0].poll() is None:
                time.sleep(0.05)
        for _ in range(300):
            assert all(one.poll() is None for one in started), (folder / "daemons.log").read_text()[-3000:]
            ready = subprocess.run(["sinfo", "-h", "-o", "%D %t"], env=made.environment, capture_output=True, text=True).stdout
            if ready.split() == ["2", "idle"]:
                break
            time.sleep(0.2)
        else:
            raise AssertionError(f"{ready}{(folder / 'daemons.log').read_text()[-3000:]}")
        yield made
        subprocess.run(["scancel", "--user=root"], env=made.environment, capture_output=True)
    finally:
        for daemon in reversed(started):
            daemon.terminate()
            daemon.wait()


def test_jobs_go_through_the_profile_each_with_its_own_gpus(cluster: Cluster, tmp_path: Path) -> None:
    text = SNAKEFILE.replace("ROOT", str(ROOT)).replace("PYTHON", sys.executable).replace("FOLDER", str(tmp_path))
    (tmp_path / "Snakefile").write_text(text)
    (tmp_path / "tell.sh").write_text(TELL)
    cluster.snakemake("-s", str(tmp_path / "Snakefile"), folder=tmp_path)
    told = {name: (tmp_path / f"{name}.txt").read_text().split() for name in ("none", "one", "two", "wide", "cpus")}
    assert len({job for job, *_ in told.values()}) == 5  # jobs of Slurm
    assert [told[name][1:] for name in ("none", "cpus")] == [["1", "2"], ["2", "4"]]  # nodes, CPUs
    assert told["one"][1:] in (["1", "8", "0"], ["1", "8", "1"])  # CPUs as many as its GPUs want
    assert told["two"][1:] == ["1", "16", "0,1"] and told["wide"][1:] == ["2", "32", "0,1"]


def test_a_stage_of_the_workflow_trains_as_a_job(cluster: Cluster, tmp_path: Path) -> None:
    copy = tmp_path / "assay"
    ignored = shutil.ignore_patterns("results", ".git", ".snakemake", ".venv", "__pycache__", ".pytest_cache", "*.egg-info")
    shutil.copytree(ROOT, copy, ignore=ignored)
    shutil.copytree(ROOT / "results" / "published", copy / "results" / "published")
    config = {**SMALL, "runs": ["base", "sft"], "train": {**SMALL["train"], "updates": 1, "ranks": 2, "nodes": 2}}
    (copy / "test.yaml").write_text(yaml.safe_dump(config))
    done = "results/test/sft/seed0/sft/done.json"
    cluster.snakemake("--configfile", "test.yaml", "--", done, folder=copy)
    assert record.read_json(copy / done)["updates"] == 1


def test_a_stage_trains_on_two_nodes_of_a_job(cluster: Cluster, spec: dict, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stage = [sys.executable, "-m", "engine.stage", "--out", str(out), "--spec", json.dumps(on_two(spec, nodes=2))]
    job = cluster.job(tmp_path, *stage)
    seen: set[str] = set()
    while cluster.state(job) in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"):
        seen |= set(cluster.processes(job).values())
        time.sleep(0.5)
    assert cluster.state(job) == "COMPLETED", (tmp_path / "job.out").read_text()
    assert seen == {"one", "two"}
    assert record.read_json(out / "done.json")["updates"] == 4


def test_a_cancelled_job_leaves_nothing(cluster: Cluster, spec: dict, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stage = [sys.executable, "-m", "engine.stage", "--out", str(out), "--spec", json.dumps(on_two(spec, nodes=2, updates=1000))]
    job = cluster.job(tmp_path, *stage)
    while not (out / "state" / "step-000002").exists():
        assert cluster.state(job) in ("PENDING", "CONFIGURING", "RUNNING"), (tmp_path / "job.out").read_text()
        time.sleep(0.2)
    running = cluster.processes(job)
    assert set(running.values()) == {"one", "two"}
    cluster.call("scancel", job)
    alive = psutil.wait_procs([psutil.Process(pid) for pid in running if psutil.pid_exists(pid)], timeout=30)[1]
    assert not alive and not (out / "done.json").exists()


def test_every_node_of_a_stage_has_all_its_gpus(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the first, where the stage is already."""
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    (command,) = nodes.commands(2, 2)
    start = [*command[: command.index(sys.executable)], "printenv", "SLURMD_NODENAME", "CUDA_VISIBLE_DEVICES"]
    forget = [f"--unset={name}" for name in ("SLURM_NTASKS", "SLURM_CPUS_PER_TASK", "SLURM_GPUS", "SLURM_NNODES")]
    job = cluster.job(tmp_path, "env", *forget, *start, gpus=2)
    while cluster.state(job) in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"):
        time.sleep(0.5)
    said = (tmp_path / "job.out").read_text()
    told = [line for line in said.splitlines() if not line.startswith("srun: ")]
    assert sorted(told) == ["0,1", "0,1", "one", "two"], said
