"""Training corpora: small files in the published forms, with everything that is wrong in real ones, and what becomes of it."""

import json
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet
from transformers import AutoTokenizer

from engine import corpus, data, preparation, published, record, tokenised
from engine.grade import Grader
from engine.training import Training
from miniature import corpus as miniature
from miniature.world import training_rows
from tests.conftest import ROOT

KNOWN = yaml.safe_load((ROOT / "config" / "corpora.yaml").read_text())
MINIATURE = ROOT / "config" / "templates" / "miniature.txt"
THINKING = ROOT / "config" / "templates" / "luffy.txt"
TOKENIZER = AutoTokenizer.from_pretrained(ROOT / "miniature" / "base")


def solution(answer: str, thought: str = "I add.") -> str:
    return f"<think>\n{thought}\n</think>\n\nSo \\boxed{{{answer}}}."


def chat(problem: str, answer: object, target: str | None = None, index: object = 1) -> dict:
    """A row of Openr1-Math-46k-8192."""
    return {
        "data_source": "",
        "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": problem}],
        "target": None if target is None else [{"role": "assistant", "content": target}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": answer},
        "extra_info": {"index": index, "split": "train"},
    }


def generations(problem: str, answer: str, *texts: tuple[str, bool, bool], uuid: str = "u") -> dict:
    """A row of OpenR1-Math-220k; every text with whether it was verified and whether it is complete."""
    return {
        "problem": problem,
        "solution": "",
        "answer": answer,
        "uuid": uuid,
        "generations": [text for text, _, _ in texts],
        "correctness_math_verify": [good for _, good, _ in texts],
        "is_reasoning_complete": [whole for _, _, whole in texts],
    }


def write(path: Path, rows: list[dict]) -> Path:
    """A parquet or JSON-lines file."""
    if path.suffix == ".jsonl":
        record.write_rows(path, rows)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def spec(tmp_path: Path, problems: list[dict], further: list[dict] | None = None, **changes) -> dict:
    """What the command is given for two files."""
    entry = {"title": "Sums", "licence": "none", "demonstrations": 2, "demonstration": "whole", "overlap": "report"}
    entry["problems"] = {"source": str(write(tmp_path / "problems.parquet", problems)), "form": "chat"}
    if further is not None:
        entry["further"] = {"source": str(write(tmp_path / "further.parquet", further)), "form": "generations"}
    given = {
        "name": "sums",
        "entry": entry,
        "model": {"path": str(ROOT / "miniature" / "base")},
        "template": str(MINIATURE),
        "max_prompt_tokens": 200,
        "max_response_tokens": 200,
        "benchmarks": [],
        "workers": 1,
    }
    for key, value in changes.items():
        (given if key in given else entry)[key] = value
    return given


def build(given: dict, out: Path) -> tuple[list[dict], dict]:
    """The rows of a corpus, in the order of their problems, and the report."""
    report = preparation.build(given, out, out.parent)
    return sorted(record.read_rows(out), key=lambda row: row["problem"]), report


# The catalogue.


def test_the_catalogue_is_valid_and_pins_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert corpus.catalogue() == KNOWN and len(KNOWN) == 9
    pinned = {name for name, entry in KNOWN.items() if all("sha256" in entry[p] for p in corpus.PARTS if p in entry)}
    assert pinned == {"gsm8k", "miniature_openr1", "miniature_complement", "miniature_weak"}
    hubs = {
        entry[p]["hub"]["id"]: entry[p]["hub"]["revision"]
        for entry in KNOWN.values()
        for p in corpus.PARTS
        if "hub" in entry.get(p, ())
    }
    assert len(hubs) == 4
    assert {name for name, revision in hubs.items() if not revision} == {
        "Elliott/Openr1-Math-46k-8192",
        "Elliott/Openr1-Math-48k-Complement",
    }


