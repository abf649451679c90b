"""GPUs that no two commands have at the same time: real processes, real locks; which device does not matter to them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine import lease, record
from tests.conftest import ROOT

HOLD = """
import json, os, sys, time
open(sys.argv[1], "w").write("here")
with open(sys.argv[2], "a") as log:
    for what in ("took", "left"):
        log.write(json.dumps({"what": what, "devices": os.environ["CUDA_VISIBLE_DEVICES"].split(",")}) + "\\n")
        log.flush()
        time.sleep(float(sys.argv[3]) if what == "took" else 0)
"""
SNAKEFILE = """
rule all:
    input: expand("job{{i}}.txt", i=range(12))
rule job:
    output: "job{{i}}.txt"
    resources: gpu=lambda wildcards: int(wildcards.i) % 2 + 1
    shell: "cd {root} && {python} -m engine.lease --gpus {{resources.gpu}} --folder {folder}/locks --"
           " {python} {folder}/hold.py {folder}/{{output}} {folder}/log 0.1"
"""


def start(folder: Path, gpus: int, *command: str, visible: str | None = "4,5,6") -> subprocess.Popen:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": visible or ""}
    if visible is None:
        del environment["CUDA_VISIBLE_DEVICES"]
    leased = [sys.executable, "-m", "engine.lease", "--gpus", str(gpus), "--folder", str(folder / "locks"), "--", *command]
    return subprocess.Popen(leased, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def told(process: subprocess.Popen, code: int = 0) -> tuple[str, str]:
    """What a command prints and what it says besides; it must end with this exit code."""
    out, errors = process.communicate(timeout=100)
    assert process.returncode == code, errors
    return out, errors


def assert_never_shared(log: Path, jobs: int, devices: set[str]) -> None:
    """Every device was taken by one job at a time. A job writes when it has it and before it gives it back, so that the
    order of lines is the order of events."""
    busy: set[str] = set()
    together = 0
    rows = record.read_rows(log)
    assert len(rows) == 2 * jobs and {name for row in rows for name in row["devices"]} == devices
    for row in rows:
        assert len(set(row["devices"])) == len(row["devices"])
        if row["what"] == "took":
            assert not busy & set(row["devices"]), row
            busy |= set(row["devices"])
            together = max(together, len(busy))
        else:
            busy -= set(row["devices"])
    assert together >= 2  # jobs did run side by side


def test_twelve_jobs_on_three_devices_never_share_one(tmp_path: Path) -> None:
    """One or two devices each; also the wait of a job for two does not stop the others for ever."""
    jobs = [
        start(tmp_path, i % 2 + 1, sys.executable, "-c", HOLD, str(tmp_path / f"{i}"), str(tmp_path / "log"), "0.1")
        for i in range(12)
    ]
    said = [told(job)[1] for job in jobs]
    assert any("waiting for 2 of 3 GPUs" in text for text in said)
    assert_never_shared(tmp_path / "log", 12, {"4", "5", "6"})


def test_snakemake_gives_no_two_jobs_a_device_even_if_told_of_more(tmp_path: Path) -> None:
    """Snakemake counts `gpu` only where a limit is set; here none is."""
    (tmp_path / "hold.py").write_text(HOLD)
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(root=ROOT, python=sys.executable, folder=tmp_path))
    ran = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "12", "--directory", str(tmp_path), "-s", str(tmp_path / "Snakefile")],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "0,1,2"},
        text=True,
        capture_output=True,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert_never_shared(tmp_path / "log", 12, {"0", "1", "2"})


def test_a_killed_command_gives_its_devices_back(tmp_path: Path) -> None:
    here = tmp_path / "here"
    holder = start(tmp_path, 3, sys.executable, "-c", HOLD, str(here), str(tmp_path / "log"), "1000")
    while not here.exists() and holder.poll() is None:
        time.sleep(0.01)
    waiting = start(tmp_path, 1, "printenv", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
    assert waiting.stderr is not None
    assert waiting.stderr.readline() == "waiting for 1 of 3 GPUs: too many are in use\n"
    assert waiting.poll() is None
    holder.send_signal(signal.SIGKILL)
    assert told(waiting)[0] == "4\nPCI_BUS_ID\n"
    holder.communicate()


def test_a_child_that_outlives_the_command_keeps_its_device(tmp_path: Path) -> None:
    """A leftover process has the GPU's memory, whoever started it."""
    told(start(tmp_path, 2, "sh", "-c", "sleep 1000 > /dev/null 2>&1 & echo $! > " + str(tmp_path / "child")))
    child = int((tmp_path / "child").read_text())
    try:
        assert told(start(tmp_path, 1, "printenv", "CUDA_VISIBLE_DEVICES"))[0] == "6\n"
    finally:
        os.kill(child, signal.SIGKILL)
    assert told(start(tmp_path, 3, "printenv", "CUDA_VISIBLE_DEVICES"))[0] == "4,5,6\n"


def test_what_is_given_is_chosen_from(tmp_path: Path) -> None:
    assert told(start(tmp_path, 1, "printenv", "CUDA_VISIBLE_DEVICES", visible="MIG-aa/1/0,GPU-b"))[0] == "MIG-aa/1/0\n"
    assert told(start(tmp_path, 0, "printenv", "CUDA_VISIBLE_DEVICES", visible="7"))[0] == "7\n"
    said = told(start(tmp_path, 2, "true", visible="7"), code=1)[1]
    assert said == "error: asked for 2 GPUs of 1 (7); lower train.ranks or hardware.gpus\n"
    assert "of 0 (CUDA_VISIBLE_DEVICES and nvidia-smi -L name none)" in told(start(tmp_path, 1, "true", visible=""), code=1)[1]
    assert "error: there is no program no-such-program" in told(start(tmp_path, 0, "no-such-program"), code=1)[1]


def test_a_divided_gpu_is_its_parts_and_a_device_has_one_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the form `nvidia-smi -L` prints; a program of that name says it here."""
    text = (
        "GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-5d5ba0d6-d33d)\n"
        "  MIG 3g.40gb     Device  0: (UUID: MIG-c0c05f83-0001)\n"
        "  MIG 3g.40gb     Device  1: (UUID: MIG-c0c05f83-0002)\n"
        "GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-90711a6d-e33d)\n"
    )
    parts = {name: name for name in ("MIG-c0c05f83-0001", "MIG-c0c05f83-0002")}
    assert lease.listed(text) == {**parts, "1": "GPU-90711a6d-e33d"}
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<END\n{text}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert lease.devices() == {**parts, "1": "GPU-90711a6d-e33d"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-9071, 1")
    assert lease.devices() == {"GPU-9071": "GPU-90711a6d-e33d", "1": "GPU-90711a6d-e33d"}
    program.write_text("#!/bin/sh\necho driver/library version mismatch; exit 18\n")
    with pytest.raises(ValueError, match=r"nvidia-smi -L failed \(driver/library version mismatch\)"):
        lease.devices()
