"""Provenance: what is written down, and that every change of a result or of its sources is found, once and by its name."""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine import model, provenance, record, stage, verify
from tests.conftest import METHODS, ROOT

BASE = {
    "seed": 0,
    "data": "train.jsonl",
    "template": "template.txt",
    "model": {"path": str(ROOT / "miniature" / "base")},
    "train": {"device": "cpu"},
    "inject": None,
    "sampler": "transformers",
}


def run_git(folder: Path, *arguments: str) -> str:
    person = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org")
    return subprocess.run(["git", "-C", folder, *person, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def commit(repository: Path, name: str, text: str) -> str:
    """Write a file, commit it, return the commit."""
    (repository / name).parent.mkdir(parents=True, exist_ok=True)
    (repository / name).write_text(text)
    run_git(repository, "add", ".")
    run_git(repository, "commit", "-q", "-m", name)
    return run_git(repository, "rev-parse", "HEAD")


def asked() -> dict:
    """What a new process would be told."""
    provenance.git.cache_clear()
    return provenance.git()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository in which the package lies, in place of this one."""
    folder = tmp_path / "repository"
    run_git(tmp_path, "init", "-q", str(folder))
    commit(folder, "engine/record.py", "")
    monkeypatch.setattr(provenance, "PACKAGE", folder / "engine")
    asked()
    yield folder
    provenance.git.cache_clear()


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a base stage, a trained stage and a table; their sources are beside it."""
    monkeypatch.chdir(tmp_path)
    home = Path("results")
    shutil.copytree(METHODS, "methods", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "config" / "templates" / "miniature.txt", "template.txt")
    record.write_rows(Path("train.jsonl"), [{"id": "one", "problem": "1 + 1", "answer": "2"}])
    chosen = {"name": "sft", "folder": "methods", "settings": {}}
    publish({**BASE, "run": "base", "stage": "base", "method": None, "parent": None}, home / "base")
    publish({**BASE, "run": "sft", "stage": "sft", "method": chosen, "parent": str(home / "base")}, home / "sft")
    tables = home / "tables"
    tables.mkdir()
    (tables / "main.csv").write_text("accuracy\n61.9\n")
    (tables / "main.md").write_text("| 61.9 |\n")
    (home / "scores.csv").write_text("0.619\n")
    inputs, outputs = [home / "scores.csv", Path("methods")], [tables / "main.csv", tables / "main.md"]
    provenance.write(tables / "provenance.json", inputs, outputs, time.time(), seeds=[0])
    return home


def publish(spec: dict, out: Path) -> None:
    """What a finished stage leaves behind, without the training."""
    (out / "model").mkdir(parents=True)
    (out / "model" / "model.safetensors").write_bytes(b"weights")
    identity = stage.identity(spec)
    done = {
        "digest": record.digest(identity),
        "identity": identity,
        "provenance": provenance.made(time.time()),
        "costs": {"seconds": 12.5},
    }
    record.write_rows(out / "metrics.jsonl", [{"step": 0, "loss": 1.5}] if spec["method"] else [])
    certificate = {"checks": [{"name": "gradient probe", "status": "passed"}]}
    record.write_json(out / "certificate.json", {**certificate, "digest": record.digest(certificate)})
    done["certificate"] = record.digest(certificate)
    done["outputs"] = provenance.digests([out / "model", out / "metrics.jsonl", out / "certificate.json"], out)
    record.write_json(out / "done.json", {**done, "seal": record.digest(done)})


def edit(path: Path, change: Callable[[dict], object], seal: bool = False) -> None:
    """Edit a record; with `seal`, as somebody would who seals it again."""
    value = json.loads(path.read_text())
    change(value)
    if seal:
        value.pop("seal")
        value["seal"] = record.digest(value)
    path.write_text(json.dumps(value))


def found(results: Path) -> list[tuple[str, str, str]]:
    """Findings as (kind, what, where). Both stages and the table must have been checked, whatever else is the matter."""
    report = verify.verify(results)
    assert report.records == 3
    return [(f.kind, f.what, str(f.where)) for f in report.findings]


def test_untouched_results_match_and_every_file_was_checked(results: Path) -> None:
    report = verify.verify(results)
    assert report.records == 3
    read = {str(path) for path in report.files}
    assert read >= {
        "results/base/model/model.safetensors",
        "results/sft/model/model.safetensors",
        "results/sft/metrics.jsonl",
        "results/sft/certificate.json",
        "results/tables/main.csv",
        "results/tables/main.md",
        "results/scores.csv",
        "methods/sft.py",
        "template.txt",
        "train.jsonl",
    }
    assert report.findings == []
    assert list(report.lines()) == [f"checked 3 records, {len(read)} files: all match"]
    for one in (results / "sft", results / "sft" / "done.json", results / "tables" / "provenance.json"):
        assert verify.verify(one).records == 1


def test_a_stage_of_the_engine_matches_until_it_is_edited(repository: Path, results: Path) -> None:
    stage.run({**BASE, "run": "base", "stage": "base", "method": None, "parent": None}, results / "real")
    report = verify.verify(results / "real")
    weights = results / "real" / "model" / "model.safetensors"
    assert report.records == 1 and weights in report.files and report.findings == []
    weights.write_bytes(weights.read_bytes()[:-1])
    commit(repository, "engine/record.py", "# another")
    asked()
    findings = verify.verify(results / "real").findings
    assert [(f.kind, f.what, f.where) for f in findings] == [("result", "output", weights), ("source", "git", "commit")]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("sft/model/model.safetensors", "output"),
        ("base/model/model.safetensors", "output"),
        ("sft/metrics.jsonl", "output"),
        ("sft/certificate.json", "output"),
        ("tables/main.csv", "output"),
    ],
)
def test_a_result_that_was_edited_or_deleted_is_found(results: Path, name: str, what: str) -> None:
    path = results / name
    before, content = record.file_sha256(path), path.read_bytes()
    path.write_bytes(content[:-1] + b"!")
    (finding,) = verify.verify(results).findings
    assert (finding.kind, finding.what, finding.where) == ("result", what, path)
    assert (finding.expected, finding.found) == (before, record.file_sha256(path))
    path.unlink()
    (finding,) = verify.verify(results).findings
    assert (finding.kind, finding.what, finding.where, finding.found) == ("result", what, path, "no such file")
    path.mkdir()
    assert [f.found for f in verify.verify(results).findings] == ["unreadable: Is a directory"]
    path.rmdir()
    path.write_bytes(content)
    assert found(results) == []


