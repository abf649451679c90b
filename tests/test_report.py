"""The one-page report, as files and as a real browser shows it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis import certificate, page_tables, render, report
from analysis.render import DASH, MINUS, Table
from analysis.style import save
from tests.conftest import ROOT
from tests.results_folder import write_certificate

CAPTIONS = ROOT / "workflow" / "report"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = "<img src=x onerror=alert(1)>"
# Runs in the page before anything of it: what went wrong, what was loaded, and what a reader would see.
PROBE = """<script>
const errors = [];
addEventListener("error", event => errors.push(String(event.message || event.target.src)), true);
addEventListener("securitypolicyviolation", event => errors.push("blocked " + event.blockedURI));
addEventListener("load", () => setTimeout(() => {
  const rows = () => Array.from(document.querySelector("#tables table").tBodies[0].rows);
  const first = () => rows().map(row => row.cells[0].innerText);
  const click = column => document.querySelectorAll("#tables thead button")[column].click();
  const orders = [first()];
  for (const column of [1, 1, 0]) { click(column); orders.push(first()); }
  const seen = {
    errors: errors,
    widths: Array.from(document.images).map(image => image.naturalWidth),
    tables: document.querySelectorAll("table").length,
    fetched: performance.getEntriesByType("resource").map(entry => entry.name).filter(name => !name.startsWith("data:")),
    orders: orders,
    scrolls: document.documentElement.scrollWidth > innerWidth,
    names: Array.from(document.querySelectorAll("#tables tbody th[scope=row]")).map(cell => cell.innerText),
  };
  document.body.innerHTML = "<pre id=probe></pre>";
  document.getElementById("probe").textContent = JSON.stringify(seen);
}, 50));
</script>"""


def table(name: str, runs: dict[str, list[str]], footer: tuple[str, ...] = ("A footnote.",)) -> Table:
    cells = pd.DataFrame(list(runs.values()), index=list(runs), columns=["Sums", "Avg."])
    marks = pd.DataFrame("", index=cells.index, columns=cells.columns)
    marks.iloc[-1, 0] = "best"
    return Table(name, "Accuracy.", cells, marks, cells.copy(), footer, rule=False)


def picture(path: Path) -> None:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([1, 2])
    save(figure, path)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A results folder with one table, two figures, a study, a pilot, a certificate and the provenance of both."""
    folder = tmp_path / "results" / "mini"
    rows = {"base": ["9.5", f"{DASH}¹"], "sft": ["10.2", "1,000.0"], "grpo": [f"{MINUS}3.0", "<0.1"]}
    render.write(table("main", rows, (f"Trained with {EVIL}.", "Plain.")), folder / "tables")
    for name in ("averages", "training"):
        picture(folder / "figures" / name)
    render.write(table("sweep", {"a": ["1.0", "2.0"]}), folder / "sweep")
    picture(folder / "sweep" / "sweep")
    (folder / "sweep" / "notes.json").write_text(json.dumps({"title": "A sweep", "about": "What alpha does."}))
    picture(folder / "pilots" / "fig2_prefix_pilot")
    stages = [certificate.read_stage(write_certificate(folder, run, 0, "train", fails)) for run, fails in RUNS.items()]
    (folder / "certificate.json").write_text(json.dumps(certificate.assemble(stages, [])))
    made = {
        "git": {"commit": "0" * 40, "dirty": True},
        "command": {"typed": "snakemake --cores all", "process": ""},
        "started": "2026-01-01T00:00:00+00:00",
        "ended": "2026-01-01T00:05:00+00:00",
        "hardware": {"processor": "A processor", "logical_cores": 2, "memory_gib": 4.0, "gpus": None},
        "system": "Linux",
        "python": "3.11.0",
        "packages": {"torch": "2.13.0"},
    }
    (folder / "tables" / "provenance.json").write_text(json.dumps({"made": made, "about": {"config": "abc", "seeds": "0"}}))
    (folder / "audit").mkdir()
    (folder / "audit" / "audit.json").write_text(json.dumps({"summary": "Graders differ by at most 1.5 points."}))
    (folder / "configuration.yaml").write_text(f"profile: mini\nruns: ['{EVIL}']\n")
    return folder


RUNS = {"sft": (), "grpo+stale": ("canary",)}


def build(home: Path) -> str:
    shown = {"sweep": "sweep", "fig2_prefix_pilot": "pilots", "later": "later"}
    studies = [f"{name}={home / folder}" for name, folder in shown.items()]
    report.main(["--home", str(home), "--captions", str(CAPTIONS), "--studies", *studies])
    return (home / "report.html").read_text(encoding="utf-8")


# Reading tables


