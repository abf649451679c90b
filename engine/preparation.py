"""Builds a training corpus: joins problems with further demonstrations, filters, and counts what became of every row.

Problems are joined by their text, because the published ids cannot be: Openr1-Math-46k-8192 has none, and the released code of
arXiv:2512.17636 takes a missing one for "", so that all prompts fall into one advantage group. A row's id here is the start of
the sha256 of its problem's text, whatever its publisher calls it, and the order is that of the ids.

A demonstration is kept if its publisher says that it is finished and right, our grader finds the gold answer in it, its thought
is closed, and it fits. What the file holds of it is the entry's `demonstration`:

    whole       all of it, without the <think> that the template has opened already
    thought     the text between the think tags alone, as the released code of arXiv:2512.17636 imitates
    untagged    thought and answer without tags, for templates and corpora without thoughts
"""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from engine import data, hub, model, overlap, published, record, seeds, tokenised
from engine.corpus import PARTS, files_of
from engine.grade import Grader
from engine.published import Demonstration, Row, key
from engine.record import log
from engine.words import Problem

CHUNK = 256  # problems whose demonstrations are graded together
BATCH = 64  # texts tokenised together


@dataclass(frozen=True)
class Text:
    """A demonstration as the file holds it, and its tokens with the end of sequence."""

    text: str
    tokens: Sequence[int]


@dataclass
class Kept:
    """A problem that stays: its prompt in tokens, demonstrations that are right, and wrong ones where they were asked for."""

    row: Row
    id: str
    prompt: Sequence[int]
    right: list[Text]
    wrong: list[Text]