def test_names_and_settings_that_are_wrong_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=r"unknown corpus 'openr1_46'; did you mean 'openr1_46k'\?.*or name a \.jsonl file"):
        corpus.entry_of("openr1_46", KNOWN)
    assert corpus.entry_of("gsm8k", KNOWN)["licence"] == "MIT"
    for change, message in (
        ({"revision": "main"}, "gsm8k.problems.hub.revision: 'main' does not match"),
        ({"revison": ""}, "gsm8k.problems.hub: Additional properties are not allowed"),
    ):
        broken = deepcopy(KNOWN)
        broken["gsm8k"]["problems"]["hub"] |= change
        (tmp_path / "corpora.yaml").write_text(yaml.safe_dump(broken))
        with pytest.raises(ValueError, match=rf"corpora.yaml, {message}"):
            corpus.catalogue(tmp_path / "corpora.yaml")


def test_the_plan_may_read_the_catalogue_cheaply() -> None:
    code = (
        "import sys; from engine import corpus; corpus.spec_of('gsm8k', corpus.catalogue()['gsm8k'], 'data')\n"
        "print(sorted({'torch', 'pyarrow', 'transformers', 'huggingface_hub'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_local_file_or_folder_takes_the_place_of_the_hub(tmp_path: Path) -> None:
    given = corpus.spec_of("openr1_46k", KNOWN["openr1_46k"], str(tmp_path))
    assert corpus.inputs(given) == []
    folder = tmp_path / "corpora" / "openr1_math_220k"
    shards = [write(folder / f"train-{i}.parquet", [generations("p", "1")]) for i in (1, 0)]
    (folder / "README.md").write_text("about")
    assert corpus.inputs(given) == sorted(map(str, shards))
    assert corpus.files_of("openr1_46k", given["entry"]["further"], tmp_path) == sorted(shards)
    with pytest.raises(
        ValueError, match=r"corpus sums: nowhere\.parquet does not exist and its entry .* has no `hub`; place it"
    ):
        corpus.files_of("sums", {"source": "nowhere.parquet"}, tmp_path)


def test_without_network_the_file_to_place_is_named(tmp_path: Path) -> None:
    given = {**spec(tmp_path, []), **corpus.spec_of("openr1_46k", KNOWN["openr1_46k"], str(tmp_path))}
    command = [
        sys.executable,
        "-m",
        "engine.corpus",
        "build",
        json.dumps(given),
        str(tmp_path / "o.jsonl"),
        str(tmp_path / "r"),
    ]
    settings = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, env=settings)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and "Traceback" not in done.stderr and not (tmp_path / "o.jsonl").exists()
    assert line == (
        "error: corpus openr1_46k: *.parquet of Elliott/Openr1-Math-46k-8192 at its newest revision did not arrive: "
        f"the hub does not answer; it needs the network once, or place a copy at {tmp_path}/corpora/openr1_math_46k"
    )


# The published forms.


def test_every_form_is_read_from_either_kind_of_file(tmp_path: Path) -> None:
    texts = (solution("2"), True, True), ("<think>\nno end", False, False)
    published_rows = {
        "chat": [chat("1+1?", "2", solution("2"), 7), chat("2+2?", 4, None, None)],
        "generations": [generations("1+1?", "2", *texts, uuid="a"), generations("2+2?", "4", uuid="")],
        "gsm8k": [{"question": "1+1?", "answer": "It is <<1+1=2>>2.\n#### 2"}],
        "rows": [{"id": "a", "problem": "1+1?", "answer": "2", "demonstrations": ["\\boxed{2}"]}],
    }
    assert published_rows.keys() == published.FORMS.keys()
    for form, raw in published_rows.items():
        if form == "chat":
            raw[1]["reward_model"]["ground_truth"] = "4"  # a column has one type
        found = [list(published.read("c", [write(tmp_path / f"{form}.{kind}", raw)], form)) for kind in ("parquet", "jsonl")]
        assert (
            found[0] == found[1] and len(found[0]) == len(raw) and found[0][0].problem == "1+1?" and found[0][0].answer == "2"
        )
    first, second = published.read("c", [tmp_path / "chat.parquet"], "chat")
    assert first == published.Row("7", "1+1?", "2", (published.Demonstration(solution("2")),))
    assert second == published.Row("", "2+2?", "4")
    first, second = published.read("c", [tmp_path / "generations.parquet"], "generations")
    right, unfinished = first.demonstrations
    assert (right.failed, right.complete, unfinished.failed, unfinished.complete) == (False, True, True, False)
    assert second.source_id == "" and second.demonstrations == ()


