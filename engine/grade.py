r"""Grades completions against gold answers: the last box, exact arithmetic first, math-verify in killable workers.

    with Grader(workers=2) as grader:
        grader.grade([(r"... so \boxed{0.5}.", r"\frac{1}{2}")])     # [Grade(status="correct", extracted="0.5")]

The policy is boxed-only: without a closed, non-empty box there is no answer, whatever else the text says. A verdict
that could not be reached (a guarded monster, a timeout, a text that does not parse) is `undecided`: it earns nothing
and is counted under its own name. `engine.golds` decides numbers, letters, words and how lists are matched, without a
process; only pairs that need algebra reach a worker, and only there are SymPy and math-verify imported.
"""

import logging
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any, Literal, Self

from engine import golds
from engine.golds import Verdict

Status = Literal["correct", "wrong", "no_answer", "undecided"]
Pair = tuple[str, str]

REVISION = 1  # raise it with every change that can change a verdict
START_LIMIT = 120.0  # seconds a worker may take to import SymPy, on a busy machine
RECYCLE = 2_000  # pairs per worker; SymPy's caches only grow
CACHE_SIZE = 200_000  # verdicts
WORKER = "import sys; sys.path.insert(0, sys.argv[1]); from engine.grade import serve; serve(*map(float, sys.argv[2:]))"

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
        return [_grade(answer, gold, verdicts) for answer, (_, gold) in zip(answers, pairs, strict=True)]

    def unread(self, texts: Sequence[str]) -> list[str]:
        """The golds that can only be compared as text: every other answer to them is wrong or undecided.

        Grading a gold against itself cannot find them, because equal texts are equal before anything is read.
        """
        with self._lock:
            verdicts = self._verdicts([("", text) for text in texts])
        return [text for text in texts if not verdicts["", text]]

    def _verdicts(self, jobs: list[Pair]) -> dict[Pair, Verdict]:
        known: dict[Pair, Verdict] = {}
        hard: deque[Pair] = deque()
        for job in dict.fromkeys(jobs):
            if job in self._cache:
                known[job] = self._cache[job]
                continue
            known[job] = golds.decide(job[1], job[0]) if job[0] else golds.readable(job[1])
            if known[job] is None and not (golds.guarded(job[0]) or golds.guarded(job[1])):
                hard.append(job)
        self._run(hard, known)
        if len(self._cache) + len(known) > CACHE_SIZE:
            self._cache.clear()
        self._cache.update(known)
        return known

    def _run(self, jobs: deque[Pair], known: dict[Pair, Verdict]) -> None:
        """Fill in the verdicts of `jobs`; what a worker does not deliver in time stays None."""
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
                    known[job] = worker.receive() if pipe in ready else None
                    if pipe in ready and worker.fresh:
                        idle.append(worker)
                    else:
                        worker.kill()
        finally:
            for worker, _, _ in busy.values():  # only after an exception, KeyboardInterrupt included
                worker.kill()
            self._workers = idle


def _grade(answer: str | None, gold: str, verdicts: dict[Pair, Verdict]) -> Grade:
    if answer is None:
        return Grade("no_answer", None)
    verdict = verdicts[answer, gold]
    return Grade("undecided" if verdict is None else "correct" if verdict else "wrong", answer)


def grader_version() -> str:
    """Everything that can change a verdict: our revision and four packages (antlr alone moves 2 % of hard cases)."""
    packages = ("math-verify", "latex2sympy2_extended", "sympy", "antlr4-python3-runtime")
    return f"assay-{REVISION} " + " ".join(f"{name}-{version(name)}" for name in packages)


