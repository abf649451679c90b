"""Known ways to get a gradient silently wrong, each put into a copy of the code: some test must fail on every one of them."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT

TRAPO = "tests/test_trapo.py"
TOKENS = "tests/test_tokens.py"
RANKS = "tests/test_train.py::test_two_ranks_make_the_update_of_one"
LAYOUT = "tests/test_methods.py::test_gradient_is_autograds_however_the_update_is_cut"
TRAIN = "tests/test_train.py::test_loss_and_gradient_norm_equal_a_plain_backward_however_the_update_is_cut"


@dataclass(frozen=True)
class Mutant:
    """One line of code replaced in one file, and the tests that must notice."""

    name: str
    file: str
    old: str
    new: str
    killed_by: str


MUTANTS = [
    Mutant(
        "mean of means",
        "engine/train.py",
        "return [dict(_added([count.terms for count in (*counts, *beside)]))] * len(counts)",
        "return [{name: n * len(counts) for name, n in own.terms.items()} for own in counts]",
        TRAIN,
    ),
    Mutant(
        "shifted mask",
        "engine/tokens.py",
        "trained[row, here] = segment.trained",
        "trained[row, here.start - 1 : here.stop - 1] = segment.trained",
        TOKENS,
    ),
    Mutant(
        "weights shifted by one",
        "engine/tokens.py",
        "advantage[row, here] = segment.advantage",
        "advantage[row, here.start + 1 : here.stop + 1] = segment.advantage",
        TOKENS,
    ),
    Mutant("dropped episode", "engine/tokens.py", "order = order[rows:]", "order = order[rows + 1 :]", TRAIN),
    Mutant("missing stop-gradient", "methods/trapo.py", "p.detach().clamp(", "p.clamp(", TRAPO),
    Mutant("prefix always trained", "methods/trapo.py", "trained=i not in self.unlearned", "trained=True", TRAPO),
    Mutant(
        "everything trained", "engine/tokens.py", "trained[row, here] = segment.trained", "trained[row, here] = True", TOKENS
    ),
    Mutant("thresholds off by one", "methods/trapo.py", "/ len(rollouts) < threshold", "/ len(rollouts) <= threshold", TRAPO),
    Mutant("boundary not set", "engine/distributed.py", 'accumulation == "boundary":', 'accumulation == "unset":', TRAIN),
    Mutant("ranks not counted", "engine/distributed.py", "loss() * dist.get_world_size()", "loss()", RANKS),
    Mutant("skipped rows not counted", "engine/train.py", "for count in (*counts, *beside)]", "for count in counts]", TRAIN),
    Mutant("packed rows see one another", "engine/forward.py", ', "position_ids": place[real][None]}', "}", LAYOUT),
    Mutant(
        "positions begin again after a shared prefix",
        "engine/prefixes.py",
        "            position_ids=self.positions,\n",
        "",
        LAYOUT,
    ),
    Mutant("a prefix's padding is seen", "engine/prefixes.py", "torch.cat([seen, ", "torch.cat([seen | True, ", LAYOUT),
    Mutant(
        "another group's prefix",
        "engine/prefixes.py",
        "kept.index_select(0, self.group)",
        "kept.index_select(0, self.group.flip(0))",
        LAYOUT,
    ),
    Mutant(
        "shared states without gradient", "engine/prefixes.py", "(kept.index_select(0", "(kept.detach().index_select(0", LAYOUT
    ),
]
SELECTED = sorted({mutant.killed_by for mutant in MUTANTS})


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code in which the selected tests pass as it is."""
    copy = tmp_path_factory.mktemp("mutants") / "assay"
    for room in ("engine", "methods", "miniature", "tests", "config"):
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    untouched = run(copy, *SELECTED)
    assert untouched.returncode == 0, untouched.stdout[-2000:]
    return copy


def run(copy: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
        cwd=copy,
        text=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
    )


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "_"))
def test_a_mutant_is_killed(copy: Path, mutant: Mutant) -> None:
    path = copy / mutant.file
    source = path.read_text()
    assert source.count(mutant.old) == 1, f"{mutant.file} has changed: {mutant.old!r} is no longer one line of it"
    path.write_text(source.replace(mutant.old, mutant.new))
    try:
        found = run(copy, mutant.killed_by)
    finally:
        path.write_text(source)
    assert found.returncode == 1 and "failed" in found.stdout, found.stdout[-2000:] + found.stderr[-2000:]