def test_a_demonstration_nobody_verified_counts_as_failed(tmp_path: Path) -> None:
    row = {**generations("1+1?", "2", (solution("2"), True, True)), "correctness_math_verify": None}
    (found,) = published.read("c", [write(tmp_path / "g.jsonl", [row])], "generations")
    assert [one.failed for one in found.demonstrations] == [True]


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    good = write(tmp_path / "good.parquet", [chat("1+1?", "2", solution("2"))] * 50)
    assert len(list(published.read("c", [good], "chat"))) == 50
    with pytest.raises(
        ValueError, match=r"corpus x: row 1 of .*good.parquet is not in the form 'generations' \(KeyError: 'gene"
    ):
        list(published.read("corpus x", [good], "generations"))
    short = tmp_path / "short.parquet"
    short.write_bytes(good.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"short.parquet cannot be read \(.*\); is it whole\? Delete it and download it again"):
        list(published.read("c", [short], "chat"))
    with pytest.raises(ValueError, match=r"a.csv is neither .parquet nor .jsonl"):
        list(published.read("c", [tmp_path / "a.csv"], "chat"))


# Joining.


def test_demonstrations_are_joined_by_text_and_the_second_one_is_verified_and_different(tmp_path: Path) -> None:
    first = solution("2")
    problems = [chat("What is\n1+1?", "2", first, index=5), chat("What is 2+2?", "4", solution("4"), index=5)]
    further = [
        generations(
            " What is 1+1? ",  # the same problem, with other white space and another id
            "2",
            (first + "\n", True, True),
            (solution("3", "wrong"), False, True),
            ("<think>\nno end", True, False),
            (solution("2", "second"), True, True),
            (solution("2", "third"), True, True),
        ),
        generations("What is 3+3?", "6", (solution("6"), True, True), uuid="5"),
    ]
    rows, report = build(spec(tmp_path, problems, further), tmp_path / "train.jsonl")
    assert [row["demonstrations"] for row in rows] == [[first, solution("2", "second")], [solution("4")]]
    assert rows[0]["problem"] == "What is\n1+1?" and rows[0]["answer"] == "2" and data.read_rows(tmp_path / "train.jsonl")
    assert report["problems"] == {"read": 2, "without an id": 0, "sharing an id": 2, "found in further": 1}
    assert report["demonstrations"] == {
        "read": 7,
        "dropped: repeated": 1,
        "dropped: failed its publisher's check": 1,
        "dropped: unfinished": 1,
        "left out: enough": 1,
    }
    assert report["problems with so many demonstrations"] == {"1": 1, "2": 1}


def test_the_order_of_rows_and_the_number_of_workers_change_nothing(tmp_path: Path) -> None:
    """Even where it decides which copy of a problem, and which of its further demonstrations, is taken."""
    problems, further = miniature.rows("problems")[:60], miniature.rows("further")[:50]
    problems += [chat("1+1?", "2", solution("2", text), index) for index, text in ((8, "one"), (3, "two"), (5, "three"))]
    further += [generations("1+1?", "2", (solution("2", uuid), True, True), uuid=uuid) for uuid in ("h", "a", "k")]
    made = []
    for number in (1, 2):
        out = tmp_path / f"{number}.jsonl"
        rows, _ = build(spec(tmp_path, problems, further, demonstration="untagged", workers=number), out)
        assert len(rows) == 60 and [row["id"] for row in record.read_rows(out)] == sorted(row["id"] for row in rows)
        assert rows[0]["demonstrations"] == ["two\n\nSo \\boxed{2}.", "a\n\nSo \\boxed{2}."]
        made.append((out.read_bytes(), tokenised.path_of(out).read_bytes()))
        problems.reverse()
        further.reverse()
    assert made[0] == made[1]