def test_a_file_that_several_records_name_is_read_once(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, read = results / "scores.csv", []
    provenance.write(results / "figures" / "provenance.json", [scores], [results / "tables" / "main.md"], time.time())
    sha256 = record.file_sha256
    monkeypatch.setattr(record, "file_sha256", lambda path: read.append(path) or sha256(path))
    report = verify.verify(results)
    assert (report.records, report.findings) == (4, [])
    assert read.count(scores) == read.count(results / "tables" / "main.md") == 1


def test_a_record_written_again_beside_its_outputs_leaves_itself_out(results: Path) -> None:
    tables = results / "tables"
    provenance.write(tables / "provenance.json", [], [tables], time.time())
    assert json.loads((tables / "provenance.json").read_text())["outputs"].keys() == {"main.csv", "main.md"}
    assert found(results) == []


def test_an_edited_record_is_found(results: Path) -> None:
    done, table = results / "sft" / "done.json", results / "tables" / "provenance.json"
    edit(done, lambda value: value["costs"].update(seconds=1.0))
    edit(table, lambda value: value["about"].update(seeds=[0, 1, 2]))
    assert found(results) == [("result", "record", str(done)), ("result", "record", str(table))]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("methods/sft.py", [("source", "method", "methods/sft.py"), ("source", "input", "methods/sft.py")]),
        ("methods/grpo.py", [("source", "input", "methods/grpo.py")]),
        ("results/scores.csv", [("result", "input", "results/scores.csv")]),  # a result itself
        ("template.txt", [("source", "template", "template.txt")] * 2),
        ("train.jsonl", [("source", "data", "train.jsonl")]),  # the base model is published without data
    ],
)
def test_an_edited_source_is_found_for_what_was_made_from_it(results: Path, name: str, expected: list) -> None:
    assert found(results) == []
    with Path(name).open("a") as file:
        file.write("\n# edited\n")
    assert found(results) == expected