class Preparation:
    """One corpus. `problems` and `demonstrations` count what was read, what was kept, and why the rest was not."""

    def __init__(self, spec: dict, folder: Path) -> None:
        from transformers import AutoTokenizer

        self.spec, self.entry, self.folder = spec, spec["entry"], folder
        source = model.source(spec["model"])
        if not source.is_dir():
            raise ValueError(f"corpus {spec['name']}: the folder of the tokenizer's model, {source}, does not exist")
        self.tokenizer: Any = AutoTokenizer.from_pretrained(source)
        self.template = data.Template.read(Path(spec["template"]))
        self.problems: Counter[str] = Counter()
        self.demonstrations: Counter[str] = Counter()
        self.inputs: list[dict] = []

    def read(self, part: str) -> Iterator[Row]:
        """The rows of one source, recorded with their digest. Raises ValueError if they are not those of the catalogue."""
        name, source = self.spec["name"], self.entry[part]
        files = files_of(name, source, self.folder)
        digest, count = sha256(), 0
        for row in published.read(f"corpus {name}", files, source["form"]):
            digest.update(row.line)
            count += 1
            yield row
        found = {"rows": count, "sha256": digest.hexdigest()}
        if wrong := [key for key in found if source.get(key, found[key]) != found[key]]:
            raise ValueError(
                f"corpus {name}: {source['source']} has {wrong[0]} {found[wrong[0]]}, config/corpora.yaml says "
                f"{source[wrong[0]]}; get the file it describes, or give this one an entry of its own"
            )
        if "sha256" not in source:
            log.warning("WARNING: corpus %s, %s: digest not pinned: sha256 %s", name, part, found["sha256"])
        where = {"hub": source["hub"]["id"], "commit": hub.commit(files[0])} if hub.commit(files[0]) else {}
        known = {"part": part, "source": source["source"], "form": source["form"], "pinned": "sha256" in source, **where}
        self.inputs.append({**known, **found, "files": {path.name: record.file_sha256(path) for path in files}})

    def distinct(self) -> dict[str, Row]:
        """Problems by their key, each once: of copies, the one whose id and demonstrations sort first. Where copies have
        different answers nobody knows which is right, and the problem is left out."""
        found: dict[str, Row] = {}
        torn: set[str] = set()
        ids: Counter[str] = Counter()
        for row in self.read("problems"):
            self.problems["read"] += 1
            ids[row.source_id] += 1
            name = key(row.problem)
            if not name or not row.answer.strip():
                self.problems["dropped: no answer" if name else "dropped: no text"] += 1
                continue
            if name in found:
                self.problems["dropped: repeated"] += 1
                if found[name].answer != row.answer:
                    torn.add(name)
            found[name] = min(found.get(name, row), row, key=_rank)
        for name in torn:
            del found[name]
            self.problems["dropped: copies have different answers"] += 1
        self.problems["without an id"] = ids.pop("", 0)
        self.problems["sharing an id"] = sum(count for count in ids.values() if count > 1)
        for row in self.read("without") if "without" in self.entry else ():
            if found.pop(key(row.problem), None):
                self.problems["dropped: in the other corpus"] += 1
        return found

    def join(self, problems: dict[str, Row]) -> dict[str, list[Demonstration]]:
        """The demonstrations of every problem: its own, then those of the same text in `further` in an order of their own."""
        if not self.entry["demonstrations"]:
            return {name: [] for name in problems}
        others: dict[str, list[Row]] = {}
        for row in self.read("further") if "further" in self.entry else ():
            if key(row.problem) in problems:
                others.setdefault(key(row.problem), []).append(row)
        if "further" in self.entry:
            self.problems["found in further"] = len(others)
        further = {
            name: [one for row in sorted(rows, key=_rank) for one in row.demonstrations] for name, rows in others.items()
        }
        return {name: [*row.demonstrations, *further.get(name, [])] for name, row in problems.items()}

    def kept(self, problems: dict[str, Row], demonstrations: dict[str, list[Demonstration]]) -> Iterator[Kept]:
        """The problems that pass every filter, in the order of their ids."""
        names = {problem_id(name): name for name in problems}
        assert len(names) == len(problems)  # 64 bits of sha256 tell any corpus apart
        ordered = sorted(names)
        with Grader(workers=self.spec["workers"]) as grader:
            for start in range(0, len(ordered), CHUNK):
                chunk = ordered[start : start + CHUNK]
                rows = [problems[names[one]] for one in chunk]
                prompts = self.tokens([self.template.render(row.problem.strip()) for row in rows])
                readable = grader.grade([(f"\\boxed{{{row.answer}}}", row.answer) for row in rows])
                texts = self.texts([demonstrations[names[one]] for one in chunk], rows, grader)
                for one, row, prompt, gold, (right, wrong) in zip(chunk, rows, prompts, readable, texts, strict=True):
                    if len(prompt) > self.spec["max_prompt_tokens"]:
                        self.problems[f"dropped: prompt over {self.spec['max_prompt_tokens']} tokens"] += 1
                    elif not gold.correct:
                        self.problems["dropped: gold does not grade as itself"] += 1
                    elif self.entry["demonstrations"] and not right:
                        self.problems["dropped: no demonstration left"] += 1
                    elif len(right) < self.entry.get("at_least", 0):
                        self.problems[f"dropped: fewer than {self.entry['at_least']} demonstrations"] += 1
                    else:
                        yield Kept(row, one, prompt, right, wrong)

    def texts(self, given: list[list[Demonstration]], rows: list[Row], grader: Grader) -> list[tuple[list[Text], list[Text]]]:
        """For every problem, the right demonstrations and the wrong ones that fit, at most as many of each as are asked for."""
        candidates = [(place, one) for place, several in enumerate(given) for one in self.distinct_texts(several)]
        grades = grader.grade([(one.text, rows[place].answer) for place, one in candidates])
        sorted_out: list[tuple[int, bool, str]] = []
        for (place, one), grade in zip(candidates, grades, strict=True):
            text = published.shown(one.text, self.entry["demonstration"], self.template.opens_thought)
            wrong = one.failed and grade.status == "wrong" and bool(self.entry.get("wrong"))
            if one.failed and not wrong:
                self.demonstrations["dropped: failed its publisher's check"] += 1
            elif not (wrong or grade.correct):
                self.demonstrations[f"dropped: graded {grade.status}"] += 1
            elif not text:
                self.demonstrations["dropped: no closed thought"] += 1
            else:
                sorted_out.append((place, wrong, text))
        found: list[tuple[list[Text], list[Text]]] = [([], []) for _ in rows]
        for (place, wrong, text), ids in zip(sorted_out, self.tokens([t for *_, t in sorted_out]), strict=True):
            tokens = array("i", (*ids, self.tokenizer.eos_token_id))
            if len(tokens) > self.spec["max_response_tokens"]:
                self.demonstrations[f"dropped: over {self.spec['max_response_tokens']} tokens"] += 1
            elif len(found[place][wrong]) == self.entry["demonstrations"]:
                self.demonstrations["left out: enough"] += 1
            else:
                found[place][wrong].append(Text(text, tokens))
        return found

    def distinct_texts(self, several: list[Demonstration]) -> Iterator[Demonstration]:
        """Finished demonstrations of one problem that differ in more than white space."""
        seen: set[str] = set()
        for one in several:
            self.demonstrations["read"] += 1
            if not one.complete:
                self.demonstrations["dropped: unfinished"] += 1
            elif key(one.text) in seen:
                self.demonstrations["dropped: repeated"] += 1
            else:
                seen.add(key(one.text))
                yield one

    def weaken(self, kept: list[Kept]) -> list[int]:
        """Put wrong demonstrations first in a share of the problems; how many of them these problems got, one number each.

        Which problems is a function of their ids. Raises ValueError if too few have a wrong demonstration.
        """
        asked = round(self.entry.get("wrong", 0) * len(kept))
        able = sorted((one for one in kept if one.wrong), key=lambda one: seeds.seed(axis="wrong", problem=one.id))
        if len(able) < asked:
            raise ValueError(
                f"corpus {self.spec['name']}: wrong demonstrations are asked for in {asked} of {len(kept)} problems, and "
                f"{len(able)} have one; lower `wrong` in config/corpora.yaml to {len(able) / max(len(kept), 1):.2f} or less"
            )
        for one in able[:asked]:
            one.right = [*one.wrong, *one.right][: self.entry["demonstrations"]]
        return [len(one.wrong) for one in able[:asked]]

    def tokens(self, texts: list[str]) -> list[list[int]]:
        """Texts as tokens, a few at a time: the tokenizer keeps a hundred bytes for every token of one call."""
        batches = (texts[start : start + BATCH] for start in range(0, len(texts), BATCH))
        return [ids for batch in batches for ids in self.tokenizer(batch, add_special_tokens=False)["input_ids"]]

    def in_tokens(self, kept: list[Kept]) -> Iterator[Problem]:
        blank: dict[int, bool] = {}
        for one in kept:
            demonstrations = tuple(tuple(each.tokens) for each in one.right)
            breaks = tuple(data.paragraph_breaks(tokens, self.tokenizer, blank) for tokens in demonstrations)
            yield Problem(one.id, tuple(one.prompt), one.row.answer, demonstrations, breaks)