def test_a_table_is_read_as_it_was_printed(tmp_path: Path) -> None:
    printed = table("main", {"a|b": ["1.0\n±0.2", "2.0"], "sft_then_grpo": ["**3**", "4.0"]}, ("One | two.", "Three."))
    render.write(printed, tmp_path)
    read = page_tables.read_markdown(tmp_path / "main.md")
    assert read.caption == "Accuracy." and read.notes == ("One | two.", "Three.") and read.right == (False, True, True)
    assert [[line.text for line in title] for title in read.titles] == [["Method"], ["Sums"], ["Avg."]]
    (group,) = read.groups
    assert [row[0][0].text for row in group.rows] == ["a|b", "sft_then_grpo"]
    assert [line.text for line in group.rows[0][1]] == ["1.0", "±0.2"]
    assert group.rows[1][1][0].mark == "best" and group.rows[1][2][0].mark == ""


def test_headings_over_rows_make_groups(tmp_path: Path) -> None:
    grid = [
        "| Method | Avg. |",
        "| :--- | ---: |",
        "| base | 1.0 |",
        "| **RL** |  |",
        "| grpo | _2.0_ |",
        r"| a\_b\* | **3.0** |",
    ]
    (tmp_path / "main.md").write_text("\n".join(["Caption.", "", *grid, ""]))
    groups = page_tables.read_markdown(tmp_path / "main.md").groups
    assert [(group.heading, len(group.rows)) for group in groups] == [("", 1), ("RL", 2)]
    assert groups[1].rows[1][0][0].text == "a_b*"
    assert [row[1][0].mark for row in groups[1].rows] == ["second", "best"]


def test_a_file_without_a_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "main.md").write_text("Nothing.\n")
    with pytest.raises(ValueError, match="holds no table: run the rule"):
        page_tables.read_markdown(tmp_path / "main.md")
    (tmp_path / "main.md").write_text("| a | b |\n| :--- | ---: |\n| 1 |\n")
    with pytest.raises(ValueError, match="1 cells under 2 titles"):
        page_tables.read_markdown(tmp_path / "main.md")


# The page as a file