def test_another_package_version_is_named_once_for_all_stages(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = stage.version
    monkeypatch.setattr(stage, "version", lambda name: "0.0.1" if name == "torch" else installed(name))
    assert found(results) == [("source", "packages", "torch")] * 2
    heading, line, summary = verify.verify(results).lines()
    assert heading.startswith("source changed since")
    assert line == f"  packages torch: expected {installed('torch')}, found 0.0.1 (results/base/done.json and 1 more)"
    assert summary.endswith("files: 1 other difference")


def test_another_engine_and_another_base_model_are_found(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprint, digests = record.fingerprint, model.digests
    monkeypatch.setattr(record, "fingerprint", lambda folder, *pattern: f"another {fingerprint(folder, *pattern)}")
    monkeypatch.setattr(model, "digests", lambda folder: {**digests(folder), "tokenizer.json": "another"})
    assert found(results) == [("source", "engine", ""), ("source", "model", "tokenizer.json"), ("source", "engine", "")]


def test_a_parent_made_again_is_found(results: Path) -> None:
    parent = results / "base" / "done.json"

    def other(value: dict) -> None:
        value["identity"]["grader"] = "another"
        value["digest"] = record.digest(value["identity"])

    edit(parent, other, seal=True)
    assert found(results) == [("source", "grader", ""), ("source", "parent", str(parent))]


def test_missing_sources_and_broken_records_do_not_stop_the_others(results: Path) -> None:
    Path("template.txt").unlink()
    Path("methods/sft.py").unlink()
    table = results / "tables" / "provenance.json"
    table.write_text('{"outputs": {')
    findings = verify.verify(results).findings
    assert [(f.kind, f.what) for f in findings] == [("source", "stage"), ("source", "stage"), ("result", "record")]
    assert "template.txt" in findings[0].found and findings[2].expected == "JSON"
    record.write_json(table, ["no", "object"])
    assert found(results)[2] == ("result", "record", str(table))
    record.write_json(table, {"inputs": {}, "outputs": 3})
    assert found(results)[2] == ("result", "record", str(table))
    (results / "base" / "done.json").write_bytes(b"\xff")
    assert found(results)[0] == ("result", "record", "results/base/done.json")


def test_nothing_to_check_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no record; give a folder that a run wrote"):
        verify.verify(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        verify.verify(tmp_path / "none")
    with pytest.raises(ValueError, match="is not a record"):
        verify.verify(ROOT / "README.md")


def test_commit_and_dirty_flag(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = run_git(repository, "rev-parse", "HEAD")
    assert asked() == {"commit": head, "dirty": False}
    (repository / "notes.txt").write_text("not committed")
    assert asked() == {"commit": head, "dirty": True}
    assert provenance.made(time.time())["git"] == {"commit": head, "dirty": True}
    commit(repository, "engine/record.py", "# changed while the process runs")
    assert provenance.git() == {"commit": head, "dirty": True}
    assert asked() == {"commit": run_git(repository, "rev-parse", "HEAD"), "dirty": False}


def test_no_repository_and_no_git_are_not_errors(
    repository: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = {"commit": None, "dirty": None}
    assert asked() != nothing
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))  # no git there
        assert asked() == nothing
        assert provenance.made(time.time())["git"] == nothing
        assert found(results) == []
    installed = repository / ".venv" / "engine"
    installed.mkdir(parents=True)  # lies in a repository, but is not part of it
    for package in (installed, tmp_path):
        monkeypatch.setattr(provenance, "PACKAGE", package)
        assert asked() == nothing


def test_a_later_commit_counts_if_it_could_change_a_result(repository: Path, results: Path) -> None:
    assert json.loads((results / "sft" / "done.json").read_text())["provenance"]["git"] == asked()
    for name in ("README.md", "docs/LOG.md", "docs/figure.svg", "tests/test_record.py"):
        commit(repository, name, "words")
        asked()
        assert found(results) == []
    commit(repository, "engine/record.py", "# another")
    asked()
    assert found(results) == [("source", "git", "commit")] * 3


@pytest.mark.parametrize("name", ["0" * 40, "--output=written", 3])
def test_a_commit_that_is_none_never_matches(repository: Path, results: Path, name: object) -> None:
    path = results / "sft" / "done.json"
    edit(path, lambda value: value["provenance"]["git"].update(commit=name), seal=True)
    expected = [("source", "git", "commit")] if isinstance(name, str) else []
    assert found(results) == expected
    assert not list(repository.rglob("written"))


def test_what_made_a_result_is_told_without_names(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("ASSAY_COMMAND", f"snakemake -d {Path.cwd()}/results --config data_dir=/home/somebody/data")
    monkeypatch.setattr(sys, "orig_argv", ["/home/somebody/.venv/bin/python", "-m", "engine.stage", "--spec", '{"a": 1}'])
    made = provenance.made(time.time() - 90)
    assert made["command"] == {
        "typed": "snakemake -d results --config data_dir=~/data",
        "process": "python -m engine.stage --spec '{\"a\": 1}'",
    }
    assert 90 <= made["wall_seconds"] < 100 and made["started"] < made["ended"] and made["ended"].endswith("+00:00")
    assert made["hardware"]["logical_cores"] > 0 and made["hardware"]["memory_gib"] > 0 and made["hardware"]["processor"]
    assert made["packages"].keys() >= {"torch", "transformers", "deepspeed", "math-verify"}
    assert made["omp_num_threads"] == "1"
    assert "somebody" not in json.dumps(made) and os.uname().nodename not in json.dumps(made)
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "not-installed"))
    assert provenance.made(time.time())["packages"].keys() == {"torch"}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "model name\t: A processor\nflags\t\t: fpu avx512_bf16 amx_bf16 amx_tile\n",
            ("A processor", ["amx_bf16", "avx512_bf16"]),
        ),
        ("model name\t: An old one\nflags\t\t: fpu sse4\n", ("An old one", [])),
        ("Features\t: fp asimd bf16\n", (platform.machine(), ["bf16"])),
    ],
)
def test_a_processor_is_named_with_its_instructions_for_bfloat16(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, expected: tuple[str, list[str]]
) -> None:
    monkeypatch.setattr(provenance, "CPUINFO", tmp_path / "cpuinfo")
    provenance.CPUINFO.write_text(said * 2)
    found = provenance.made(time.time())["hardware"]
    assert (found["processor"], found["bfloat16"]) == expected


