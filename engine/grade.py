r"""Grades completions against gold answers: the last box, exact arithmetic first, math-verify in killable workers.

    with Grader(workers=2) as grader:
        grader.grade([(r"... so \boxed{0.5}.", r"\frac{1}{2}")])     # [Grade(status="correct", extracted="0.5")]

The policy is boxed-only: without a closed, non-empty box there is no answer, whatever else the text says. A verdict
that could not be reached (a guarded monster, a timeout, a text that does not parse) is `undecided`: it earns nothing
and is counted under its own name. `engine.golds` decides numbers, letters, words and how lists are matched, without a
process; only pairs that need algebra reach a worker, which runs `engine.algebra` and alone imports SymPy.
"""

import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Literal, Self

from engine import golds
from engine.shapes import Verdict

Status = Literal["correct", "wrong", "no_answer", "undecided"]
STATUS: dict[Verdict, Status] = {True: "correct", False: "wrong", None: "undecided"}
Pair = tuple[str, str]

REVISION = 1  # raise it with every change that can change a verdict
START_LIMIT = 120.0  # seconds a worker may take to import SymPy, on a busy machine
RECYCLE = 2_000  # pairs per worker; SymPy's caches only grow
CACHE_SIZE = 200_000  # verdicts
WORKER = "import sys; sys.path.insert(0, sys.argv[1]); from engine.algebra import serve; serve(*map(float, sys.argv[2:]))"

BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*(\{|[-+]?\d[\d,./]*)")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
JOINT = re.compile(r"(?:[\s$,]|\\q?quad|\\[,;: ])*(?:,|and|\\text\s*\{\s*,?\s*and\s*\})(?:[\s$]|\\q?quad|\\[,;: ])*")
JOINT_LENGTH = 40  # characters between two boxes that can be one answer


@dataclass(frozen=True)
class Grade:
    """One verdict. `extracted` is the text that was compared, None without an answer."""

    status: Status
    extracted: str | None

    @property
    def correct(self) -> bool:
        return self.status == "correct"


def extract(completion: str) -> str | None:
    r"""Return the content of the last \boxed{} or \fbox{} after the last </think>; None without one.

    Braces are counted. An unclosed last box (a truncated answer), an empty one and an unfinished thought are None.
    Boxes that only a comma or "and" separates are one answer: \boxed{1} and \boxed{2} reads "1, 2". `\boxed 5`
    without braces is accepted for a plain number. Never falls back to a number outside a box.
    """
    text = completion.rsplit("</think>", 1)[-1]
    boxes = [] if "<think>" in text else _boxes(text)
    contents: list[str] = []
    following = len(text)
    for start, inner, end, after in reversed(boxes):
        if contents and not _joined(text, after, following):
            break
        content = BOX.sub(r"\1", text[inner:end]).strip()
        if content not in contents[:1]:
            contents.insert(0, content)
        following = start
    return ", ".join(contents) if contents and contents[-1].strip("{} ") else None


def _boxes(text: str) -> list[tuple[int, int, int, int]]:
    """Positions (start, content, content's end, end) of the outermost boxes; one that never closes is empty."""
    first = BOX.search(text)
    if not first:
        return []
    closing: dict[int, int] = {}
    stack: list[int] = []
    for token in BRACE.finditer(text, first.start()):
        if token[0] == "{":
            stack.append(token.start())
        elif token[0] == "}" and stack:
            closing[stack.pop()] = token.start()
    boxes: list[tuple[int, int, int, int]] = []
    for box in BOX.finditer(text, first.start()):
        if boxes and box.start() < boxes[-1][3]:
            continue  # inside the previous box
        if box[1] != "{":
            boxes.append((box.start(), box.start(1), box.end(), box.end()))
        elif (end := closing.get(box.start(1))) is not None:
            boxes.append((box.start(), box.end(), end, end + 1))
        else:
            boxes.append((box.start(), box.end(), box.end(), box.end()))
    return boxes


def _joined(text: str, start: int, end: int) -> bool:
    return end - start <= JOINT_LENGTH and JOINT.fullmatch(text, start, end) is not None


class Grader:
    """Grades pairs, with a cache of verdicts and up to `workers` processes that start with the first pair needing one.

    `timeout` is wall-clock seconds for one pair, counted from its dispatch; a worker that exceeds it is killed and
    replaced. `memory_gb` is GiB of address space per worker. Safe to call from any thread; calls wait for each other.
    """

    def __init__(self, workers: int = 1, timeout: float = 5.0, memory_gb: float = 4.0) -> None:
        if workers < 1 or timeout <= 0 or memory_gb <= 0:
            raise ValueError(f"{workers=}, {timeout=}, {memory_gb=} must be positive; the defaults are 1, 5.0, 4.0")
        self._count, self._timeout, self._memory = workers, timeout, memory_gb
        self._workers: list[_Worker] = []
        self._cache: dict[Pair, Verdict] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the workers. The grader stays usable: the next pair that needs a worker starts one."""
        with self._lock:
            while self._workers:
                self._workers.pop().kill()

    def grade(self, pairs: Sequence[Pair]) -> list[Grade]:
        """Grade (completion, gold answer) pairs, in order.

        Raises RuntimeError if a worker cannot start at all; once started, a worker that dies costs one `undecided`.
        """
        answers = [extract(completion) for completion, _ in pairs]
        jobs = [(answer, gold) for answer, (_, gold) in zip(answers, pairs, strict=True) if answer is not None]
        with self._lock:
            verdicts = self._verdicts(jobs)
        return [
            Grade("no_answer", None) if answer is None else Grade(STATUS[verdicts.get((answer, gold))], answer)
            for answer, (_, gold) in zip(answers, pairs, strict=True)
        ]

    def unread(self, texts: Sequence[str]) -> list[str]:
        """The golds that can only be compared as text: every other answer to them is wrong or undecided.

        Grading a gold against itself cannot find them, because equal texts are equal before anything is read.
        """
        with self._lock:
            verdicts = self._verdicts([("", text) for text in texts])
        return [text for text in texts if not verdicts.get(("", text))]

    def _verdicts(self, jobs: list[Pair]) -> dict[Pair, Verdict]:
        """Verdicts from here, the cache and the workers. A pair that cost its worker has none: another try may differ."""
        known: dict[Pair, Verdict] = {}
        hard: deque[Pair] = deque()
        for job in dict.fromkeys(jobs):
            if job in self._cache:
                known[job] = self._cache[job]
                continue
            answer, gold = job
            verdict = golds.decide(gold, answer) if answer else golds.readable(gold)
            if verdict is None and not (golds.guarded(answer) or golds.guarded(gold)):
                hard.append(job)
            else:
                known[job] = verdict
        self._run(hard, known)
        if len(self._cache) + len(known) > CACHE_SIZE:
            self._cache.clear()
        self._cache.update(known)
        return known

    def _run(self, jobs: deque[Pair], known: dict[Pair, Verdict]) -> None:
        """Add the verdicts of `jobs` that a worker delivers in time."""
        busy: dict[Connection, tuple[_Worker, Pair, float]] = {}
        idle, self._workers = self._workers, []
        try:
            while jobs or busy:
                while jobs and len(busy) < self._count:
                    worker = idle.pop() if idle else _Worker(self._timeout, self._memory)
                    job = jobs.popleft()
                    worker.send(job)
                    busy[worker.pipe] = (worker, job, time.monotonic() + self._timeout)
                nearest = min(deadline for _, _, deadline in busy.values())
                ready = wait(list(busy), max(0.0, nearest - time.monotonic()))
                for pipe, (worker, job, deadline) in list(busy.items()):
                    if pipe not in ready and time.monotonic() < deadline:
                        continue
                    del busy[pipe]
                    verdict = worker.receive() if pipe in ready else None
                    delivered = pipe in ready and worker.alive
                    if delivered:
                        known[job] = verdict
                    if delivered and worker.served < RECYCLE:
                        idle.append(worker)
                    else:
                        worker.kill()
        finally:
            for worker, _, _ in busy.values():  # only after an exception, KeyboardInterrupt included
                worker.kill()
            self._workers = idle


def grader_version() -> str:
    """Everything that can change a verdict: our revision and four packages (antlr alone moves 2 % of hard cases)."""
    packages = ("math-verify", "latex2sympy2_extended", "sympy", "antlr4-python3-runtime")
    return f"assay-{REVISION} " + " ".join(f"{name}-{version(name)}" for name in packages)


class _Worker:
    """A Python process that imports `engine.algebra` and nothing of the caller's: not torch, not the main script.

    multiprocessing's own spawn would import the caller's main module again, and with it CUDA libraries larger than
    the address-space limit.
    """

    def __init__(self, timeout: float, memory_gb: float) -> None:
        self.pipe, theirs = Pipe()
        arguments = [str(Path(__file__).parents[1]), str(theirs.fileno()), str(timeout), str(memory_gb)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER, *arguments],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},  # SymPy's ordering follows the hashes
            start_new_session=True,  # Ctrl-C reaches the parent only
        )
        theirs.close()
        self.served = 0
        self.alive = True
        if not self.pipe.poll(START_LIMIT) or self.receive() is not True:
            self.kill()
            raise RuntimeError(f"a grading worker did not start within {START_LIMIT:.0f} s; is math-verify installed?")

    def send(self, job: Pair) -> None:
        self.served += 1
        with suppress(OSError):  # it died while idle, which receive() notices
            self.pipe.send(job)

    def receive(self) -> Verdict:
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.alive = False
            return None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.pipe.close()