# Filters: one row for each thing that is wrong, and one that is right.


def test_every_row_that_is_dropped_is_counted_under_its_reason(tmp_path: Path) -> None:
    problems = [
        chat("fine", "2", solution("2")),
        chat(" fine", "2", solution("2")),  # a copy
        chat("torn", "2", solution("2")),
        chat("torn  ", "3", solution("3")),  # a copy with another gold answer
        chat("wrong", "2", solution("3")),
        chat("unboxed", "2", "<think>\n2\n</think>\n\nIt is 2."),
        chat("open", "2", "<think>\n2"),
        chat("no thought", "2", "So \\boxed{2}."),
        chat("long", "2", solution("2", "I think. " * 40)),
        chat("long prompt " * 40, "2", solution("2")),
        chat("   ", "2", solution("2")),
        chat("no gold", "", solution("2")),
        chat("no target", "2"),
        chat("unreadable", "}{", solution("2")),
    ]
    rows, report = build(spec(tmp_path, problems), tmp_path / "train.jsonl")
    assert [row["problem"] for row in rows] == ["fine"] and rows[0]["answer"] == "2"
    assert report["problems"] == {
        "read": 14,
        "dropped: repeated": 2,
        "dropped: copies have different answers": 1,
        "dropped: no text": 1,
        "dropped: no answer": 1,
        "without an id": 0,
        "sharing an id": 14,
        "dropped: prompt over 200 tokens": 1,
        "dropped: gold does not grade as itself": 1,
        "dropped: no demonstration left": 6,
    }
    assert report["size"] == 1 == 14 - 2 - 1 - 1 - 1 - 1 - 1 - 6
    assert report["demonstrations"] == {
        "read": 8,  # copies and rows without a gold answer are gone before
        "dropped: graded wrong": 1,
        "dropped: graded undecided": 1,  # against the unreadable gold
        "dropped: graded no_answer": 2,
        "dropped: no closed thought": 1,
        "dropped: over 200 tokens": 1,
    }


def test_a_thought_without_content_or_opening_is_none(tmp_path: Path) -> None:
    problems = [
        chat("empty", "2", "<think>\n\n</think>\n\nSo \\boxed{2}."),
        chat("unopened", "2", "</think>So \\boxed{2}."),
        chat("fine", "2", solution("2")),
    ]
    for how in ("whole", "thought"):
        rows, report = build(spec(tmp_path, problems, demonstration=how), tmp_path / "train.jsonl")
        assert [row["problem"] for row in rows] == ["fine"]
        assert report["demonstrations"]["dropped: no closed thought"] == 2


def test_problems_may_need_several_demonstrations(tmp_path: Path) -> None:
    problems = [chat("1+1?", "2", solution("2")), chat("2+2?", "4", solution("4"))]
    further = [generations("1+1?", "2", (solution("2", "second"), True, True))]
    rows, report = build(spec(tmp_path, problems, further, at_least=2), tmp_path / "train.jsonl")
    assert [(row["problem"], len(row["demonstrations"])) for row in rows] == [("1+1?", 2)]
    assert report["problems"]["dropped: fewer than 2 demonstrations"] == 1


