"""Method cards: a page per method file, written from its header, its settings and its scripted conversations.

    python -m workflow.method_cards docs/methods            # write them
    python -m workflow.method_cards docs/methods --check    # exit 1, naming the pages that are not what would be written

A header is the file's docstring: a claim, a blank line, then fields (`Name         text`), paragraphs, and under either
items indented by two (`  name  text`); what is indented further goes on with the line above. arXiv ids become links, and so
do paths of the authors' code after `owner/repo@commit`: `folder/file.py:12-34, other.py`, where a name without a folder is in
the folder named before it (`folder: file.py` names one).
"""

import argparse
import inspect
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine import methods
from engine.explain import explain
from engine.words import Stage

COMMAND = "python -m workflow.method_cards"
MARK = f"Generated from the file's header by `{COMMAND} docs/methods`; change that instead."
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5}(?:v\d+)?)")
FIELD = re.compile(r"(\S.*?) {2,}(\S.*)")
CODE = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<commit>[0-9a-f]{6,40})\b"
    r"|(?P<stranger>[\w.-]+@[0-9a-f]{6,40}\b)"
    r"|(?P<folder>(?:[\w.-]+/)+[\w.-]+):(?=\s)"
    r"|(?P<path>(?:[\w.-]+/)*[\w.-]*(?:\{[\w.,-]+\}[\w.-]*)?\.(?:py|sh|ya?ml|json|md|toml))(?::(?P<first>\d+)(?:-(?P<last>\d+))?)?(?!\w)"
)


@dataclass
class Entry:
    """A field of a header (or a paragraph, which has no name) and the items under it."""

    name: str
    text: str
    items: list[tuple[str, str]] = field(default_factory=list)

    def go_on(self, text: str) -> None:
        if self.items:
            name, before = self.items[-1]
            self.items[-1] = name, f"{before} {text}"
        else:
            self.text += f" {text}"


def header(docstring: str) -> tuple[str, list[Entry]]:
    """A docstring's claim and its entries."""
    claim, _, rest = docstring.partition("\n\n")
    entries: list[Entry] = []
    flowing = False  # whether a line at the margin goes on with the paragraph above
    for line in rest.splitlines():
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        found = FIELD.fullmatch(text)
        if not text:
            flowing = False
        elif indent and entries:
            flowing = False
            if indent == 2 and found:
                entries[-1].items.append((found[1], found[2]))
            else:
                entries[-1].go_on(text)
        elif found:
            entries.append(Entry(found[1], found[2]))
            flowing = False
        elif flowing:
            entries[-1].go_on(text)
        else:
            entries.append(Entry("", text))
            flowing = True
    return " ".join(claim.split()), entries


def linked(text: str) -> str:
    """Header text as Markdown: what Markdown would read as markup escaped, papers and the authors' code linked."""
    parts = re.split(r"(`[^`]*`)", text)  # odd ones are code
    plain = [part if i % 2 else re.sub(r"([*<\[])", r"\\\1", part) for i, part in enumerate(parts)]
    papers = ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", "".join(plain))
    repo = commit = folder = ""

    def link(match: re.Match[str]) -> str:
        nonlocal repo, commit, folder
        whole = match[0]
        if match["repo"]:
            repo, commit, folder = match["repo"], match["commit"], ""
            return f"[{whole}](https://github.com/{repo}/tree/{commit})"
        if match["stranger"]:  # a repository without its owner: what follows is not the one before's
            repo = ""
        if not repo:
            return whole
        if match["folder"]:
            folder = match["folder"]
            return f"[{folder}](https://github.com/{repo}/tree/{commit}/{folder}):"
        parent, _, name = match["path"].rpartition("/")
        folder = parent or folder
        lines = f"#L{match['first']}" * bool(match["first"]) + f"-L{match['last']}" * bool(match["last"])
        home = f"https://github.com/{repo}/blob/{commit}/{folder}" + "/" * bool(folder)
        braces = re.fullmatch(r"(.*)\{(.*)\}(.*)", name)
        if not braces:
            return f"[{whole}]({home}{name}{lines})"
        names = [f"{braces[1]}{one}{braces[3]}" for one in braces[2].split(",")]
        return ", ".join(f"[{parent}{'/' * bool(parent)}{one}]({home}{one})" for one in names)

    return CODE.sub(link, papers)


