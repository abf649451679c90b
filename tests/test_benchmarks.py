"""Benchmarks as data: the digests are those of the papers' files, patches and options do what they say."""

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from copy import deepcopy
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet
from snakemake.utils import validate

from engine import benchmarks, data, overlap, record
from engine.choices import Question
from engine.grade import Grader
from tests.conftest import ROOT
from workflow.layout import notes
from workflow.plan import Plan

CATALOGUE = yaml.safe_load((ROOT / "config" / "benchmarks.yaml").read_text())
PATCHES = yaml.safe_load((ROOT / "config" / "gold_patches.yaml").read_text())
REAL = ("aime24", "aime25", "amc", "math500", "minerva", "olympiadbench", "arc_c")
ROWS = [{"id": "a", "problem": "1+1?", "answer": "2"}, {"id": "b", "problem": "2+2?", "answer": "4"}]
FLOATS = Question("What floats?", "ABC", ("Iron", "Cork", "Lead"), "B")


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def entry(path: Path, **more) -> dict:
    """What `build` is given for a local file of ROWS."""
    return {"name": "sums", "source": str(path), "size": 2, "sha256": benchmarks.list_sha256(ROWS), **more}


# The lists.


@pytest.mark.parametrize("name", REAL)
def test_the_digests_are_those_of_the_files_the_papers_used(shared: Path, name: str) -> None:
    rows, made = benchmarks.build(benchmarks.spec_of(name, CATALOGUE[name], str(shared / "data")))
    assert len(rows) == CATALOGUE[name]["size"] and made["sha256"] == CATALOGUE[name]["sha256"] and made["pinned"]
    assert rows[0]["id"] == f"{name}-0000" and rows[-1]["id"] == f"{name}-{len(rows) - 1:04d}"
    raw = data.read_rows(shared / "data" / "benchmarks" / f"{name}.jsonl")
    changed = [row["id"] for row, before in zip(rows, raw, strict=True) if {**before, **row} != before]
    assert len(changed) == (22 if name == "arc_c" else 0)


def test_a_digest_sees_content_and_order_and_nothing_else() -> None:
    digest = benchmarks.list_sha256(ROWS)
    assert digest == benchmarks.list_sha256([{**row, "id": "x", "problem": f" {row['problem']}\r\n"} for row in ROWS])
    assert benchmarks.list_sha256([{"problem": "e\u0301", "answer": "1"}]) == benchmarks.list_sha256(
        [{"problem": "\u00e9", "answer": "1"}]
    )
    others = [ROWS[::-1], ROWS[:1], [ROWS[0], {**ROWS[1], "answer": "5"}], [ROWS[0], {**ROWS[1], "problem": "2 + 2?"}]]
    assert digest not in {benchmarks.list_sha256(rows) for rows in others}


def test_generated_lists_are_pinned_too() -> None:
    for name in ("mini_sums", "mini_validation"):
        rows, made = benchmarks.build(benchmarks.spec_of(name, CATALOGUE[name], "nowhere"))
        assert len(rows) == 400 and made["pinned"]


def test_the_catalogue_has_the_papers_metrics() -> None:
    metrics = {name: benchmarks.metric(one["samples"]) for name, one in CATALOGUE.items()}
    assert {name for name, metric in metrics.items() if metric == "avg@32"} == {"aime24", "aime25", "amc"}
    assert all(metric == "pass@1" for name, metric in metrics.items() if name not in ("aime24", "aime25", "amc"))
    assert {name for name, one in CATALOGUE.items() if "sha256" not in one} == {"gpqa_diamond", "mmlu_pro"}