def test_torch_is_not_loaded_for_the_names_of_gpus() -> None:
    code = "import sys; from engine.provenance import made; print(made(0.0)['hardware']['gpus'], 'torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["None", "False"]


def write_by_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine.provenance", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_the_command_writes_what_verify_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("analysis/tables.py", "analysis/__pycache__/tables.pyc", "analysis/.hidden", "out/tables/main.csv"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    out, started = Path("out/tables/provenance.json"), str(time.time() - 60)
    arguments = (
        "--inputs",
        "analysis",
        "--outputs",
        "out/tables/main.csv",
        "--started",
        started,
        "--about",
        "seeds=0,1",
        "a=b=c",
    )
    told = write_by_command(tmp_path, str(out), *arguments)
    assert (told.returncode, told.stderr) == (0, "")
    written = json.loads(out.read_text())
    assert written["about"] == {"seeds": "0,1", "a": "b=c"}
    assert written["inputs"] == {"analysis/tables.py": record.file_sha256(Path("analysis/tables.py"))}
    assert written["outputs"] == {"main.csv": record.file_sha256(Path("out/tables/main.csv"))}
    assert written["made"]["wall_seconds"] >= 60
    assert written["made"]["command"]["process"].startswith("python") and str(tmp_path) not in out.read_text()
    Path("out").rename("moved")  # outputs are found wherever the folder lies
    report = verify.verify(Path("moved"))
    assert (report.records, len(report.files), report.findings) == (1, 3, [])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("provenance.json", "--outputs", "none.csv"), 1, "none.csv"),
        (("provenance.json", "--outputs", "empty"), 1, "empty holds no file"),
        (("made.json", "--outputs", "kept.csv"), 1, "must end in provenance.json"),
        (("provenance.json", "--outputs", "kept.csv", "--about", "seeds"), 2, "write KEY=VALUE"),
    ],
)
def test_bad_input_of_the_command_writes_nothing(tmp_path: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "kept.csv").write_text("1\n")
    told = write_by_command(tmp_path, *arguments)
    assert told.returncode == code and message in told.stderr and "Traceback" not in told.stderr
    assert not list(tmp_path.glob("*.json"))
