"""One table, four outputs: Markdown, LaTeX, CSV and aligned text. Knows nothing of what the numbers mean."""

import textwrap
from dataclasses import dataclass
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


def to_markdown(table: Table) -> str:
    """GitHub Markdown whose columns also line up in an editor."""
    rows = [["Method", *table.cells.columns]]
    for (run, cells), (_, marks) in zip(table.cells.iterrows(), table.marks.iterrows(), strict=True):
        rows.append([str(run), *(MARKDOWN_MARKS.get(m, "{}").format(c) for c, m in zip(cells, marks, strict=True))])
    rows = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(rows[0]))]
    lines = [_aligned(row, widths) for row in rows]
    lines.insert(1, "| :" + "-" * (widths[0] - 1) + " | " + " | ".join("-" * (w - 1) + ":" for w in widths[1:]) + " |")
    return "\n".join([table.caption, "", *lines, "", *(f"- {line}" for line in table.footer)]) + "\n"


def _aligned(row: list[str], widths: list[int]) -> str:
    first, *rest = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
    return "| " + " | ".join([first.strip().ljust(widths[0]), *rest]) + " |"


def to_latex(table: Table) -> str:
    r"""A `table` environment to \input; needs the package booktabs. The footer is as wide as the table above it."""
    styler = table.cells.style.format(cast(Any, escape_latex))
    styler = styler.format_index(cast(Any, escape_latex), axis=0).format_index(cast(Any, escape_latex), axis=1)
    styler = styler.apply(lambda _: table.marks.replace(LATEX_MARKS), axis=None)
    columns = "l" + "r" * len(table.cells.columns)
    lines = cast(str, styler.to_latex(hrules=True, column_format=columns)).splitlines()
    lines = [line.replace(" & ", "Method & ", 1) if line.startswith(" & ") else line for line in lines]
    if table.rule:
        lines.insert(lines.index(r"\midrule") + 2, r"\midrule")
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
    columns = {"Method": ["Method", *map(str, table.cells.index)]}
    for name in table.cells:
        suffixes = [TEXT_MARKS.get(mark, " ") if name in marked else "" for mark in ("", *table.marks[name])]
        columns[str(name)] = [f"{cell}{suffix}" for cell, suffix in zip([name, *table.cells[name]], suffixes, strict=True)]
    widths = {name: max(map(len, cells)) for name, cells in columns.items()}
    lines = []
    for row in range(1 + len(table.cells)):
        first, *rest = [cells[row].rjust(widths[name]) for name, cells in columns.items()]
        lines.append("  ".join([first.strip().ljust(widths["Method"]), *rest]).rstrip())
    width = sum(widths.values()) + 2 * (len(widths) - 1)
    for position in (len(lines), *([2] if table.rule else []), 1, 0):
        lines.insert(position, "-" * width)
    key = ["* best, _ second"] if marked else []
    below = [textwrap.fill(line, max(width, 80), subsequent_indent="  ") for line in (*key, *table.footer)]
    return "\n".join([textwrap.fill(table.caption, max(width, 80)), *lines, *below]) + "\n"


def write(table: Table, folder: Path) -> None:
    """<folder>/<name>.md, .tex, .txt and .csv."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{table.name}.md").write_text(to_markdown(table), encoding="utf-8")
    (folder / f"{table.name}.tex").write_text(to_latex(table), encoding="utf-8")
    (folder / f"{table.name}.txt").write_text(to_text(table), encoding="utf-8")
    table.numbers.to_csv(folder / f"{table.name}.csv", float_format="%.10g")