class _Worker:
    """A Python process that imports this module and nothing of the caller's: not torch, not the main script.

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
        self._served = 0
        self._alive = True
        if not self.pipe.poll(START_LIMIT) or self.receive() is not True:
            self.kill()
            raise RuntimeError(f"a grading worker did not start within {START_LIMIT:.0f} s; is math-verify installed?")

    @property
    def fresh(self) -> bool:
        return self._alive and self._served < RECYCLE

    def send(self, job: Pair) -> None:
        self._served += 1
        try:
            self.pipe.send(job)
        except BrokenPipeError:
            self._alive = False  # it died while idle; receive() reports this pair as undecided

    def receive(self) -> Verdict:
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._alive = False
            return None

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self.pipe.close()


# What follows runs in the worker process only; SymPy and math-verify are imported nowhere else.

# What math-verify and SymPy raise on texts they cannot handle. Anything else ends the worker, which is undecided too.
MISREAD = (
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    LookupError,
    RuntimeError,
    AssertionError,
    MemoryError,
)
GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega"
ACCENTED = r"\\(?:d?dot|bar|hat|tilde|overline|vec)\s*\{\\?[a-zA-Z]+\}|\\hbar|\\ell"
SUBSCRIPT = r"\s*_\s*(?:\{(?:[^{}]|\{[^{}]*\})*\}|\\[a-zA-Z]+|\w)"
NAME = re.compile(
    rf"({ACCENTED}|\\(?:var)?(?i:{GREEK.replace(' ', '|')})(?![a-zA-Z])|(?<!\\)[a-zA-Z])"
    rf"(?:{SUBSCRIPT})?(?:'+|\s*\^\s*\{{?\\prime\s*\}}?)?(?:\(\d+\))?"  # I(0) is a name, n(n+1) a product
    r"|\\text\s*\{[^{}]*\}|\\[a-zA-Z]+"
)
DECIMAL, EXACT = 1e-6, 1e-25  # relative tolerance, where a decimal is written and where none is
ZERO = 1e-60


def serve(pipe_number: float, timeout: float, memory_gb: float) -> None:
    """Answer (answer, gold) pairs until the other end closes. An empty answer asks whether the gold can be read."""
    import math_verify  # the slow part, before the first deadline

    logging.getLogger(math_verify.__name__).setLevel(logging.ERROR)  # it warns that its timeouts are off, as intended
    limit = int(memory_gb * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    pipe = Connection(int(pipe_number))
    pipe.send(True)
    while True:
        try:
            answer, gold = pipe.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, timeout + 5)  # no handler: ends an orphan even inside a long C call
        pipe.send(golds.decide(gold, answer, algebra) if answer else golds.readable(gold, _parses))
        signal.setitimer(signal.ITIMER_REAL, 0)


def algebra(gold: str, answer: str) -> Verdict:
    """Compare two leaves: expressions and equations by value, the rest by math-verify. None: not understood."""
    verdict = golds.exact(gold, answer)
    if verdict is not None:
        return verdict
    try:
        left, right = (_parse(text) for text in _rename(gold, answer))
        return None if left is None or right is None else _same(left, right, gold, answer)
    except MISREAD:
        return None


def _parses(text: str) -> bool:
    try:
        return _parse(_rename(text, "")[0]) is not None
    except MISREAD:
        return False


def _rename(gold: str, answer: str) -> tuple[str, str]:
    r"""Write every variable as x_{k}, the same k for the same name in both texts.

    latex2sympy lowers symbols (N/2 becomes n/2), reads E, I and \gamma as constants, and rejects \hbar, E_{1} and
    m_{\max}. Bare e and i stay constants, i outside sums only; an integral keeps its names for the sake of dx.
    """
    if r"\int" in gold + answer:
        return gold, answer
    constants = {"e"} if re.search(r"\\(?:sum|prod)(?![a-z])", gold + answer) else {"e", "i"}
    names: dict[str, str] = {}

    def new(match: re.Match[str]) -> str:
        name = re.sub(r"[\s{}^]", "", match[0].replace(r"\prime", "'"))
        return match[0] if match[1] is None or name in constants else names.setdefault(name, f"{{x_{{{len(names)}}}}}")

    return NAME.sub(new, gold), NAME.sub(new, answer)


def _parse(text: str) -> Any:
    """The SymPy object math-verify reads in a leaf, or None if it could not read all of it."""
    from math_verify import LatexExtractionConfig, parse
    from math_verify.parser import NormalizationConfig
    from sympy import I, Rational

    written = golds.number(text)
    if written:
        return Rational(written.value.numerator, written.value.denominator) / (100 if written.percent else 1)
    # units=False: its list of units has single letters in it, and golds.clean has removed the others
    normal = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="last")
    text = re.sub(r"(?<!\\sqrt)\[([^\[\],]*)\]", r"(\1)", text)  # square brackets that only group
    found = parse(
        rf"\boxed{{{text}}}",
        [LatexExtractionConfig(boxed_match_priority=0, normalization_config=normal)],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=0,  # turns its signal.alarm off
        raise_on_error=True,
    )
    symbols = {re.sub("[{}]", "", str(symbol)): symbol for symbol in _symbols(found[0])} if found else {}
    if not found or not {f"x_{k}" for k in re.findall(r"x_\{(\d+)\}", text)} <= symbols.keys():
        return None  # a part was dropped, as when a formula is read as the 2 inside it
    return found[0].xreplace({symbols["i"]: I}) if "i" in symbols else found[0]


def _symbols(value: Any) -> set[Any]:
    from sympy import Symbol

    return value.atoms(Symbol)


def _same(left: Any, right: Any, gold: str, answer: str) -> Verdict:
    from math_verify import verify
    from sympy import Eq, solve

    kinds = {_kind(left), _kind(right)}
    verdict: Verdict = None
    if kinds == {"expression"}:
        written = golds.number(gold)
        tolerance = DECIMAL if re.search(r"\.\d", gold + answer) else EXACT
        verdict = _same_value(left, right, tolerance, float(written.slack) if written else 0.0)
    elif len(kinds) > 1 and kinds != {"set", "relation"}:
        return False
    elif isinstance(left, Eq) and isinstance(right, Eq):
        if _proportional(_difference(left), _difference(right)):
            return True
        if not solve(left, left.free_symbols):
            return None  # math-verify 0.9.0 holds any two equations without real solutions to be the same
    if verdict is None:
        verdict = verify(left, right, allow_set_relation_comp=True, timeout_seconds=0, raise_on_error=True)
    return verdict


def _difference(equation: Any) -> Any:
    return equation.lhs - equation.rhs


def _proportional(left: Any, right: Any) -> bool:
    """Whether one is a constant times the other, so that setting each to zero says the same."""
    names, *points = _grid(left + right, whole=False)
    for point in points:
        ratio = (left / right).xreplace(dict(zip(names, point, strict=True))).evalf(40)
        if names and ratio.is_finite and not ratio.is_zero:
            return bool(_same_value(left, ratio * right, EXACT, 0.0))
    return False


def _kind(value: Any) -> str:
    from sympy import Expr, MatrixBase, Set, Tuple
    from sympy.logic.boolalg import Boolean

    kinds = {Expr: "expression", Set: "set", Tuple: "set", MatrixBase: "matrix", Boolean: "relation"}
    return next((name for cls, name in kinds.items() if isinstance(value, cls)), type(value).__name__)


def _same_value(left: Any, right: Any, tolerance: float, slack: float) -> Verdict:
    r"""Compare two expressions at fixed points; None where too few points can be evaluated.

    math-verify subtracts and drops what is small, so 2^{-99} equals 2^{-98} (its issue 14), and its simplify does not
    see that \sqrt{1/n} is 1/\sqrt{n} (issue 64). A point counts where both sides are real, unless i occurs: |x| and x
    differ at -1, while ln(a/b) and ln a - ln b are compared where both exist.
    """
    from sympy import Abs, I, Product, Sum, Tuple, binomial, ceiling, factorial, floor, gamma

    both = Tuple(left, right)
    names, *points = _grid(both, both.has(Sum, Product, binomial, factorial, gamma, floor, ceiling))
    agreed = 0
    for point in points:
        at = dict(zip(names, point, strict=True))
        one, two = (side.xreplace(at).evalf(40) for side in (left, right))
        if not all(v.is_number and v.is_finite and (v.is_real or not names or both.has(I)) for v in (one, two)):
            continue
        gap, size = Abs(one - two).evalf(40), max(Abs(one).evalf(40), Abs(two).evalf(40))
        if gap > max(tolerance * size, slack, ZERO):
            return False
        agreed += 1
    if agreed and not names and tolerance == EXACT and not slack:
        first, second = left.doit(), right.doit()  # 2^{2005} + 1 and 2^{2005} agree in every digit looked at
        return bool(first == second) if first.is_Rational and second.is_Rational else True
    return True if agreed >= (3 if names else 1) else None


def _grid(value: Any, whole: bool) -> list[list[Any]]:
    """The free symbols of a value, then eight points of natural numbers and, unless `whole`, eight of fractions."""
    from sympy import Integer, Rational

    names = sorted(value.free_symbols, key=str)
    if not names:
        return [[], []]
    count = range(len(names))
    naturals = [[Integer(2 + (5 * step * (k + 1) + 3 * k) % 13) for k in count] for step in range(8)]
    signs = (1, 1, 1, -1, -1, -1, 1, -1)
    fractions = [[Rational(s * (7 * k + 4 * step + 3), 11) for k in count] for step, s in enumerate(signs)]
    return [names, *naturals] if whole else [names, *naturals, *fractions]
