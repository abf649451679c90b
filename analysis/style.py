"""How every figure looks: sizes as printed, colours, lines, markers, legends, and files with the same bytes twice.

Figures are drawn at the size they are printed at. Include them unscaled: no letter is then below 7 points.
"""

import re
import textwrap
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.image import imread, imsave

COLUMN = 3.25  # inches, a column of a two-column page
WIDTH = 5.5  # inches, the text of a one-column page; fits across two columns too
SMALL = 7  # points, the smallest letters
LABEL = 7.5  # points, of axes
POINTS = 72  # to the inch
PIXELS = 200  # to the inch, of a PNG
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.labelsize": LABEL,
    "legend.fontsize": SMALL,
    "legend.title_fontsize": SMALL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "pdf.fonttype": 42,
}
# Okabe and Ito's colours, which colour-blind readers can tell apart, without the yellow that paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Of lengths without a common divisor with that of the colours: a grey print tells runs apart too, and no two of the first
# 315 runs look the same.
LINES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))
MARKERS = "os^Dv<>Ph"


def look(position: int) -> dict[str, Any]:
    """Colour, line style and marker of the run at this position."""
    return {
        "color": COLOURS[position % len(COLOURS)],
        "linestyle": LINES[position % len(LINES)],
        "marker": MARKERS[position % len(MARKERS)],
        "markersize": 3,
    }


def legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str], note: str = "") -> None:
    """A legend under the panels in as many columns as the longest label allows, with a note above its entries."""
    width = figure.get_figwidth() * POINTS
    longest = max(map(len, labels), default=1)
    columns = int(width // (0.55 * SMALL * longest + 34)) or 1  # a letter is about half as wide as high; 34: line and gaps
    wrapped = textwrap.fill(note, int(width / (0.58 * SMALL)))
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, title=wrapped or None)
    legend.set_gid("legend")


def broken(run: str, letters: int = 24) -> str:
    """A run's name on lines of about this many letters, broken before its bug or its preset where there is one."""
    parts = re.split(r"(?=[+-])", run) if len(run) > letters else [run]
    lines = [""]
    for part in parts:
        if lines[-1] and len(lines[-1] + part) > letters:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def sentence_figure(sentence: str) -> Figure:
    """In place of a figure for which there is nothing to draw: why."""
    figure = Figure(figsize=(WIDTH, 0.6), layout="constrained")
    figure.text(0.5, 0.5, textwrap.fill(sentence, 90), ha="center", va="center")
    return figure


def save(figure: Figure | Sequence[Figure], path: Path) -> None:
    """<path>.pdf and <path>.png without the date and version that would change their bytes. Several figures are the pages of
    the PDF, and stand below one another in the PNG."""
    pages = [figure] if isinstance(figure, Figure) else list(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata: Any = dict.fromkeys(("CreationDate", "Creator", "Producer", "Software"))
    drawn = []
    with PdfPages(path.with_suffix(".pdf"), metadata=metadata) as pdf:
        for page in pages:
            page.draw_without_rendering()
            page.set_layout_engine("none")  # it is laid out now, and need not be for each file
            pdf.savefig(page)
            with BytesIO() as buffer:
                page.savefig(buffer, format="png", dpi=PIXELS)
                buffer.seek(0)
                drawn.append(imread(buffer))
    widest = max(one.shape[1] for one in drawn)
    rows = [np.pad(one, ((0, 0), (0, widest - one.shape[1]), (0, 0)), constant_values=1.0) for one in drawn]
    imsave(path.with_suffix(".png"), np.vstack(rows), dpi=PIXELS, metadata=metadata)
