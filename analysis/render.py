"""One table, four outputs: Markdown, LaTeX, CSV and aligned text. Knows nothing of what the numbers mean."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import pandas as pd

DASH = "\N{EN DASH}"  # what a table prints where there is no number
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
DIGITS = "⁰¹²³⁴⁵⁶⁷⁸⁹"

LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", '"': "''"}
    | {"<": "$<$", ">": "$>$", "|": "$|$", MINUS: "$-$", "±": r"$\pm$", TIMES: r"$\times$", "Δ": r"$\Delta$"}
    | {"≥": r"$\geq$", "≤": r"$\leq$", "≠": r"$\neq$", "≈": r"$\approx$", "→": r"$\rightarrow$", "\xa0": "~"}
    | {"·": r"$\cdot$", "…": r"\dots{}", DASH: "--", "—": "---"}
    | {digit: rf"\textsuperscript{{{value}}}" for value, digit in enumerate(DIGITS)}
)
# What a marked cell becomes. The LaTeX column is Styler's notation: command, then how it wraps the cell.
MARKDOWN_MARKS = {"best": "**{}**", "second": "_{}_"}
LATEX_MARKS = {"best": "textbf:--rwrap", "second": "underline:--rwrap", "small": "scriptsize:--wrap"}
TEXT_MARKS = {"best": "*", "second": "_"}


@dataclass(frozen=True)
class Table:
    """cells: the strings as printed, one row per run, run names as index. marks: same shape, "" or a mark below.

    A newline in a cell, a run's name or a column's title breaks the line there.
    numbers: what the CSV holds, unrounded, missing values empty. rule: whether a line follows the first row.
    """

    name: str
    caption: str
    cells: pd.DataFrame
    marks: pd.DataFrame
    numbers: pd.DataFrame
    footer: tuple[str, ...]
    rule: bool


def signed(value: float) -> str:
    """One decimal, always with a sign, and minus is a minus, not a hyphen."""
    return f"{value:+.1f}".replace("-", MINUS)


def superscript(number: int) -> str:
    return "".join(DIGITS[int(digit)] for digit in str(number))


def escape_latex(text: object) -> str:
    """Text that pdflatex prints as it reads here. Raises ValueError for a character it has no glyph for."""
    escaped = str(text).translate(LATEX)
    if unknown := sorted({character for character in escaped if ord(character) > 0x17F}):
        raise ValueError(f"no LaTeX form for {' '.join(unknown)} in {str(text)!r}: add it to LATEX in analysis/render.py")
    return escaped


def markdown_grid(rows: list[list[str]], numbers: bool = True) -> list[str]:
    """Header and rows as GitHub Markdown whose columns also line up in an editor; numbers stand to the right."""
    rows = [[cell.replace("|", "\\|").replace("\n", "<br>") for cell in row] for row in rows]
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(rows[0]))]
    lines = [_aligned(row, widths, numbers) for row in rows]
    ruler = ["-" * (width - 1) + ":" if numbers else ":" + "-" * (width - 1) for width in widths[1:]]
    return [lines[0], "| :" + " | ".join(["-" * (widths[0] - 1), *ruler]) + " |", *lines[1:]]


def _aligned(row: list[str], widths: list[int], numbers: bool) -> str:
    first, *rest = zip(row, widths, strict=True)
    return "| " + " | ".join([first[0].ljust(first[1]), *(c.rjust(w) if numbers else c.ljust(w) for c, w in rest)]) + " |"


def to_markdown(table: Table) -> str:
    """The caption, the grid, and the footer as a list."""
    rows = [["Method", *table.cells.columns]]
    for (run, cells), (_, marks) in zip(table.cells.iterrows(), table.marks.iterrows(), strict=True):
        rows.append([str(run), *(MARKDOWN_MARKS.get(m, "{}").format(c) for c, m in zip(cells, marks, strict=True))])
    return "\n".join([table.caption, "", *markdown_grid(rows), "", *(f"- {line}" for line in table.footer)]) + "\n"


def _stacked(alignment: str) -> Callable[[object], str]:
    r"""Escapes a cell; several lines become a tabular of their own, whose `\\{}` keeps a bracket that follows a bracket."""

    def latex(text: object) -> str:
        first, *rest = [escape_latex(line) for line in str(text).split("\n")]
        return rf"\begin{{tabular}}{alignment}" + r"\\{}".join([first, *rest]) + r"\end{tabular}" if rest else first

    return latex


def to_latex(table: Table) -> str:
    r"""A `table` environment to \input; needs the package booktabs. The footer is as wide as the table above it."""
    styler = table.cells.style.format(cast(Any, _stacked("[t]{@{}r@{}}")))
    styler = styler.format_index(cast(Any, _stacked("[t]{@{}l@{}}")), axis=0)
    styler = styler.format_index(cast(Any, _stacked("[b]{@{}r@{}}")), axis=1)
    styler = styler.apply(lambda _: table.marks.replace(LATEX_MARKS), axis=None)
    columns = "l" + "r" * len(table.cells.columns)
    lines = cast(str, styler.to_latex(hrules=True, column_format=columns)).splitlines()
    lines = [line.replace(" & ", "Method & ", 1) if line.startswith(" & ") else line for line in lines]
    first = lines.index(r"\midrule") + 1
    tall = ["\n" in "".join(map(str, row)) for row in table.cells.itertuples()]
    for row in reversed(range(1, len(table.cells))):
        between = r"\midrule" if table.rule and row == 1 else r"\addlinespace" if tall[row - 1] else None
        lines[first + row : first + row] = [between] if between else []
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"\centering\footnotesize\setlength{\tabcolsep}{3.5pt}\setlength{\belowcaptionskip}{4pt}",
            rf"\caption{{{escape_latex(table.caption)}}}",
            rf"\label{{tab:assay-{table.name}}}",
            r"\sbox0{%",
            *lines[:-1],
            lines[-1] + "%",
            r"}\usebox0\par\smallskip",
            r"\parbox{\wd0}{\scriptsize\raggedright",
            *(rf"{escape_latex(line)}\par" for line in table.footer),
            r"}",
            r"\end{table}",
            "",
        ]
    )


def to_text(table: Table) -> str:
    """Aligned plain text: `*` after the best and `_` after the second of a column, so that digits stay in line."""
    marked = [column for column in table.cells if table.marks[column].isin(list(TEXT_MARKS)).any()]
    columns = [["Method", *map(str, table.cells.index)]]
    for name in table.cells:
        suffixes = [TEXT_MARKS.get(mark, " ") if name in marked else "" for mark in ("", *table.marks[name])]
        columns.append([f"{cell}{suffix}" for cell, suffix in zip([name, *table.cells[name]], suffixes, strict=True)])
    widths = [max(len(line) for cell in cells for line in cell.split("\n")) for cells in columns]
    rows = list(zip(*columns, strict=True))
    width = sum(widths) + 2 * (len(widths) - 1)
    ruler = "-" * width
    lines = [ruler, *_text_row(rows[0], widths), ruler, *_text_row(rows[1], widths), *([ruler] if table.rule else [])]
    lines += [line for row in rows[2:] for line in _text_row(row, widths)]
    key = ["* best, _ second"] if marked else []
    below = [textwrap.fill(line, max(width, 80), subsequent_indent="  ") for line in (*key, *table.footer)]
    return "\n".join([textwrap.fill(table.caption, max(width, 80)), *lines, ruler, *below]) + "\n"


def _text_row(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """The lines of a row: the first column to the left, the others to the right."""
    stacks = [cell.split("\n") for cell in row]
    lines = []
    for parts in zip_longest(*stacks, fillvalue=""):
        rest = [part.rjust(width) for part, width in zip(parts[1:], widths[1:], strict=True)]
        lines.append("  ".join([parts[0].ljust(widths[0]), *rest]).rstrip())
    return lines


def write(table: Table, folder: Path) -> None:
    """<folder>/<name>.md, .tex, .txt and .csv."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{table.name}.md").write_text(to_markdown(table), encoding="utf-8")
    (folder / f"{table.name}.tex").write_text(to_latex(table), encoding="utf-8")
    (folder / f"{table.name}.txt").write_text(to_text(table), encoding="utf-8")
    table.numbers.to_csv(folder / f"{table.name}.csv", float_format="%.10g")
