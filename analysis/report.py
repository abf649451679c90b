"""One page for a results folder: report.html, a single file that needs nothing else, made from the folder's files alone.

    python -m analysis.report --home results/miniature --out results/miniature/report.html

Question, tables, figures, studies, certificate, costs, configuration, how to reproduce and how to cite. What is not built is
named on the page, with the command that builds it. A study is shown if --studies names its folder, which holds <name>.md,
<name>.png and a notes.json with its `title` and `about`; the pilots of the paper have theirs here and among the captions.
"""

import argparse
import base64
import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis.certificate import read_certificate
from analysis.page_tables import PageTable, read_markdown
from analysis.style import PIXELS
from analysis.tables import named

TEMPLATE = "report.html.j2"
TITLE = "Which way of mixing expert demonstrations with reinforcement learning actually works?"
ALL = "snakemake --cores all"
# Parts of the page in order: name of the files, title, folder, and what builds it.
TABLES = (
    ("main", "Accuracy", "tables", ALL),
    ("intervals", "Intervals and differences", "tables", ALL),
    ("ablation", "Ablation", "tables", "ablation: in the configuration"),
    ("published", "Published numbers beside ours", "tables", "published: in the configuration"),
    ("fidelity", "Fidelity: what the named variants change", "tables", f"{ALL} fidelity"),
    ("costs", "Costs", "tables", ALL),
    ("responses", "Responses", "tables", ALL),
    ("arithmetic", "Arithmetic of the published tables", "tables", f"{ALL} arithmetic"),
)
FIGURES = (
    ("averages", "Means", "figures", ALL),
    ("differences", "Differences to the baseline", "figures", ALL),
    ("cost", "Accuracy against cost", "figures", ALL),
    ("pass_at_k", "pass@k", "figures", ALL),
    ("training", "Training", "figures", ALL),
    ("guidance", "Use of expert prefixes", "figures", ALL),
    ("terms", "Gradient norm of each part of the loss", "figures", ALL),
    ("weights", "Weights of expert tokens", "figures", ALL),
)
STUDIES = (("bug_study", "Bug study", "bug_study", f"{ALL} bug_study"),)
PILOTS = {
    "fig2_prefix_pilot": "Pilot: how much of a demonstration helps",
    "fig3_mixture_pilot": "Pilot: imitation and its trust region on a mixture of Gaussians",
    "proposition": "Proposition 1, solved numerically",
    "prefix_use_histogram": "How far demonstrations are shown",
}
SUFFIXES = (".csv", ".tex", ".md", ".pdf", ".png")  # of the files a section links to


@dataclass(frozen=True)
class Picture:
    """A figure's PNG in base64, with its width and height in inches."""

    data: str
    width: float
    height: float


@dataclass(frozen=True)
class Section:
    """A table, a figure or both. missing: the command that builds them if neither is there, else "".

    links: their files, relative to the page.
    """

    name: str
    title: str
    caption: str
    missing: str
    links: tuple[str, ...]
    table: PageTable | None
    picture: Picture | None


def section(path: Path, title: str, caption: str, command: str, page: Path) -> Section:
    """What stands at <path>.md and <path>.png, built or not."""
    table, png = path.with_name(f"{path.name}.md"), path.with_name(f"{path.name}.png")
    files = [path.with_name(path.name + suffix) for suffix in SUFFIXES]
    links = tuple(os.path.relpath(file, page.parent) for file in files if file.is_file())
    shown = read_markdown(table) if table.is_file() else None
    picture = read_png(png) if png.is_file() else None
    return Section(path.name, title, caption, "" if shown or picture else command, links, shown, picture)


def parts(home: Path, captions: Path, page: Path, studies: Mapping[str, Path]) -> dict[str, list[Section]]:
    """Title of a part of the page -> its sections. studies: name -> folder, to be shown after our own."""
    fixed = {"Tables": TABLES, "Figures": FIGURES, "Studies": STUDIES}
    found = {
        part: [
            section(home / folder / name, title, read_caption(captions, name), command, page)
            for name, title, folder, command in rows
        ]
        for part, rows in fixed.items()
    }
    for name, folder in studies.items():
        title, caption = about(name, folder, captions)
        found["Studies"].append(section(folder / name, title, caption, f"{ALL} {name}", page))
    return found


def about(name: str, folder: Path, captions: Path) -> tuple[str, str]:
    """Title and caption of a study; its name alone if it is not built. Raises ValueError if its notes lack either."""
    if name in PILOTS:
        return PILOTS[name], read_caption(captions, name)
    path = folder / "notes.json"
    if not path.is_file():
        return name, ""
    notes = json.loads(path.read_text(encoding="utf-8"))
    if missing := [key for key in ("title", "about") if not notes.get(key)]:
        raise ValueError(f"{path} has no {missing[0]!r}: say in the configuration what the study asks")
    return notes["title"], notes["about"]


def read_caption(folder: Path, name: str) -> str:
    """The caption that Snakemake's report has too, on one line."""
    return " ".join((folder / f"{name}.rst").read_text(encoding="utf-8").replace("``", "").split())