def test_texts_that_are_not_there_are_no_demonstrations(tmp_path: Path) -> None:
    row = chat("1+1?", "2", solution("2"))
    empty = {**chat("2+2?", "4", "x"), "target": [{"role": "assistant", "content": None}]}
    rows, _ = build(spec(tmp_path, [row, empty]), tmp_path / "train.jsonl")
    assert [row["problem"] for row in rows] == ["1+1?"]
    uneven = {**generations("1+1?", "2", (solution("2"), True, True)), "is_reasoning_complete": []}
    uneven["correctness_math_verify"] = [True, True]
    with pytest.raises(ValueError, match=r"row 1 of .*further.* is not in the form 'generations' \(ValueError"):
        build(spec(tmp_path, [row], [uneven]), tmp_path / "train.jsonl")


def test_the_limits_are_those_that_training_has(tmp_path: Path) -> None:
    """A demonstration of exactly the limit, end of sequence included, stays, and is what `data.problems` takes."""
    text, template = solution("2"), data.Template.read(MINIATURE)
    size, prompt = (len(TOKENIZER.encode(t, add_special_tokens=False)) for t in (text, template.render("1+1?")))
    given = spec(tmp_path, [chat("1+1?", "2", text)], max_response_tokens=size + 1, max_prompt_tokens=prompt)
    rows, _ = build(given, tmp_path / "train.jsonl")
    assert len(data.problems(rows, TOKENIZER, template, prompt, size + 1)[0].demonstrations[0]) == size + 1
    for limit in ({"max_response_tokens": size}, {"max_prompt_tokens": prompt - 1}):
        with pytest.raises(ValueError, match=r"corpus sums: no problem passes the filters: .*dropped"):
            build({**given, **limit}, tmp_path / "none.jsonl")
        assert not (tmp_path / "none.jsonl").exists()


def test_ids_are_ours_whatever_the_source_calls_its_rows(tmp_path: Path) -> None:
    """Missing and repeated ids put different prompts into one group, as they do in the released code of arXiv:2512.17636."""
    given = spec(tmp_path, [chat(f"{i}+0?", str(i), solution(str(i)), index) for i, index in enumerate((None, None, 3, 3, 4))])
    rows, report = build(given, tmp_path / "train.jsonl")
    assert len({row["id"] for row in rows}) == 5 == len(rows)
    assert report["problems"]["without an id"] == 2 and report["problems"]["sharing an id"] == 2
    other, _ = build(spec(tmp_path, [chat("4+0? ", "4", solution("4"), 9)]), tmp_path / "other.jsonl")
    assert other[0]["id"] == rows[4]["id"]  # the same problem in another corpus


# What the file holds of a demonstration.


@pytest.mark.parametrize(
    ("text", "how", "opened", "expected"),
    [
        ("<think>\nI add.\n</think>\n\n2", "whole", True, "I add.\n</think>\n\n2"),
        ("<think>\nI add.\n</think>\n\n2\n", "whole", False, "<think>\nI add.\n</think>\n\n2"),
        ("I add.\n</think>\n\n2", "whole", True, "I add.\n</think>\n\n2"),
        ("I add. 2", "whole", True, None),
        ("<think>\nI add.", "whole", False, None),
        ("<think>\n\nI add.\n\nTwice.\n</think>\n\n2", "thought", True, "I add.\n\nTwice."),
        ("I add. 2", "thought", True, None),
        ("<think>\nI add.\n</think>\n\n2", "untagged", False, "I add.\n\n2"),
        ("I add. 2", "untagged", False, "I add. 2"),
    ],
)
def test_what_is_kept_of_a_demonstration(text: str, how: str, opened: bool, expected: str | None) -> None:
    assert published.shown(text, how, opened) == expected


@pytest.mark.parametrize("how", ["whole", "thought", "untagged"])
def test_a_thought_that_the_template_opened_is_not_opened_again(tmp_path: Path, how: str) -> None:
    given = spec(tmp_path, [chat("1+1?", "2", solution("2"))], demonstration=how, template=str(THINKING))
    rows, report = build(given, tmp_path / "train.jsonl")
    template = data.Template.read(THINKING)
    whole = template.render(rows[0]["problem"]) + rows[0]["demonstrations"][0]
    assert whole.count("<think>") == 1 and "<think>\nI add." in whole and report["template"] == template.label
    assert ("</think>" in whole) == (how == "whole")
    with Grader() as grader:
        (grade,) = grader.grade([(template.answered(rows[0]["demonstrations"][0]), "2")])
    assert grade.correct == (how == "whole")


