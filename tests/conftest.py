"""What several tests share: the folder of real data beside the repository, a tiny model, and made-up problems."""

import os

os.environ["DS_ACCELERATOR"] = "cpu"
os.environ.setdefault("OMP_NUM_THREADS", "2")

from pathlib import Path

import pytest

from engine.words import Problem

ROOT = Path(__file__).parents[1]
METHODS = ROOT / "methods"
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("skipped: the folder `shared` with real data and golden numbers is not beside the repository")
    return SHARED


@pytest.fixture
def problem() -> Problem:
    """Prompt 11 12 13 14; two demonstrations of ten tokens, each ending with 2; token 20 stands for a blank line."""
    first = (21, 22, 23, 20, 24, 25, 20, 26, 27, 2)
    second = (31, 32, 33, 34, 35, 36, 37, 38, 39, 2)
    return Problem("p", (11, 12, 13, 14), "5", (first, second), ((3, 6), ()))
