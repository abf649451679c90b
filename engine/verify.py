"""Whether results still are what was written, and whether this checkout would make them again: `assay verify`."""

import functools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from engine import provenance, record

Kind = Literal["result", "source"]
HEADINGS: dict[Kind, str] = {
    "result": "result changed: a file is not what was written",
    "source": "source changed since: this checkout would not make the same result again",
}


@dataclass(frozen=True)
class Finding:
    """Something that no longer matches, and the record that says so. `where` is a Path if it is a file."""

    kind: Kind
    record: Path
    what: str
    where: Path | str
    expected: str
    found: str

    def __str__(self) -> str:
        expected, found = (text[:12] if re.fullmatch("[0-9a-f]{16,}", text) else text for text in (self.expected, self.found))
        return f"{self.what} {self.where}".rstrip() + f": expected {expected}, found {found}"


class Report:
    """What `verify` went through: how many records, which files, and what does not match."""

    def __init__(self) -> None:
        self.records = 0
        self.files: set[Path] = set()
        self.findings: list[Finding] = []
        self._record = Path()  # the one being checked
        self._sha256 = functools.cache(_sha256)  # a file that several records name is read once
        self._same_sources = functools.cache(provenance.same_sources)

    def lines(self) -> Iterator[str]:
        """The findings, one line for those that several records share, and a summary."""
        for kind, heading in HEADINGS.items():
            shared: dict[str, list[Path]] = {}
            for finding in self.findings:
                if finding.kind == kind:
                    shared.setdefault(str(finding), []).append(finding.record)
            if shared:
                yield heading
            for line, records in shared.items():
                yield f"  {line} ({records[0]}" + (f" and {len(records) - 1} more)" if len(records) > 1 else ")")
        files = {f.where for f in self.findings if f.where in self.files}
        others = {(f.what, f.where) for f in self.findings if f.where not in self.files}
        told = [f"{len(files)} of {_many(len(self.files), 'file')} no longer match"] if files else []
        told += [_many(len(others), "other difference")] if others else []
        yield f"checked {_many(self.records, 'record')}, {_many(len(self.files), 'file')}: {', '.join(told) or 'all match'}"

    def check(self, path: Path) -> None:
        """Check one record, whatever state it is in."""
        self._record = path
        self.records += 1
        is_stage = path.name == "done.json"
        read = self._read(
            path, {"digest": str, "identity": dict, "outputs": dict} if is_stage else {"inputs": dict, "outputs": dict}
        )
        if read is None:
            return
        if is_stage:
            self._stage(read)
        else:
            self._provenance(read)
        match read.get("provenance" if is_stage else "made"), provenance.git():
            case {"git": {"commit": str(then)}}, {"commit": str(now)} if not self._same_sources(then):
                self._same("source", "git", "commit", then, now)

    def _same(self, kind: Kind, what: str, where: Path | str, expected: Any, found: Any) -> bool:
        if isinstance(where, Path):
            self.files.add(where)
        if expected != found:
            self.findings.append(Finding(kind, self._record, what, where, str(expected), str(found)))
        return expected == found

    def _read(self, path: Path, parts: dict[str, type]) -> dict[str, Any] | None:
        """A JSON object that has these parts; else a finding."""
        try:
            read = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            self._same("result", "record", path, "JSON", str(error))
            return None
        kept = [key for key, kind in parts.items() if isinstance(read, dict) and isinstance(read.get(key), kind)]
        whole = self._same("result", "record", path, " and ".join(parts), " and ".join(kept) or "neither")
        return read if whole else None

    def _provenance(self, read: dict[str, Any]) -> None:
        self._same("result", "record", self._record, read.get("digest"), _sealed(read, "digest"))
        self._outputs(read["outputs"])
        for name, sha256 in read["inputs"].items():
            kind: Kind = "result" if name.startswith("results/") else "source"
            self._same(kind, "input", Path(name), sha256, self._sha256(Path(name)))

    def _stage(self, done: dict[str, Any]) -> None:
        self._outputs(done["outputs"])
        sealed = self._same("result", "record", self._record, done.get("seal"), _sealed(done, "seal"))
        if sealed and self._same("result", "record", self._record, done["digest"], record.digest(done["identity"])):
            self._identity(done["identity"])  # an edited one says nothing about the sources

    def _outputs(self, outputs: dict[str, str]) -> None:
        for name, sha256 in outputs.items():
            path = Path(os.path.normpath(self._record.parent / name))
            self._same("result", "output", path, sha256, self._sha256(path))

    def _identity(self, then: dict[str, Any]) -> None:
        """What determined the stage, against what determines it now."""
        from engine import stage  # imports this module

        try:
            spec = then["spec"]
            now = stage.identity(spec)
        except (OSError, ValueError, LookupError, TypeError, ImportError) as error:  # a source is gone or has another form
            self._same("source", "stage", "", record.digest(then), f"{type(error).__name__}: {error}")
            return
        where: dict[str, Path | str] = {"data": Path(spec.get("data", "")), "template": Path(spec["template"])}
        where["model"] = spec["model"]["path"]  # a folder
        if spec["method"]:
            where["method"] = Path(spec["method"]["folder"]) / f"{spec['method']['name']}.py"
        if spec["parent"]:
            where["parent"] = Path(spec["parent"]) / "done.json"
        for key in sorted(then.keys() | now.keys()):
            old, new = then.get(key, "nothing"), now.get(key, "nothing")
            if isinstance(old, dict) and isinstance(new, dict):  # packages by name
                for name in sorted(old.keys() | new.keys()):
                    self._same("source", key, name, old.get(name, "nothing"), new.get(name, "nothing"))
            else:
                self._same("source", key, where.get(key, ""), old, new)


def verify(path: Path) -> Report:
    """Recompute the digests in every `done.json` and `*provenance.json` under a folder, or in one such file.

    Run it in the repository's root. Raises ValueError if there is no record to check.
    """
    candidates = [path] if path.is_file() else sorted(path.rglob("*.json"))
    records = [p for p in candidates if p.name == "done.json" or p.name.endswith(provenance.SUFFIX)]
    if not records:
        state = "is not a record" if path.is_file() else "holds no record" if path.is_dir() else "does not exist"
        raise ValueError(
            f"{path} {state}; give a folder that a run wrote (results/miniature), or a done.json or {provenance.SUFFIX} in it"
        )
    report = Report()
    for p in tqdm(records, desc="verify", unit="record"):
        report.check(p)
    return report


def _many(count: int, what: str) -> str:
    return f"{count} {what}" + "s" * (count != 1)


def _sha256(path: Path) -> str:
    try:
        return record.file_sha256(path)
    except FileNotFoundError:
        return "no such file"
    except OSError as error:
        return f"unreadable: {error.strerror}"


def _sealed(read: dict[str, Any], key: str) -> str:
    """The digest that a record must carry under this key: of everything else in it."""
    return record.digest({name: value for name, value in read.items() if name != key})