# A weak expert, a complement, overlap with the tests.


def weak(count: int) -> tuple[list[dict], list[dict]]:
    """Problems with a right demonstration each; the first `count` have a wrong one and a failed one that is right after all."""
    problems = [chat(f"{i}+0?", str(i), solution(str(i)), i) for i in range(10)]
    further = [
        generations(f"{i}+0?", str(i), (solution(str(i), "late"), False, True), (solution("99"), False, True))
        for i in range(count)
    ]
    return problems, further


def test_a_share_of_the_problems_gets_wrong_demonstrations_first(tmp_path: Path) -> None:
    rows, report = build(spec(tmp_path, *weak(8), wrong=0.5), tmp_path / "train.jsonl")
    wrong = [row for row in rows if "99" in row["demonstrations"][0]]
    assert (
        len(rows) == 10
        and len(wrong) == 5
        and report["wrong demonstrations"] == {"problems": 5, "of them with nothing else": 0}
    )
    assert all(len(row["demonstrations"]) == 2 and f"boxed{{{row['answer']}}}" in row["demonstrations"][1] for row in wrong)
    assert report["demonstrations"]["dropped: failed its publisher's check"] == 8  # right after all, so not wrong
    clean, _ = build(spec(tmp_path, *weak(8)), tmp_path / "clean.jsonl")
    assert [row["id"] for row in clean] == [row["id"] for row in rows]
    assert not any("99" in text for row in clean for text in row["demonstrations"])
    with pytest.raises(ValueError, match=r"asked for in 5 of 10 problems, and 4 have one; lower `wrong` .* to 0\.40 or less"):
        build(spec(tmp_path, *weak(4), wrong=0.5), tmp_path / "few.jsonl")


def test_a_complement_has_none_of_the_other_corpus_problems(tmp_path: Path) -> None:
    other = write(tmp_path / "other.parquet", [chat("1+1?", "2", solution("2")), chat("9+9?", "18", solution("18"))])
    given = spec(tmp_path, [chat("1 + 1?", "2"), chat(" 1+1?", "2"), chat("2+2?", "4")], demonstrations=0)
    given["entry"]["without"] = {"source": str(other), "form": "chat"}
    rows, report = build(given, tmp_path / "train.jsonl")
    assert [row["problem"] for row in rows] == ["1 + 1?", "2+2?"] and all(row["demonstrations"] == [] for row in rows)
    assert report["problems"]["dropped: in the other corpus"] == 1
    assert [one["part"] for one in report["inputs"]] == ["problems", "without"]


@pytest.mark.parametrize("rule", ["report", "drop"])
def test_problems_that_are_tested_are_listed_and_dropped_where_asked(tmp_path: Path, rule: str) -> None:
    story = " ".join(f"w{i}" for i in range(13))
    texts = ["What is 1 + 1?", f"Say {story} now.", "What is 2 + 2?"]
    tested = [{"id": "t-0", "problem": "what is 1+1", "answer": "2"}, {"id": "t-1", "problem": f"{story}?", "answer": "1"}]
    benchmark = write(tmp_path / "quiz.jsonl", [*tested, {"id": "t-2", "problem": "What is 3+3?", "answer": "6"}])
    given = spec(tmp_path, [chat(text, "2", solution("2")) for text in texts], overlap=rule, benchmarks=[str(benchmark)])
    rows, report = build(given, tmp_path / "train.jsonl")
    ids = {text: preparation.problem_id(published.key(text)) for text in texts}
    assert report["overlap"] == {
        "rule": rule,
        "benchmarks": {
            "quiz": {
                "problems": 3,
                "tested, word for word": 1,
                "pairs, word for word": [[ids[texts[0]], "t-0"]],
                "tested, 13 words in a row": 1,
                "pairs, 13 words in a row": [[ids[texts[1]], "t-1"]],
            }
        },
    }
    left = ["What is 2 + 2?"] if rule == "drop" else sorted(texts)
    assert [row["problem"] for row in rows] == left and report["problems"].get("dropped: tested") == (
        2 if rule == "drop" else None
    )
    tokens = tokenised.load(tmp_path / "train.jsonl", TOKENIZER, data.Template.read(MINIATURE), 200, 200)
    assert sorted(problem.id for problem in tokens) == sorted(ids[text] for text in left)