def read_png(path: Path) -> Picture:
    """A figure as printed. Raises ValueError if the file is no PNG."""
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG\r\n\x1a\n") or len(content) < 24:
        raise ValueError(f"{path} is no PNG: delete it and run its rule again")
    width, height = struct.unpack(">II", content[16:24])
    return Picture(base64.b64encode(content).decode(), width / PIXELS, height / PIXELS)


def provenance(home: Path) -> dict[str, list[str]]:
    """What made the results, from the records of stages, tables and figures: each fact's values, most often one."""
    facts: dict[str, dict[str, None]] = {
        name: {} for name in ("Commit", "Command", "Begun", "Ended", "Machine", "System", "Python", "Packages", "Configuration")
    }
    begun, ended = [], []
    for path in sorted([*home.glob("*/seed*/*/done.json"), *home.rglob("*provenance.json")]):
        record = json.loads(path.read_text(encoding="utf-8"))
        made = record.get("provenance") or record.get("made")
        if not made:
            continue
        begun.append(made["started"])
        ended.append(made["ended"])
        values = {
            "Commit": _commit(made["git"]),
            "Command": made["command"]["typed"],
            "Machine": _machine(made["hardware"]),
            "System": made["system"],
            "Python": made["python"],
            "Packages": ", ".join(f"{name} {version}" for name, version in made["packages"].items()),
            "Configuration": record.get("about", {}).get("config"),
        }
        for name, value in values.items():
            if value:
                facts[name][value] = None
    if begun:
        facts["Begun"][min(begun)] = facts["Ended"][max(ended)] = None
    return {name: list(values) for name, values in facts.items()}


def _commit(git: dict[str, Any]) -> str:
    if not git["commit"]:
        return "none: not run from a repository"
    return git["commit"] + (" with uncommitted changes" if git["dirty"] else "")


def _machine(hardware: dict[str, Any]) -> str:
    gpus = f", {', '.join(hardware['gpus'])}" if hardware["gpus"] else ""
    return f"{hardware['processor']}, {hardware['logical_cores']} cores, {hardware['memory_gib']} GiB{gpus}"


def limits(certificate: dict[str, Any] | None, missing: Sequence[Section]) -> list[str]:
    """What a reader should hold against the page, as far as its files tell."""
    found = []
    stages = certificate["stages"] if certificate else []
    seeds = {stage["seed"] for stage in stages}
    if len(seeds) == 1:
        found.append("One training seed: intervals are over problems only and say nothing about another seed.")
    elif len(seeds) == 2:
        found.append("Two training seeds: how often such intervals cover was checked from three seeds on.")
    if certificate and not certificate["passed"]:
        found.append("Not every check passed: see the certificate.")
    if bugs := sorted({stage["run"] for stage in stages if stage["inject"]}):
        found.append(f"Trained with a bug injected on purpose: {', '.join(bugs)}.")
    if not certificate:
        found.append("Without a certificate nothing vouches for these numbers.")
    if missing:
        found.append(f"Not built: {', '.join(dict.fromkeys(section.title for section in missing))}.")
    return [*found, "A ranking holds for this model, these data and this budget; another scale can turn it round."]


def render(home: Path, page: Path, captions: Path, studies: Mapping[str, Path]) -> str:
    """The page as HTML, to be written to `page`. Raises ValueError if the folder holds nothing to report."""
    read = {name: home / name for name in ("certificate.json", "configuration.yaml")}
    audit = home / "audit" / "audit.json"
    certificate = read_certificate(read["certificate.json"]) if read["certificate.json"].is_file() else None
    stages = certificate["stages"] if certificate else []
    shown = parts(home, captions, page, studies)
    sections = [section for part in shown.values() for section in part]
    missing = [section for section in sections if section.missing]
    if len(missing) == len(sections):
        raise ValueError(f"{home} holds neither tables nor figures: build them first ({ALL})")
    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(TEMPLATE).render(
        title=TITLE,
        profile=home.name,
        parts=shown,
        facts=provenance(home),
        certificate=certificate,
        checks=list(dict.fromkeys(check["name"] for stage in stages for check in stage["checks"])),
        configuration=read["configuration.yaml"].read_text(encoding="utf-8") if read["configuration.yaml"].is_file() else "",
        configuration_path=str(read["configuration.yaml"]),
        graders=json.loads(audit.read_text(encoding="utf-8"))["summary"] if audit.is_file() else "",
        limits=limits(certificate, missing),
        all=ALL,
    )


def main(argv: Sequence[str] | None = None) -> None:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description=__doc__, formatter_class=text)
    parser.add_argument("--home", required=True, type=Path, help="the results folder, results/<profile>")
    parser.add_argument("--captions", type=Path, default=Path("workflow/report"), help="captions (default: %(default)s)")
    parser.add_argument("--studies", nargs="*", default=[], metavar="NAME=FOLDER", help="studies and pilots, in order")
    parser.add_argument("--out", type=Path, help="the page (default: HOME/report.html)")
    arguments = parser.parse_args(argv)
    page = arguments.out or arguments.home / "report.html"
    studies = {name: Path(folder) for name, folder in named(arguments.studies).items()}
    page.write_text(render(arguments.home, page, arguments.captions, studies), encoding="utf-8")


if __name__ == "__main__":
    main()