def test_a_wrong_list_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "sums.jsonl", ROWS)
    assert benchmarks.build(entry(path))[0] == ROWS
    with pytest.raises(ValueError) as wrong:
        benchmarks.build(entry(write(path, [ROWS[0], {**ROWS[1], "answer": "5"}])))
    message = str(wrong.value)
    assert "benchmark sums is not the expected list: 2 problems" in message and "an entry and a name of its own" in message
    assert benchmarks.list_sha256(ROWS) in message and benchmarks.list_sha256(data.read_rows(path)) in message
    with pytest.raises(ValueError, match=r"1 problems with sha256 .* expected 2 with"):
        benchmarks.build(entry(write(path, ROWS[:1])))
    with pytest.raises(ValueError, match=r"1 problems with sha256 .* expected 2 with any"):
        benchmarks.build(entry(path, sha256=None))


def test_columns_are_named_when_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "sums.jsonl", [{"question": row["problem"], "final": row["answer"]} for row in ROWS])
    rows, _ = benchmarks.build(entry(path, columns={"problem": "question", "answer": "final"}))
    assert rows == [{**row, "id": f"sums-{i:04d}"} for i, row in enumerate(ROWS)]
    with pytest.raises(ValueError, match=r"benchmark sums, row 1 has no column 'answer'; it has question, final\. Correct"):
        benchmarks.build(entry(path, columns={"problem": "question", "answer": "answer"}))
    with pytest.raises(ValueError, match=r"sums\.xml does not exist; check data_dir"):
        benchmarks.build(entry(tmp_path / "sums.xml", columns={"problem": "question", "answer": "final"}))
    (tmp_path / "sums.xml").write_text("<rows/>")
    with pytest.raises(ValueError, match=r"neither \.jsonl, \.parquet nor \.csv"):
        benchmarks.build(entry(tmp_path / "sums.xml", columns={"problem": "question", "answer": "final"}))


# Gold patches.


@pytest.mark.parametrize("name", PATCHES)
def test_patches_change_what_they_say_and_our_grader_needs_none(shared: Path, name: str) -> None:
    """Every patched gold was the recorded one; a right answer in LaTeX passes the gold as it was and as it is now."""
    one, benchmark = PATCHES[name], PATCHES[name]["benchmark"]
    spec = benchmarks.spec_of(benchmark, CATALOGUE[benchmark], str(shared / "data"))
    before, after = benchmarks.build(spec)[0], benchmarks.build({**spec, "patches": {name: one["answers"]}})[0]
    changed = {b["id"]: [b["answer"], a["answer"]] for b, a in zip(before, after, strict=True) if a != b}
    assert changed == one["answers"] and changed
    with Grader() as grader:
        grades = grader.grade([(f"\\boxed{{{new}}}", gold) for old, new in changed.values() for gold in (old, new)])
    assert [grade.status for grade in grades] == ["correct"] * 2 * len(changed)


def test_the_minerva_patches_cover_every_gold_in_computer_notation() -> None:
    assert len(PATCHES["minerva_notation"]["answers"]) == 58
    assert all("e" in old and r"\times 10^{" in new for old, new in PATCHES["minerva_notation"]["answers"].values())


def test_patches_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "sums.jsonl", ROWS)
    rows, made = benchmarks.build(entry(path, patches={"mend": {"b": ["4", "4.0"]}}))
    assert [row["answer"] for row in rows] == ["2", "4.0"] and made["patches"] == ["mend"]
    assert made["sha256"] == benchmarks.list_sha256(ROWS)  # of the list before
    with pytest.raises(ValueError, match="there is no problem 'c'"):
        benchmarks.build(entry(path, patches={"mend": {"c": ["4", "4.0"]}}))
    with pytest.raises(ValueError, match=r"b has the answer '4', the patch expects '5'; review it again"):
        benchmarks.build(entry(path, patches={"mend": {"b": ["5", "4.0"]}}))


# Multiple choice.