# Digests.


def test_digests_of_everything_are_reported_and_checked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = spec(tmp_path, [chat("1+1?", "2", solution("2"))])
    _, report = build(given, tmp_path / "train.jsonl")
    (read,) = report["inputs"]
    assert report["sha256"] == record.file_sha256(tmp_path / "train.jsonl") and report["size"] == 1 and not report["pinned"]
    assert read["files"] == {"problems.parquet": record.file_sha256(tmp_path / "problems.parquet")} and read["rows"] == 1
    assert f"WARNING: corpus sums, problems: digest not pinned: sha256 {read['sha256']}" in caplog.text
    given["entry"]["problems"] |= {"sha256": read["sha256"], "rows": 1}
    caplog.clear()
    assert build(given, tmp_path / "train.jsonl")[1]["pinned"] and "not pinned" not in caplog.text
    same = write(tmp_path / "same.jsonl", [chat("1+1?", "2", solution("2"), index=8)])
    given["entry"]["problems"]["source"] = str(same)
    assert build(given, tmp_path / "train.jsonl")[1]["pinned"]  # the content, in another kind of file
    for rows, message in (
        ([chat("1+1?", "3", solution("2"))], "has sha256 .*, config/corpora.yaml says .*; get the file"),
        ([chat("1+1?", "2", solution("2"))] * 2, "has rows 2, config/corpora.yaml says 1; get the file it describes, or give"),
    ):
        write(same, rows)
        with pytest.raises(ValueError, match=rf"corpus sums: .*same.jsonl {message}"):
            build(given, tmp_path / "other.jsonl")


def test_the_commit_of_a_file_from_the_hub_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = spec(tmp_path, [chat("1+1?", "2", solution("2"))])
    commit = "c" * 40
    cached = tmp_path / "datasets--someone--sums" / "snapshots" / commit / "problems.parquet"
    cached.parent.mkdir(parents=True)
    Path(given["entry"]["problems"]["source"]).rename(cached)
    given["entry"]["problems"]["hub"] = {"id": "someone/sums", "revision": commit, "file": "problems.parquet"}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    _, report = build(given, tmp_path / "train.jsonl")
    assert report["inputs"][0]["hub"] == "someone/sums" and report["inputs"][0]["commit"] == commit


# Tokens.


@pytest.fixture
def made(tmp_path: Path) -> Path:
    rows = miniature.rows("problems")[:40]
    build(spec(tmp_path, rows, miniature.rows("further")[:40], demonstration="untagged"), tmp_path / "train.jsonl")
    return tmp_path / "train.jsonl"


def test_tokens_are_those_of_the_text(made: Path) -> None:
    template = data.Template.read(MINIATURE)
    found = tokenised.load(made, TOKENIZER, template, 200, 200)
    expected = data.problems(data.read_rows(made), TOKENIZER, template, 200, 200)
    assert isinstance(found, tokenised.Problems) and list(found) == expected and len(found) == len(expected) == 40
    assert all(len(problem.demonstrations) == 2 and all(problem.breaks) for problem in found)
    assert found[-1] == expected[-1] and found[3:5] == expected[3:5]
    with pytest.raises(IndexError):
        found[40]
    tokenised.path_of(made).unlink()
    assert tokenised.load(made, TOKENIZER, template, 200, 200) == expected


