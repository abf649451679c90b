"""The tables: numbers by hand, marks, footnotes, and LaTeX that compiles."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from analysis import render, scores, tables
from analysis.costs import cost_table
from analysis.evidence import Evidence, gather
from tests.test_analysis import write_done, write_grades

DASH = render.DASH
NAMES = {"sums": "Sums", "words": "Words"}


def evidence(root: Path, verdicts: dict[str, list[tuple[str, str]]], **notes: object) -> Evidence:
    """Evidence from run -> per seed, the verdicts (a letter per problem) on sums and on words; "" was not graded."""
    paths = [
        write_grades(root, run, seed, benchmark, {f"p{i}": letter for i, letter in enumerate(letters)})
        for run, seeds in verdicts.items()
        for seed, pair in enumerate(seeds)
        for benchmark, letters in zip(NAMES, pair, strict=True)
        if letters
    ]
    table, items = scores.collect(paths)
    return gather(table, items, list(verdicts), NAMES, notes)


def test_the_main_table_by_hand(tmp_path: Path) -> None:
    made = evidence(
        tmp_path,
        {
            "sft": [("ccww", "cccc"), ("cccw", "cccc")],
            "base": [("cwww", "cwww")],
            "grpo": [("cccw", "ccww"), ("ccww", "cccw")],
        },
    )
    table = tables.main_table(made, "Caption.")
    assert table.cells.index.tolist() == ["base", "sft", "grpo"]  # base first, then the given order
    assert table.cells["Sums"].tolist() == ["25.0", "62.5", "62.5"]
    assert table.cells["Words"].tolist() == ["25.0", "100.0", "62.5"]
    assert table.cells["Avg."].tolist() == ["25.0", "81.2", "62.5"]
    assert table.marks["Sums"].tolist() == ["second", "best", "best"]  # a tie shares
    assert table.marks["Words"].tolist() == ["", "best", "second"]
    assert table.numbers["average"].tolist() == [25.0, 81.25, 62.5]
    assert table.numbers["seeds"].tolist() == [1, 2, 2]
    low, high = (float(table.numbers[side].tolist()[1]) for side in ("low", "high"))
    assert low < 81.25 < high
    assert table.cells.loc["sft", "95 %"] == f"±{(high - low) / 2:.1f}"
    footer = "\n".join(table.footer)
    assert "Training seeds: 2 (base: 1, so its interval is over problems only)" in footer
    assert f"Sums 4{render.TIMES}1, Words 4{render.TIMES}1" in footer


def test_with_one_seed_the_footer_says_problems_only(tmp_path: Path) -> None:
    made = evidence(tmp_path, {"base": [("cw", "ww")], "sft": [("cw", "cw")]})
    for table in (tables.main_table(made, "Caption."), tables.interval_table(made)):
        assert "Training seeds: 1; intervals are over problems only" in "\n".join(table.footer)
        assert "seeds and problems." not in "\n".join(table.footer)
    assert tables.interval_table(made).cells.loc["sft", "t over seeds"] == DASH + "¹"


def test_what_is_missing_is_a_dash_with_a_reason(tmp_path: Path) -> None:
    runs = {"base": [("cw", "ww")], "half": [("cw", "")], "late": [("cw", "cw"), ("cw", "")], "gone": []}
    made = evidence(tmp_path, runs)
    table = tables.main_table(made, "Caption.")
    assert table.cells["Sums"].tolist() == ["50.0", "50.0", "50.0", DASH + "¹"]
    assert table.cells["Words"].tolist() == ["0.0", DASH + "²", DASH + "³", DASH + "¹"]
    assert table.cells["Avg."].tolist() == ["25.0", DASH + "⁴", DASH + "⁴", DASH + "¹"]
    assert table.cells["95 %"].tolist()[1:] == ["", "", ""]
    assert table.footer[:4] == (
        "¹ no graded samples of this run.",
        "² this run was not graded on this benchmark.",
        "³ seed 1 of this run was not graded on this benchmark.",
        "⁴ no mean without every benchmark.",
    )
    assert table.numbers.loc["gone"].dropna().empty
    assert table.numbers.loc["late", ["words", "average"]].dropna().empty
    intervals = tables.interval_table(made)
    assert set(intervals.cells.loc["gone"]) == {DASH + "³"}
    assert intervals.footer[2] == "³ no graded samples of this run."
    assert str(tables.response_table(made).cells.loc["half", "Tokens"]) == DASH + "¹"


def test_differences_are_to_the_first_row(tmp_path: Path) -> None:
    made = evidence(tmp_path, {"base": [("cccc", "cccc")], "worse": [("wwww", "wwww")]})
    cells = tables.interval_table(made).cells
    assert cells.loc["worse", "Δ base"] == f"{render.MINUS}100.0"
    assert cells.loc["worse", "bootstrap of Δ"] == f"[{render.MINUS}100.0, {render.MINUS}100.0]"
    assert cells.loc["base", "Δ base"] == ""


def test_what_cannot_make_one_table_is_refused(tmp_path: Path) -> None:
    table, items = scores.collect([write_grades(tmp_path, "sft", 0, "sums", {"p": "c", "q": "w"})])
    with pytest.raises(ValueError, match="disagree by 10 points"):
        gather(table.assign(accuracy=60.0), items, ["sft"], {"sums": "Sums"}, {})
    with pytest.raises(ValueError, match="run 'sft' stands twice"):
        gather(table, items, ["sft", "sft"], {"sums": "Sums"}, {})
    with pytest.raises(ValueError, match=r"benchmark name 'Avg\.' stands twice"):
        gather(table, items, ["sft"], {"sums": "Avg."}, {})
    with pytest.raises(ValueError, match="'words' is not in the scores"):
        gather(table, items, ["sft"], NAMES, {})
    with pytest.raises(ValueError, match="no run of grpo is graded"):
        gather(table, items, ["grpo"], {"sums": "Sums"}, {})


def test_costs_print_units_and_never_a_false_zero(tmp_path: Path) -> None:
    made = evidence(tmp_path / "g", {"base": [("c", "c")], "sft": [("c", "c")], "grpo": [("c", "c")], "gone": []})
    done = [
        write_done(tmp_path, "base", 0, "base", []),
        write_done(tmp_path, "sft", 0, "sft", [], trained_tokens_expert=4_000, seconds=90, flops=2.5e15),
        write_done(tmp_path, "grpo", 0, "grpo", [], sampled_tokens=12_345_678, trained_tokens_own=9e6, rounds=1500),
    ]
    table = cost_table(made, done)
    assert table.cells.to_dict("list") == {
        "Sampled (M)": ["0", "0", "12.3", DASH + "¹"],
        "Own (M)": ["0", "0", "9.0", DASH + "¹"],
        "Expert (M)": ["0", "<0.1", "0", DASH + "¹"],
        "Rounds": ["0", "0", "1,500", DASH + "¹"],
        "Min.": ["0", "1.5", "0", DASH + "¹"],
        "FLOPs (T)": ["0", "2,500.0", "0", DASH + "¹"],
    }
    assert table.footer[0] == "¹ no finished stage of this run."
    assert table.numbers.loc["grpo", "sampled_tokens"] == 12_345_678


def test_notes_reach_the_footer_and_mark_their_run(tmp_path: Path) -> None:
    notes = {
        "profile": "mini",
        "certificate": ["probe ok", "canary ok"],
        "runs": {"sft": "dropped micro-batch injected"},
    }
    made = evidence(tmp_path, {"base": [("c", "c")], "sft": [("c", "c")]}, **notes)
    for table in (tables.main_table(made, "Caption."), tables.response_table(made)):
        assert table.cells.index.tolist() == ["base", "sft¹"]
        assert table.footer[0] == "¹ dropped micro-batch injected."
        assert table.footer[-1] == "Profile: mini."
    assert "Certificate: probe ok; canary ok." in tables.main_table(made, "Caption.").footer
    (tmp_path / "notes.json").write_text('{"grader": 3}')
    with pytest.raises(ValueError, match="note 'grader'"):
        tables.read_notes(tmp_path / "notes.json")


def small_table() -> render.Table:
    cells = pd.DataFrame({"Sums": ["1.0", "12.0", DASH + "¹"], "95 %": ["±1.0", "±0.5", ""]}, index=["base", "a_b", "x|y"])
    marks = pd.DataFrame({"Sums": ["second", "best", ""], "95 %": "small"}, index=cells.index)
    return render.Table("small", "Accuracy.", cells, marks, cells, ("¹ no grades.",), rule=True)


def test_markdown_by_hand() -> None:
    assert render.to_markdown(small_table()).splitlines() == [
        "Accuracy.",
        "",
        "| Method |     Sums | 95 % |",
        "| :----- | -------: | ---: |",
        "| base   |    _1.0_ | ±1.0 |",
        "| a_b    | **12.0** | ±0.5 |",
        f"| x\\|y   |       {DASH}¹ |      |",
        "",
        "- ¹ no grades.",
    ]


def test_text_by_hand() -> None:
    assert render.to_text(small_table()).splitlines() == [
        "Accuracy.",
        "-------------------",
        "Method  Sums   95 %",
        "-------------------",
        "base     1.0_  ±1.0",
        "-------------------",
        "a_b     12.0*  ±0.5",
        f"x|y       {DASH}¹",
        "-------------------",
        "* best, _ second",
        "¹ no grades.",
    ]


def test_latex_by_hand() -> None:
    lines = render.to_latex(small_table()).splitlines()
    body = lines[lines.index(r"\toprule") : lines.index(r"\bottomrule") + 1]
    assert body == [
        r"\toprule",
        r"Method & Sums & 95 \% \\",
        r"\midrule",
        r"base & \underline{1.0} & {\scriptsize $\pm$1.0} \\",
        r"\midrule",
        r"a\_b & \textbf{12.0} & {\scriptsize $\pm$0.5} \\",
        r"x$|$y & --\textsuperscript{1} & {\scriptsize } \\",
        r"\bottomrule",
    ]
    assert lines[lines.index(r"\bottomrule") + 1] == r"\end{tabular}%"  # a space there would widen the footer
    assert lines[0] == r"\begin{table}[t]"
    assert {r"\caption{Accuracy.}", r"\label{tab:assay-small}", r"\end{table}"} <= set(lines)


def test_latex_escapes_once_and_refuses_what_it_cannot_print() -> None:
    assert render.escape_latex(r"a_b & 50% {\x} ~^#$") == (
        r"a\_b \& 50\% \{\textbackslash{}x\} \textasciitilde{}\textasciicircum{}\#\$"
    )
    assert render.escape_latex(f"{render.MINUS}1 <é>") == "$-$1 $<$é$>$"
    with pytest.raises(ValueError, match="no LaTeX form for 中 in 'a中'"):
        render.escape_latex("a中")


ODD = r"o&d%d_$#{}~^\<|>"


def write_everything(root: Path) -> Path:
    """A results folder with the paper's benchmarks and a run with every special character, through the command."""
    names = {"aime24": "AIME24", "amc": "AMC", "math500": "MATH-500", "minerva": "Minerva", "olympiad": "Olympiad"}
    grades, done = [], []
    runs = {"base": 1, "sft_then_grpo": 2, "trapo-as_released": 2, "luffy": 2}
    for run, seeds in runs.items():
        for seed in range(seeds):
            done.append(write_done(root, run, seed, "train", [], sampled_tokens=12_345_678 * (run != "base"), flops=1e19))
            for place, key in enumerate(names):
                letters = {f"p{i}": "c" if (i + place) % (2 + seed) == 0 else "w" for i in range(20)}
                grades.append(write_grades(root, run, seed, key, letters))
    scores.main([*map(str, grades), "--out", str(root / "scores.csv")])
    (root / "notes.json").write_text(json.dumps({"profile": "paper", "grader": "math_verify 0.9.0", "runs": {"luffy": ODD}}))
    given = ["--scores", root / "scores.csv", "--items", root / "items.csv", "--done", *done, "--runs", *runs, ODD]
    given += ["--benchmarks", *(f"{key}={name}" for key, name in names.items()), "--notes", root / "notes.json"]
    tables.main([str(part) for part in [*given, "--out-dir", root / "tables", "--caption", "100% of it.", "--show"]])
    return root / "tables"


def test_the_command_writes_every_table_and_shows_the_main_one(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = write_everything(tmp_path)
    written = {path.name for path in folder.iterdir()}
    kinds = ("md", "tex", "txt", "csv")
    assert written == {f"{name}.{kind}" for name in ("main", "intervals", "responses", "costs") for kind in kinds}
    assert capsys.readouterr().out == (folder / "main.txt").read_text(encoding="utf-8")
    assert pd.read_csv(folder / "main.csv").columns.tolist()[:3] == ["run", "seeds", "aime24"]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_every_latex_table_compiles_without_overfull_lines(tmp_path: Path) -> None:
    folder = write_everything(tmp_path)
    inputs = "".join(rf"\input{{{name}}}" for name in ("main", "intervals", "responses", "costs"))
    document = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{inputs}\end{{document}}"
    (folder / "all.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert made.returncode == 0, made.stdout
    assert not re.search(r"Overfull|Underfull|Missing character", made.stdout), made.stdout
    if shutil.which("pdftotext"):
        text = subprocess.run(["pdftotext", "all.pdf", "-"], cwd=folder, capture_output=True, text=True, check=True).stdout
        assert "100% of it." in text
        assert "o&d%d" in text