def problem_id(name: str) -> str:
    return sha256(name.encode()).hexdigest()[:16]


def build(spec: dict, out: Path, folder: Path) -> dict[str, Any]:
    """Write a corpus and its tokens; the report on it. `folder` is for files that are generated on the way."""
    made = Preparation(spec, folder)
    problems = made.distinct()
    demonstrations = made.join(problems)
    kept = list(made.kept(problems, demonstrations))
    weakened = made.weaken(kept)
    rows = [
        {
            "id": one.id,
            "problem": one.row.problem.strip(),
            "answer": one.row.answer,
            "demonstrations": [d.text for d in one.right],
        }
        for one in kept
    ]
    found = overlap.report(rows, map(Path, spec["benchmarks"]))
    if made.entry["overlap"] == "drop":
        tested = {train for one in found.values() for kind in overlap.KINDS for train, _ in one[f"pairs, {kind}"]}
        made.problems["dropped: tested"] = len(tested)
        rows, kept = [r for r in rows if r["id"] not in tested], [one for one in kept if one.id not in tested]
    if not rows:
        raise ValueError(
            f"corpus {spec['name']}: no problem passes the filters: {dict(made.problems)}, {dict(made.demonstrations)}"
        )
    record.write_rows(out, rows)
    tokenised.write(out, made.in_tokens(kept))
    return report(made, rows, found, weakened, record.file_sha256(out))


def report(made: Preparation, rows: list[dict], found: dict, weakened: list[int], digest: str) -> dict[str, Any]:
    """What a corpus was made from and what became of it."""
    spec, entry = made.spec, made.entry
    numbers = Counter(len(row["demonstrations"]) for row in rows)
    return {
        "name": spec["name"],
        "title": entry["title"],
        "licence": entry["licence"],
        "source": "; ".join(entry[part]["source"] for part in PARTS if part in entry),
        "size": len(rows),
        "sha256": digest,
        "pinned": all(one["pinned"] for one in made.inputs),
        "inputs": made.inputs,
        "template": made.template.label,
        "demonstration": entry["demonstration"],
        "problems": dict(made.problems),
        "demonstrations": dict(made.demonstrations),
        "problems with so many demonstrations": {str(n): numbers[n] for n in sorted(numbers)},
        "wrong demonstrations": {
            "problems": len(weakened),
            "of them with nothing else": sum(n >= entry["demonstrations"] for n in weakened),
        },
        "overlap": {"rule": entry["overlap"], "benchmarks": found},
    }


def _rank(row: Row) -> tuple[str, str, list[str]]:
    """An order of rows that does not depend on where they stand in a file."""
    return row.source_id, row.answer, [one.text for one in row.demonstrations]