def page(name: str, folder: Path, home: str) -> str:
    """The card of one method; `home` is the way from the card's folder to the methods'."""
    module = methods.load(name, folder)
    docstring = inspect.cleandoc(module.__doc__ or "")
    claim, entries = header(docstring)
    parts = [f"# {name}", linked(claim), f"[{folder.name}/{name}.py]({home}/{name}.py). {MARK}", *_entries(entries)]
    if hasattr(module, "stages"):
        parts += ["## Stages", "\n".join(_stage(stage, folder) for stage in methods.stages(name, folder))]
    if hasattr(module, "Method"):
        settings, talk = _told(name, methods.MATCHED, folder, docstring)
        parts += ["## Settings", _block(settings), "## Conversations", _block(talk)]
        for preset in methods.presets(name, folder):
            other = _told(name, preset, folder, docstring)[1]
            if other.splitlines()[1:] != talk.splitlines()[1:]:
                parts += [f"### {preset}", _block(other)]
    return "\n\n".join(parts) + "\n"


def index(folder: Path, home: str) -> str:
    """The table of all methods."""
    rows = ["| Method | Claim | Paper |", "| :--- | :--- | :--- |"]
    for name in methods.names(folder):
        docstring = inspect.cleandoc(methods.load(name, folder).__doc__ or "")
        paper = ARXIV.search(docstring)
        claim = linked(header(docstring)[0]).replace("|", "\\|")
        rows.append(f"| [{name}]({name}.md) | {claim} | {linked(paper[0]) if paper else ''} |")
    about = (
        f"One card per file in [{folder.name}/]({home}): what the method claims and where that is published, what it samples "
        "and learns, where paper and code disagree and which is followed, its settings under every preset, and its "
        "conversation with policies that are always right, always wrong, or mixed."
    )
    return "\n\n".join(["# Method cards", about, MARK.replace("file's header", "files' headers"), "\n".join(rows)]) + "\n"


def cards(folder: Path, out: Path) -> dict[str, str]:
    """File name -> text of every page."""
    home = os.path.relpath(folder, out)
    return {"README.md": index(folder, home), **{f"{name}.md": page(name, folder, home) for name in methods.names(folder)}}


def stale(wanted: dict[str, str], out: Path) -> list[str]:
    """Names of pages that are missing, not what they should be, or of methods that are no more. Raises ValueError if a page
    would replace a file that was written by somebody."""
    there = {path.name: path.read_text() for path in out.glob("*.md")}
    for name in sorted(wanted.keys() & there.keys()):
        if COMMAND not in there[name]:
            raise ValueError(f"{out / name} is no generated page and would be replaced; give the cards a folder of their own")
    ours = {name for name, text in there.items() if COMMAND in text}
    return sorted(name for name in {*wanted, *ours} if wanted.get(name) != there.get(name))


def _entries(entries: Sequence[Entry]) -> list[str]:
    """Fields next to each other as one list; a paragraph, and the items under it, on its own."""
    parts: list[str] = []
    for before, entry in zip([None, *entries], entries, strict=False):
        lines = [f"- **{entry.name}**: {linked(entry.text)}" if entry.name else linked(entry.text)]
        lines += ["  " * bool(entry.name) + f"- **{name}**: {linked(text)}" for name, text in entry.items]
        if not entry.name and entry.items:
            lines[0] += "\n"
        if entry.name and before and before.name:
            parts[-1] += "\n" + "\n".join(lines)
        else:
            parts.append("\n".join(lines))
    return parts


def _stage(stage: Stage, folder: Path) -> str:
    """One line of a pipeline; a method is a link to its card."""
    trained = f"trained with [{stage.method}]({stage.method}.md)" if stage.method else "the base model as it is"
    given = ", ".join(f"{key} {value}" for key, value in stage.settings.items())
    given += f"{stage.times:g} times its updates" * (stage.times != 1)
    start = f", from `{stage.parent}`" if stage.parent else ", from the base model" * bool(stage.method)
    return f"- `{stage.name}`: {trained}{start}" + (f"; {given}" if given else "")


def _told(name: str, preset: str, folder: Path, docstring: str) -> tuple[str, str]:
    """What `assay explain` prints after the header: the settings, and the conversations."""
    told = explain(name, preset, folder).removeprefix(docstring).strip()
    settings, found, talk = told.partition("\nConversations")
    return settings.strip(), (found + talk).strip()


def _block(text: str) -> str:
    return f"```text\n{text}\n```"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write a page per method, or check that the pages are current.")
    parser.add_argument("out", type=Path, metavar="FOLDER", help="where the pages are: docs/methods")
    parser.add_argument("--methods-dir", type=Path, default=Path("methods"), help="the folder of method files")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is not current")
    arguments = parser.parse_args()
    wanted = cards(arguments.methods_dir, arguments.out)
    old = stale(wanted, arguments.out)
    if arguments.check:
        if old:
            sys.exit(f"not current: {', '.join(old)}; run {COMMAND} {arguments.out}")
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in old:
        if name in wanted:
            (arguments.out / name).write_text(wanted[name])
        else:
            (arguments.out / name).unlink()


if __name__ == "__main__":
    main()
