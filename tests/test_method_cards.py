"""Method cards: that the pages in docs/methods are those of the files, that no word of a header is lost, and its links."""

import inspect
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from engine import methods
from tests.conftest import METHODS, ROOT
from workflow.method_cards import Entry, cards, header, linked, page, stale

CARDS = ROOT / "docs" / "methods"


def test_the_pages_are_current() -> None:
    wanted = cards(METHODS, CARDS)
    assert {"README.md", "grpo.md"} < set(wanted)
    assert stale(wanted, CARDS) == [], "run python -m workflow.method_cards docs/methods"


@pytest.mark.parametrize("name", methods.names(METHODS))
def test_no_word_of_a_header_is_lost(name: str) -> None:
    docstring = inspect.cleandoc(methods.load(name, METHODS).__doc__ or "")
    words = Counter(re.findall(r"\w+", docstring))
    assert len(words) > 10
    assert words <= Counter(re.findall(r"\w+", page(name, METHODS, "../../methods")))


@pytest.mark.parametrize("name", methods.names(METHODS))
def test_no_table_runs_together_on_a_card(name: str) -> None:
    """Columns are items, indented by two; inside a field their spaces would be one in Markdown. Every line indented by two is
    an item of its own."""
    docstring = inspect.cleandoc(methods.load(name, METHODS).__doc__ or "")
    entries = header(docstring)[1]
    for entry in entries:
        assert not any("  " in text for text in (entry.text, *(text for _, text in entry.items)))
    assert sum(len(entry.items) for entry in entries) == len(re.findall(r"(?m)^  (?=\S)", docstring))


# Files of the authors' that are not in the folder named last, as the notes on the papers list them
ELSEWHERE = {
    "chord": [
        "modelscope/Trinity-RFT/blob/0414330/examples/mix_chord/mix_chord.yaml#L6-L24",
        "modelscope/Trinity-RFT/blob/0087fc3/trinity/algorithm/add_strategy/add_strategy.py#L105-L126",
    ],
    "exgrpo": ["ElliottYan/LUFFY/blob/01f4ae0/ExGRPO/exp_scripts/run_exgrpo.sh"],
    "prefix_rft": ["ZeroYuHuang/prefix_rft/blob/5f5d2a1f/recipe/prefix_rft/scheduler/global_step.py#L149-L186"],
}


@pytest.mark.parametrize(("name", "paths"), ELSEWHERE.items())
def test_code_in_several_folders_is_linked_where_it_is(name: str, paths: list[str]) -> None:
    text = page(name, METHODS, "../../methods")
    assert all(f"(https://github.com/{path})" in text for path in paths)


def test_code_of_a_repository_without_a_commit_is_no_link() -> None:
    """verl's own files beside its recipes', and UFT's losses, which nobody looked at."""
    assert "verl-recipe/blob/48ea0a79/utils" not in page("dapo", METHODS, "../../methods")
    assert "verl-recipe/blob/48ea0a79/workers" not in page("dapo", METHODS, "../../methods")
    assert "core_algos.py" not in page("uft", METHODS, "../../methods")


def test_a_header_is_a_claim_fields_paragraphs_and_items() -> None:
    docstring = """\
Name: what it
claims.

Paper        arXiv:2402.03300, its
             third equation
Code         none
Both disagree on the sum: one
             averages.
Another paragraph, which
goes on.
They disagree on
  reach        here |
               there  twice
  long_name_of_an_item  everywhere
And a last one."""
    assert header(docstring) == (
        "Name: what it claims.",
        [
            Entry("Paper", "arXiv:2402.03300, its third equation"),
            Entry("Code", "none"),
            Entry("", "Both disagree on the sum: one averages."),
            Entry(
                "",
                "Another paragraph, which goes on. They disagree on",
                [("reach", "here | there  twice"), ("long_name_of_an_item", "everywhere")],
            ),
            Entry("", "And a last one."),
        ],
    )


