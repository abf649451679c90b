"""The miniature world: right answers, no leaks, text that round-trips, and a base model that is the one configured."""

import json
from pathlib import Path

import pytest
import yaml
from transformers import AutoTokenizer

from engine import data, record
from engine.grade import Grader
from miniature.world import BENCHMARKS, LIMIT, VALIDATION, Chain, benchmark_chains, benchmark_rows, chains, training_rows
from tests.conftest import ROOT

CONFIG = yaml.safe_load((ROOT / "config" / "miniature.yaml").read_text())


def test_a_chain_by_hand() -> None:
    chain = Chain(7, (("+", 5), ("*", 2), ("-", 4)))
    assert chain.values() == [12, 24, 20]
    assert chain.symbols() == "Work left to right: 7 + 5 * 2 - 4"
    assert chain.words() == "Start with 7, add 5, multiply by 2, take away 4."
    assert chain.steps_style() == r"7+5=12, 12*2=24, 24-4=20. \boxed{20}"
    assert chain.demonstrations() == (
        "+5:12\n\n*2:24\n\n-4:20\n\n\\boxed{20}",
        "7+5:12\n\n12*2:24\n\n24-4:20\n\n\\boxed{20}",
    )


def test_training_problems_are_in_no_benchmark_and_every_demonstration_is_correct() -> None:
    rows = list(training_rows())
    tested = {row["problem"] for name in {**BENCHMARKS, **VALIDATION} for row in benchmark_rows(name)}
    assert len(rows) == 6000 and len({row["problem"] for row in rows}) == 6000
    assert not tested & {row["problem"] for row in rows}
    with Grader() as grader:
        for number in (0, 1):
            grades = grader.grade([(row["demonstrations"][number], row["answer"]) for row in rows])
            assert all(grade.correct for grade in grades)


def test_benchmarks_differ_and_stay_within_the_world() -> None:
    assert len(benchmark_chains()) > 1900  # five times 400, a few shared between wordings
    for name, spec in BENCHMARKS.items():
        found = chains(name, spec)
        assert {len(chain.steps) for chain in found} == set(spec.lengths)
        assert all(0 <= value <= LIMIT for chain in found for value in chain.values())
        assert found == chains(name, spec)


@pytest.mark.parametrize("text", [r"Let $\frac{a}{b}=\{1,2\}$.", "naïve 中文 -1\n\n\n2", "Q: 12 + 3\n\nA: \\boxed{15}"])
def test_any_text_round_trips(text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "miniature" / "base")
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_prompts_demonstrations_and_blank_lines_as_tokens() -> None:
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "miniature" / "base")
    template = data.Template.read(ROOT / "config" / "templates" / "miniature.txt")
    row = next(training_rows())
    (problem,) = data.problems([row], tokenizer, template, 64, 64)
    assert tokenizer.decode(problem.prompt) == f"Q: {row['problem']}\n\nA:"
    for tokens, breaks, text in zip(problem.demonstrations, problem.breaks, row["demonstrations"], strict=True):
        assert tokens[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(tokens, skip_special_tokens=True) == text
        assert len(breaks) == text.count("\n\n") and all(tokenizer.decode([tokens[i]]) == "\n\n" for i in breaks)


def test_the_base_model_is_the_configured_one_and_small() -> None:
    folder = ROOT / "miniature" / "base"
    assert record.file_sha256(folder / "model.safetensors") == CONFIG["model"]["sha256"]
    assert (folder / "model.safetensors").stat().st_size < 6_000_000
    assert 700_000 <= json.loads((folder / "pretraining.json").read_text())["parameters"] <= 1_500_000


def test_templates_must_have_one_place_for_the_problem(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("no place")
    with pytest.raises(ValueError, match=r"must contain \{problem\} exactly once, it has it 0 times"):
        data.Template.read(tmp_path / "bad.txt")


def test_gsm8k_rows_become_ours() -> None:
    row = {"question": "How many?", "answer": "He has 48/2 = <<48/2=24>>24.\nSo 1,024 in all.\n#### 1,024"}
    assert data.gsm8k_row(row, 3) == {
        "id": "gsm8k-00003",
        "problem": "How many?",
        "answer": "1024",
        "demonstrations": ["He has 48/2 = 24.\n\nSo 1,024 in all.\n\n\\boxed{1024}"],
    }