def test_options_are_read_and_written_back() -> None:
    text = "What floats?\n\nA) Iron\nB) Cork\nC) Lead\n"
    assert Question.parse(text, "B") == FLOATS and FLOATS.text == text
    digits = Question.parse(text.replace("A)", "1)").replace("B)", "2)").replace("C)", "3)"), "2")
    assert digits.labels == "123" and digits.lettered() == FLOATS
    assert Question.parse("See A) below.\n\nA) none\nand this\n\nA) x\nB) y", "B").stem == "See A) below.\n\nA) none\nand this"


@pytest.mark.parametrize(
    ("text", "answer", "message"),
    [
        ("What floats?\n\nA) Iron\nB) Cork\n", "C", "the answer 'C' is the label of no option; the labels are A, B"),
        ("What floats?\n\nA) Iron\nB) Cork\n", "AB", "the answer 'AB' is the label of no option"),
        ("What floats?\n\nA) Iron\nA) Cork\n", "A", "one distinct label each"),
        ("What floats?\n\nA) Iron\n", "A", "two of them"),
        ("What floats? A) Iron B) Cork", "A", "does not end in a blank line and options"),
    ],
)
def test_options_that_cannot_be_read_are_named(tmp_path: Path, text: str, answer: str, message: str) -> None:
    rows = [{"id": "q", "problem": text, "answer": answer}]
    spec = {"name": "quiz", "source": str(write(tmp_path / "quiz.jsonl", rows)), "size": 1, "choices": {}}
    with pytest.raises(ValueError, match=f"benchmark quiz, problem q: .*{message}"):
        benchmarks.build(spec)


def test_digit_labels_of_arc_become_letters(shared: Path) -> None:
    spec = benchmarks.spec_of("arc_c", CATALOGUE["arc_c"], str(shared / "data"))
    rows = {row["id"]: row for row in benchmarks.build(spec)[0]}
    lettered = [row for row in rows.values() if "labels" in row]
    assert Counter(row["labels"] for row in lettered) == {"1234": 21, "123": 1}
    assert {row["answer"] for row in rows.values()} <= set("ABCDE")
    raw = {row["id"]: row for row in data.read_rows(shared / "data" / "benchmarks" / "arc_c.jsonl")}
    for row in lettered:
        before, after = (
            Question.parse(raw[row["id"]]["problem"], raw[row["id"]]["answer"]),
            Question.parse(row["problem"], row["answer"]),
        )
        assert before.options == after.options
        assert before.options[before.labels.index(before.answer)] == after.options[after.labels.index(after.answer)]
    with Grader() as grader:
        for row in (lettered[0], rows["arc_c-0000"]):
            letter, option = row["answer"], Question.parse(row["problem"], row["answer"]).options["ABCD".index(row["answer"])]
            forms = [letter, f"({letter})", f"{letter}) {option}", f"\\text{{{letter}}}", f"{letter}."]
            wrong = "B" if letter != "B" else "C"
            grades = grader.grade([(f"\\boxed{{{form}}}", letter) for form in [*forms, wrong, f"{wrong}) {option}"]])
            found = {form: grade.status for form, grade in zip([*forms, "wrong", "wrong with text"], grades, strict=True)}
            assert found == dict.fromkeys(forms, "correct") | {"wrong": "wrong", "wrong with text": "wrong"}


def test_shuffling_is_seeded_by_problem_recorded_and_keeps_the_right_option() -> None:
    asked = [FLOATS.shuffled("quiz", f"q{i}", 0) for i in range(300)]
    assert asked == [FLOATS.shuffled("quiz", f"q{i}", 0) for i in range(300)]
    for question, order in asked:
        assert question.labels == "ABC" and question.options["ABC".index(question.answer)] == "Cork"
        assert question.options == tuple(FLOATS.options[i] for i in order)
    letters = Counter(question.answer for question, _ in asked)
    assert all(70 < letters[letter] < 130 for letter in "ABC")
    assert asked != [FLOATS.shuffled("quiz", f"q{i}", 1) for i in range(300)]
    row = {"id": "q0", "problem": FLOATS.text, "answer": "B"}
    arranged = benchmarks.arrange("quiz", row, {"shuffle": 0, "instruction": "Box a letter."})
    assert arranged["shuffle"] == 0 and arranged["order"] == asked[0][1]
    assert arranged["problem"] == f"{asked[0][0].text}\nBox a letter." and arranged["answer"] == asked[0][0].answer