def test_tokens_of_something_else_are_refused(made: Path, tmp_path: Path) -> None:
    template = data.Template.read(MINIATURE)

    class Shifted:
        eos_token_id = TOKENIZER.eos_token_id

        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            return [token + 1 for token in TOKENIZER.encode(text, add_special_tokens=add_special_tokens)]

        def decode(self, token_ids: object, skip_special_tokens: bool = False) -> str:
            return ""

    longest = max(
        len(tokens) for problem in tokenised.load(made, TOKENIZER, template, 200, 200) for tokens in problem.demonstrations
    )
    assert tokenised.load(made, TOKENIZER, template, 200, longest)
    for others in ((Shifted(), template), (TOKENIZER, data.Template.read(THINKING))):  # made again, not taken
        again = tokenised.load(made, *others, 200, 200)
        assert isinstance(again, list) and again == data.problems(data.read_rows(made), *others, 200, 200)
    for arguments, message in (
        ((TOKENIZER, template, 200, longest - 1), f"has a response of {longest} tokens, max_response_tokens is {longest - 1}"),
        ((TOKENIZER, template, 10, 200), r"has a prompt of \d+ tokens, max_prompt_tokens is 10"),
    ):
        with pytest.raises(ValueError, match=message):
            tokenised.load(made, *arguments)
    path = tokenised.path_of(made)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"train.tokens.arrow is not whole \(.*\); delete it and build its data file again"):
        tokenised.load(made, TOKENIZER, template, 200, 200)
    path.write_bytes(whole)
    record.write_rows(made, record.read_rows(made)[1:])
    with pytest.raises(ValueError, match=r"train.tokens.arrow was made of another data file than the one beside it"):
        tokenised.load(made, TOKENIZER, template, 200, 200)


def test_training_reads_the_tokens(request: pytest.FixtureRequest, made: Path, tmp_path: Path) -> None:
    """A stage whose data has tokens beside it uses them: it notices that they belong to other data."""
    stage = request.getfixturevalue("spec")  # `spec` above is another
    record.write_rows(made, record.read_rows(made)[1:])
    with pytest.raises(ValueError, match="was made of another data file"):
        Training({**stage, "data": str(made)}, tmp_path / "out", {})


# The miniature in the published forms.


def test_the_miniature_is_the_training_set_again(tmp_path: Path) -> None:
    given = {**spec(tmp_path, []), **corpus.spec_of("miniature_openr1", KNOWN["miniature_openr1"], "nowhere")}
    rows, report = build(given, tmp_path / "train.jsonl")
    known = {row["problem"]: (row["answer"], row["demonstrations"]) for row in training_rows()}
    assert len(rows) == 1990 and report["pinned"] and report["problems"]["read"] == 2020
    assert all((row["answer"], row["demonstrations"]) == known[row["problem"]] for row in rows)
    assert report["problems"]["dropped: copies have different answers"] == 10
    others = {row["prompt"][1]["content"] for row in miniature.rows("complement")}
    assert len(others & known.keys()) == 20 and len(others - known.keys()) == 1000
    with pytest.raises(ValueError, match="no corpus part 'others'; it has problems, further, complement"):
        miniature.rows("others")


def test_the_weak_miniature_differs_in_a_fifth(tmp_path: Path) -> None:
    given = {**spec(tmp_path, []), **corpus.spec_of("miniature_weak", KNOWN["miniature_weak"], "nowhere")}
    rows, report = build(given, tmp_path / "train.jsonl")
    with Grader() as grader:
        grades = [grader.grade([(row["demonstrations"][i], row["answer"]) for row in rows]) for i in (0, 1)]
    assert [sum(grade.status == "wrong" for grade in each) for each in grades] == [398, 398] and len(rows) == 1990
    assert report["wrong demonstrations"] == {"problems": 398, "of them with nothing else": 398}