class Outline(HTMLParser):
    """What must hold of the page's elements, collected while parsing."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []  # what the page would fetch
        self.links: list[str] = []
        self.alts: list[str | None] = []
        self.unscoped = 0
        self.ids: list[str] = []
        self.lang: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [str(found["id"])] if "id" in found else []
        if tag in ("img", "script", "iframe", "link"):
            self.loads += [str(found[key]) for key in ("src", "href") if key in found]
        if tag == "img":
            self.alts.append(found.get("alt"))
        if tag == "a":
            self.links.append(str(found["href"]))
        if tag == "th":
            self.unscoped += "scope" not in found
        if tag == "html":
            self.lang = found.get("lang")


def test_the_page_needs_no_other_file_and_is_accessible(home: Path) -> None:
    page = build(home)
    outline = Outline()
    outline.feed(page)
    assert len(outline.alts) == 4 and all(outline.alts)
    assert all(source.startswith("data:") for source in outline.loads) and "@import" not in page and "url(" not in page
    assert outline.lang == "en" and outline.unscoped == 0
    assert len(outline.ids) == len(set(outline.ids))
    inside = [link[1:] for link in outline.links if link.startswith("#")]
    assert len(inside) >= 6 and set(inside) <= set(outline.ids)
    outside = [link for link in outline.links if not link.startswith("#")]
    assert {"figures/averages.pdf", "tables/main.tex", "sweep/sweep.csv", "sweep/sweep.png"} <= set(outside)
    assert all((home / link).is_file() for link in outside if not link.startswith(("certificate", "audit")))


def test_text_from_files_stays_text(home: Path) -> None:
    page = build(home)
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") == 2  # a footnote and the configuration
    assert EVIL not in page


def test_a_study_shows_its_question_table_and_figure(home: Path) -> None:
    page = build(home)
    studies = page[page.index('<section id="studies"') : page.index('<section id="certificate"')]
    titles = re.findall(r"<h3[^>]*>(.*?)</h3>", studies)
    assert titles == ["Bug study", "A sweep", report.PILOTS["fig2_prefix_pilot"], "later"]
    assert "<p>What alpha does.</p>" in studies and studies.count("<table") == 1 and studies.count("<img") == 2
    assert report.read_caption(CAPTIONS, "fig2_prefix_pilot") in studies
    assert "Not built: later. <code>snakemake --cores all later</code>" in studies
    assert "later" in page[page.index('id="limits-title"') :]


def test_a_study_without_a_word_about_it_is_refused(home: Path) -> None:
    (home / "sweep" / "notes.json").write_text(json.dumps({"title": "A sweep"}))
    with pytest.raises(ValueError, match=r"notes\.json has no 'about': say in the configuration what the study asks"):
        build(home)


def test_what_is_not_built_is_named_with_its_command(home: Path) -> None:
    page = build(home)
    for title, command in (("Costs", "snakemake --cores all"), ("Bug study", "snakemake --cores all bug_study")):
        assert f"Not built: {title}. <code>{command}</code>" in page
    assert "Not built: Accuracy." not in page and "Not built: Means." not in page
    limits = page[page.index('id="limits-title"') :]
    assert "Not built: " in limits and limits.count("Bug study") == 1
    (home / "certificate.json").unlink()
    (home / "configuration.yaml").unlink()
    (home / "audit" / "audit.json").unlink()
    without = build(home)
    assert "by at most 1.5 points" in page and "Not built: grader audit." not in page
    assert "Not built: grader audit." in without
    assert "Not built: certificate." in without and "Not built: configuration." in without
    assert "nothing vouches for these numbers" in without


def test_the_page_says_what_made_it_and_what_failed(home: Path) -> None:
    page = build(home)
    assert f"{'0' * 40} with uncommitted changes" in page and "A processor, 2 cores, 4.0 GiB" in page
    assert "2026-01-01T00:05:00+00:00" in page and "torch 2.13.0" in page
    record = certificate.read_certificate(home / "certificate.json")
    assert f"certificate {record['digest']}" in page
    assert len(re.findall(r'class="failed">FAILED 1e-7', page)) == 1
    assert "One training seed" in page and "injected on purpose: grpo+stale." in page and "Not every check passed" in page


def test_the_same_files_give_the_same_page(home: Path) -> None:
    assert build(home) == build(home)


def test_an_empty_folder_and_a_broken_figure_are_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds neither tables nor figures: build them first"):
        report.render(tmp_path / "nothing", tmp_path / "report.html", CAPTIONS, {})
    (home / "figures" / "averages.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"averages\.png is no PNG"):
        build(home)


def test_every_part_has_a_caption() -> None:
    names = [name for name, *_ in (*report.TABLES, *report.FIGURES, *report.STUDIES)]
    for name in (*names, *report.PILOTS, "study"):
        assert len(report.read_caption(CAPTIONS, name)) > 40


# The page in a browser


def seen(page: Path, width: int) -> dict:
    """What PROBE found in the page in a window of this width."""
    probed = page.with_name("probed.html")
    probed.write_text(page.read_text(encoding="utf-8").replace("<head>", f"<head>{PROBE}", 1), encoding="utf-8")
    assert BROWSER is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", f"--window-size={width},900"]
    told = subprocess.run([BROWSER, *flags, "--dump-dom", probed.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="probe">(.*?)</pre>', told.stdout, re.DOTALL)
    assert found, told.stderr[-2000:]
    return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


@pytest.mark.skipif(BROWSER is None, reason="skipped: no chromium, chromium-browser or google-chrome on the PATH")
@pytest.mark.parametrize("width", [1200, 400])
def test_a_browser_shows_everything_and_sorts(home: Path, width: int) -> None:
    build(home)
    found = seen(home / "report.html", width)
    assert found["errors"] == [] and found["fetched"] == []
    assert len(found["widths"]) == 4 and min(found["widths"]) > 100
    assert found["tables"] == 4  # accuracy, the study, checks by stage, provenance
    assert found["names"]
    given, falling, rising, named = found["orders"]
    assert given == ["base", "sft", "grpo"]
    assert falling == ["sft", "base", "grpo"] and rising == ["grpo", "base", "sft"]
    assert named == ["base", "grpo", "sft"]
    assert not found["scrolls"]  # wide tables scroll in themselves


@pytest.mark.skipif(BROWSER is None, reason="skipped: no chromium, chromium-browser or google-chrome on the PATH")
def test_the_probe_sees_a_broken_page(home: Path) -> None:
    build(home)
    page = home / "report.html"
    broken = page.read_text().replace('src="data:image/png;base64,iVBOR', 'src="data:image/png;base64,xxxxx', 1)
    page.write_text(
        broken.replace("<main>", '<main><script>nowhere();</script><img alt="" src="https://example.org/x.png">', 1)
    )
    found = seen(page, 1200)
    assert any("nowhere" in error for error in found["errors"])
    assert any("example.org" in error for error in found["errors"])
    assert found["widths"].count(0) == 2


def test_a_mark_on_the_page_is_the_mark_of_the_table(tmp_path: Path) -> None:
    """What others printed is set apart from what came second."""
    marks = {"a": "best", "b": "second", "c": "theirs"}
    cells = pd.DataFrame({"Sums": ["3.0", "2.0", "1.0"]}, index=list(marks))
    table = Table(
        "t", "Caption.", cells, pd.DataFrame({"Sums": list(marks.values())}, index=list(marks)), cells, (), rule=False
    )
    render.write(table, tmp_path)
    rows = page_tables.read_markdown(tmp_path / "t.md").groups[0].rows
    assert [row[1][0].mark for row in rows] == list(marks.values())