# The hub, from a cache laid out as its client lays it out, without network.


def cached(home: Path, name: str, source: Path) -> dict:
    hub = CATALOGUE[name]["hub"]
    target = home / f"datasets--{hub['id'].replace('/', '--')}" / "snapshots" / hub["revision"] / hub["file"]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
    return {**os.environ, "HF_HUB_CACHE": str(home), "HF_HUB_OFFLINE": "1"}


def build(tmp_path: Path, name: str, environment: dict) -> subprocess.CompletedProcess[str]:
    """`engine.benchmarks build` as the rule runs it, where no local file is."""
    spec = benchmarks.spec_of(name, CATALOGUE[name], str(tmp_path / "nowhere"))
    command = [
        sys.executable,
        "-m",
        "engine.benchmarks",
        "build",
        json.dumps(spec),
        str(tmp_path / "out.jsonl"),
        str(tmp_path / "made.json"),
    ]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, env=environment)


def test_the_hub_gives_the_same_list_as_the_local_file(tmp_path: Path, shared: Path) -> None:
    """ARC's options come as a column there; written out they are the papers' text, so the digest is the same."""
    local = shared / "data" / "benchmarks"
    done = build(tmp_path, "math500", cached(tmp_path / "hub", "math500", local / "math500.jsonl"))
    assert done.returncode == 0, done.stderr
    assert record.read_rows(tmp_path / "out.jsonl") == data.read_rows(local / "math500.jsonl")
    asked = [Question.parse(row["problem"], row["answer"]) for row in data.read_rows(local / "arc_c.jsonl")]
    columns = [
        {
            "id": "Mercury",
            "question": q.stem,
            "choices": {"text": list(q.options), "label": list(q.labels)},
            "answerKey": q.answer,
        }
        for q in asked
    ]
    parquet.write_table(pa.Table.from_pylist(columns), tmp_path / "arc.parquet")
    done = build(tmp_path, "arc_c", cached(tmp_path / "hub", "arc_c", tmp_path / "arc.parquet"))
    assert done.returncode == 0, done.stderr
    spec = benchmarks.spec_of("arc_c", CATALOGUE["arc_c"], str(shared / "data"))
    assert record.read_rows(tmp_path / "out.jsonl") == benchmarks.build(spec)[0]