HUB = "https://github.com/a/b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("arXiv:2504.14945v5, eq. 3", "[arXiv:2504.14945v5](https://arxiv.org/abs/2504.14945v5), eq. 3"),
        ("x * p[t] < `a * b`", r"x \* p\[t] \< `a * b`"),
        ("a/b@01f4ae0", f"[a/b@01f4ae0]({HUB}/tree/01f4ae0)"),
        ("a/b@01f4ae0, c/d.py:7", f"[a/b@01f4ae0]({HUB}/tree/01f4ae0), [c/d.py:7]({HUB}/blob/01f4ae0/c/d.py#L7)"),
        (
            "a/b@01f4ae0, e.sh, c/d.py:7-19 (f), g.py.",
            f"[a/b@01f4ae0]({HUB}/tree/01f4ae0), [e.sh]({HUB}/blob/01f4ae0/e.sh), "
            f"[c/d.py:7-19]({HUB}/blob/01f4ae0/c/d.py#L7-L19) (f), [g.py]({HUB}/blob/01f4ae0/c/g.py).",
        ),
        (
            "a/b@01f4ae0, c/d: e.py, f/g.sh",
            f"[a/b@01f4ae0]({HUB}/tree/01f4ae0), [c/d]({HUB}/tree/01f4ae0/c/d): [e.py]({HUB}/blob/01f4ae0/c/d/e.py), "
            f"[f/g.sh]({HUB}/blob/01f4ae0/f/g.sh)",
        ),
        (
            "a/b@01f4ae0, c/{d,e}.py",
            f"[a/b@01f4ae0]({HUB}/tree/01f4ae0), [c/d.py]({HUB}/blob/01f4ae0/c/d.py), [c/e.py]({HUB}/blob/01f4ae0/c/e.py)",
        ),
        ("a/b, c/d.py:7 without a commit", "a/b, c/d.py:7 without a commit"),
        ("a/b@01f4ae0; E@fffffff, f.py", f"[a/b@01f4ae0]({HUB}/tree/01f4ae0); E@fffffff, f.py"),
        ("a/b@01f4ae0, x/c.py; d/e@fffffff, f.py", None),
    ],
)
def test_papers_and_the_authors_lines_are_links(text: str, expected: str | None) -> None:
    if expected is None:  # a second repository has paths of its own
        assert linked(text).endswith("[f.py](https://github.com/d/e/blob/fffffff/f.py)")
    else:
        assert linked(text) == expected


METHOD = '''
"""Tries: {claim}

Paper        none
"""

from dataclasses import dataclass
from typing import ClassVar

from engine.reduce import mean_over_tokens
from engine.words import Sample, Trajectory, own


@dataclass(frozen=True)
class Method:
    tries: int = 2
    weight: float = 1.0
    reduce = mean_over_tokens

    presets: ClassVar = {{"more": {{"tries": 3}}, "heavier": {{"weight": 2.0}}}}

    def explore(self, problem, context):
        return [Trajectory(problem, (own(r, 1.0),)) for r in (yield Sample(self.tries))]

    def loss(self, t):
        return -self.weight * t.logp
'''


def write(folder: Path, name: str, claim: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(METHOD.format(claim=claim).lstrip())


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "workflow.method_cards",
        str(folder / "out"),
        "--methods-dir",
        str(folder / "m"),
        *arguments,
    ]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True)


def test_a_preset_has_a_conversation_if_it_is_another_one(tmp_path: Path) -> None:
    write(tmp_path / "m", "two", "it tries twice.")
    text = page("two", tmp_path / "m", "../m")
    assert (
        text.startswith("# two\n\nTries: it tries twice.\n")
        and "- **Paper**: none" in text
        and "[m/two.py](../m/two.py)" in text
    )
    assert re.search(r"weight +1 +1 +2 \*", text)
    assert "sample 2 from" in text and "### more\n" in text and "sample 3 from" in text and "### heavier" not in text


def test_check_names_what_is_not_current_and_writing_repairs_it(tmp_path: Path) -> None:
    write(tmp_path / "m", "one", "first.")
    write(tmp_path / "m", "two", "second.")
    missing = run(tmp_path, "--check")
    assert missing.returncode == 1 and "not current: README.md, one.md, two.md" in missing.stderr
    assert not (tmp_path / "out").exists()
    assert run(tmp_path).returncode == 0 and run(tmp_path, "--check").returncode == 0
    write(tmp_path / "m", "one", "changed | now.")
    (tmp_path / "m" / "two.py").unlink()
    (tmp_path / "out" / "notes.md").write_text("by hand")
    assert "not current: README.md, one.md, two.md;" in run(tmp_path, "--check").stderr
    assert run(tmp_path).returncode == 0 and run(tmp_path, "--check").returncode == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "notes.md", "one.md"]
    assert r"| [one](one.md) | Tries: changed \| now. |  |" in (tmp_path / "out" / "README.md").read_text()


def test_a_page_that_was_not_generated_is_never_replaced(tmp_path: Path) -> None:
    write(tmp_path / "m", "one", "first.")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("by hand")
    refused = run(tmp_path)
    assert refused.returncode == 1 and "README.md is no generated page" in refused.stderr
    assert [path.read_text() for path in (tmp_path / "out").iterdir()] == ["by hand"]