def test_a_gated_list_of_columns_is_shuffled_and_its_missing_digest_is_said(tmp_path: Path) -> None:
    names = CATALOGUE["gpqa_diamond"]["hub"]["columns"]["choices"]
    rows = [{"Question": f"Which is {i}?\nThink.", **{n: f" {n}\n{i} " for n in names}, "Other": "x"} for i in range(198)]
    with (tmp_path / "gpqa.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    done = build(tmp_path, "gpqa_diamond", cached(tmp_path / "hub", "gpqa_diamond", tmp_path / "gpqa.csv"))
    assert done.returncode == 0, done.stderr
    made, built = record.read_json(tmp_path / "made.json"), record.read_rows(tmp_path / "out.jsonl")
    assert "WARNING: benchmark gpqa_diamond: digest not pinned" in done.stderr and made["sha256"] in done.stderr
    notes = benchmarks.footer({"profile": "p"}, [made, {"pinned": True}])
    assert notes == {"profile": "p", "lists": [f"gpqa_diamond: digest not pinned: sha256 {made['sha256']}"]}
    assert all(25 < count < 75 for count in Counter(row["answer"] for row in built).values())
    for i, row in enumerate(built):
        text, instruction = row["problem"].split("\n\n")[0], row["problem"].splitlines()[-1]
        assert f"\n{row['answer']}) Correct Answer {i}\n" in row["problem"] and text == f"Which is {i}?\nThink."
        assert instruction == r"Put the letter of the correct option within \boxed{}." and row["shuffle"] == 0


def test_a_hub_that_does_not_answer_is_named(tmp_path: Path) -> None:
    done = build(tmp_path, "mmlu_pro", {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 1 and not (tmp_path / "out.jsonl").exists()
    assert (
        "error: benchmark mmlu_pro: data/test-00000-of-00001.parquet of TIGER-Lab/MMLU-Pro at b189ec765aa7 did not"
        in done.stderr
    )
    assert f"needs the network once, or place a copy at {tmp_path}/nowhere/benchmarks/mmlu_pro.parquet" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_list_shows_every_benchmark(shared: Path) -> None:
    command = [sys.executable, "-m", "engine.benchmarks", "list", "--data-dir", str(shared / "data")]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, env={**os.environ, "HF_HUB_CACHE": "/nonexistent"})
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines() if line[0] != " "] == list(CATALOGUE)
    assert (
        done.stdout.count(" ok, gold patches: ") == 15
        and done.stdout.count("MISSING here: ") == 2
        and "WRONG" not in done.stdout
    )
    assert "minerva_dollars, minerva_notation, minerva_python" in done.stdout and "<|im_start|>user" in done.stdout


# The plan.


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> dict:
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load((ROOT / "config" / "real_smoke.yaml").read_text())
    validate(config, str(ROOT / "workflow" / "schemas" / "config.schema.yaml"))
    return config


def plan(config: dict, **changes) -> Plan:
    changed = deepcopy(config)
    changed["evaluation"].update(changes.pop("evaluation", {}))
    return Plan({**changed, **changes}, yaml.safe_load((ROOT / "workflow" / "schemas" / "config.schema.yaml").read_text()))


def test_what_a_configuration_changes_is_in_the_footer(config: dict) -> None:
    plain = plan(config, evaluation={"samples": {}})
    assert notes(plain)["metric"] == "avg@32 on AIME24, avg@32 on AIME25, avg@32 on AMC, pass@1 on the others"
    assert not {"trained with", "samples", "gold patches"} & set(notes(plain))
    assert notes(plain)["choices"] == ["ARC-c: labels A, B, C, ..., in their own order"]
    assert json.loads(plain.evaluation_spec("sft", 0))["benchmarks"]["amc"]["samples"] == 32
    changed = plan(
        config,
        gold_patches=["math500_currency"],
        shuffle_choices=7,
        evaluation={"template": "config/templates/simplerl.txt", "samples": {"amc": 2}},
    )
    told = notes(changed)
    assert told["gold patches"] == "math500_currency (3 of MATH-500)" and "AMC 2 per problem" in told["samples"]
    assert told["choices"] == ["ARC-c: labels A, B, C, ..., shuffled with seed 7"]
    assert told["trained with"].startswith("template miniature ")
    spec = json.loads(changed.evaluation_spec("sft", 0))
    assert spec["template"] == "config/templates/simplerl.txt" and spec["benchmarks"]["amc"]["samples"] == 2
    assert json.loads(changed.stage_spec("sft", 0, "sft"))["template"] == "config/templates/miniature.txt"
    assert changed.data_spec("arc_c")["choices"] == {"shuffle": 7}
    assert changed.data_spec("math500")["patches"] == {"math500_currency": PATCHES["math500_currency"]["answers"]}
    assert changed.data_spec("amc")["patches"] == {}


def test_an_exception_is_that_runs_alone(config: dict) -> None:
    asked = {"sft": {"template": "config/templates/luffy.txt", "grader": "plain"}}
    with_one, without = plan(config, evaluation={"exceptions": asked}), plan(config)
    usual = {"template": "config/templates/miniature.txt", "grader": "assay", "within_window": False}
    assert with_one.evaluation.of("base") == usual
    assert with_one.evaluation.of("sft") == {**usual, **asked["sft"]}
    assert json.loads(with_one.evaluation_spec("sft", 0))["template"] == "config/templates/luffy.txt"
    assert with_one.evaluation_spec("base", 0) == without.evaluation_spec("base", 0)  # nothing to generate again
    graded = plan(config, evaluation={"exceptions": {"sft": {"grader": "plain"}}})
    assert graded.evaluation_spec("sft", 0) == without.evaluation_spec("sft", 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmarks": ["amc", "minvera"]}, "unknown benchmark 'minvera'; did you mean 'minerva'"),
        ({"gold_patches": ["minerva_notations"]}, "unknown gold patch 'minerva_notations'; did you mean 'minerva_notation'"),
        (
            {"benchmarks": ["amc"], "gold_patches": ["minerva_python"], "evaluation": {"samples": {}}},
            "is for minerva, which is not",
        ),
        ({"benchmarks": ["amc"], "shuffle_choices": 1}, "none of amc is multiple choice"),
        ({"evaluation": {"samples": {"amcc": 1}}}, "unknown benchmark in evaluation.samples: 'amcc'; did you mean 'amc'"),
        (
            {"evaluation": {"exceptions": {"sfft": {"grader": "plain"}}}},
            "unknown run in evaluation.exceptions: 'sfft'; did you",
        ),
        ({"evaluation": {"template": "config/templates/no.txt"}}, "template config/templates/no.txt does not exist"),
        (
            {"evaluation": {"exceptions": {"sft": {"template": "README.md"}}}},
            r"README.md must contain \{problem\} exactly once",
        ),
    ],
)
def test_bad_settings_are_named(config: dict, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(config, **changes)


def test_a_broken_catalogue_is_named(config: dict, tmp_path: Path) -> None:
    schema = yaml.safe_load((ROOT / "workflow" / "schemas" / "config.schema.yaml").read_text())
    broken = deepcopy(CATALOGUE)
    broken["math500"]["hub"]["revision"] = "main"
    (tmp_path / "benchmarks.yaml").write_text(yaml.safe_dump(broken))
    with pytest.raises(ValueError, match=r"benchmarks.yaml, math500.hub.revision: 'main' does not match"):
        Plan(config, schema, catalogue=tmp_path / "benchmarks.yaml")


# Overlap of training and test.


def test_overlap_counts_copies_and_long_common_runs() -> None:
    text = "Let $a$, $b$ and $c$ be real numbers such that their sum is 3. Find the maximum."
    words = [f"w{i}" for i in range(13)]
    train = [text, "What is 1+1?", " ".join(["so", *words])]
    assert overlap.overlap(train, [text.upper().replace(",", " ,"), "What is 2+2?"]) == (1, 1)
    assert overlap.overlap(train, ["what is 1 + 1"]) == (1, 0)  # too short for a run
    assert overlap.overlap(train, [" ".join([*words, "end"])]) == (0, 1)
    assert overlap.overlap(train, [" ".join([*words[:12], "end", *words[1:]])]) == (0, 0)


def test_the_footer_says_what_training_shares_with_the_tests() -> None:
    counts = {"tested, word for word": 2, "tested, 13 words in a row": 9}
    made = {"name": "openr1", "size": 45000, "pinned": True}
    overlap = {"math500": counts, "amc": dict.fromkeys(counts, 0)}
    (text,) = benchmarks.footer({}, [{**made, "overlap": overlap}])["training data"]
    expected = "openr1, 45,000 problems, problems tested too: math500 2 word for word, 9 by 13 words in a row"
    assert text == expected
    none = {"amc": dict.fromkeys(counts, 0)}
    assert benchmarks.footer({}, [{**made, "overlap": none}])["training data"] == [
        "openr1, 45,000 problems, no problem of it is tested"
    ]
