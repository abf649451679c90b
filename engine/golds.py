r"""Reads golds and answers and compares what can be compared exactly. No SymPy, no process.

    clean(r"x \in \left[0,\,\dfrac12\right)")  ->  r"x \in [0, \frac12)"          typography taken out
    shape(...)                                 ->  label "x", kind "[)", items 0 and \frac12
    number(r"\frac12")                         ->  Number(Fraction(1, 2))

`decide` returns True, False, or None where a leaf needs algebra; `engine.grade` gives those to math-verify. The
conventions, which are choices and not mathematics:

- A unit, a degree sign or a currency sign may be left out or added; which unit it is, is not checked.
- 28% equals 28 and 0.28 where one side has the percent sign; there is no factor of 100 without one.
- A base subscript may be left out (2516_8 and 2516); two different bases differ.
- x = 5 and x \in S may be shortened to 5 and S; two different names differ.
- A bare list and a set in braces are unordered, round and square brackets are ordered. Where a bare list is asked
  for, round brackets in the same order will do, and the other way round.
- A gold in scientific notation accepts half a unit of its last digit, at most 1 %. Any other decimal is exact, except
  that a decimal may stand for a number without a finite decimal within 1e-6 relative: 0.333333 for 1/3, not 0.333.
- A gold of one capital letter is a choice: C, (C), C. and \text{(C) } 12 are the same answer.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

Verdict = bool | None
Leaf = Callable[[str, str], Verdict]

MAX_READ = 4096  # characters; a longer text is compared as it stands, which bounds every regex and recursion here
MAX_ALGEBRA = 512  # characters that SymPy is shown
MAX_DEPTH = 40  # nested brackets
MAX_POWER = 400  # powers of ten expanded exactly
DECIMAL_TOLERANCE = Fraction(1, 10**6)

TYPOGRAPHY = str.maketrans(
    {"\u2212": "-", "\u2013": "-", "\u00d7": r"\times ", "\u00b7": r"\cdot ", "\u00f7": "/", "\u00b1": r"\pm "}
    | {"\u03c0": r"\pi ", "\u221e": r"\infty ", "\u221a": r"\sqrt ", "\u00b0": r"^\circ ", "\u211d": r"\mathbb{R}"}
    | {"\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\ne ", "\u222a": r"\cup ", "\u2208": r"\in "}
    | {"\u00b2": "^2", "\u00b3": "^3", "\u00bd": r"\frac{1}{2}", "\u20ac": "", "\u00a3": "", "\u00a5": ""}
    | {"\u6216": ",", "\u548c": ",", "\u3001": ",", "\u3002": "."}  # Chinese "or", "and" and punctuation
    | {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full width
)
REWRITES = [
    (re.compile(pattern), new)
    for pattern, new in (
        (r"\\(?:left|right)(?![a-zA-Z])\.?|\\[bB]igg?[lrm]?(?![a-zA-Z])", ""),
        (r"\\(?:displaystyle|textstyle|limits)(?![a-zA-Z])|\\!\s*|\\\$|\$|\\text\s*\{\s*\}", ""),
        (r"\{,\}", ","),
        (r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![a-zA-Z])|\s+", " "),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\([gln]e)(?:q|qslant)(?![a-zA-Z])", r"\\\1"),
        (r"\\varnothing(?![a-zA-Z])", r"\\emptyset"),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"\\(?:mathbf|mathit|boldsymbol|mathsf)\s*\{([^{}]*)\}", r"\1"),
        (r"\\(?:mathrm|mbox|textbf|textrm|textit|textnormal|operatorname)(?=\s*\{)", r"\\text"),
        (r"(?:np|math)\.([a-z]+)\(", r"\\\1("),
        (r"(?<![a-zA-Z\\])(sin|cos|tan|ln|log|exp|sqrt|pi)(?![a-zA-Z])", r"\\\1"),
        (r"\\mathbb\s*(?:\{R\}|R)", r"(-\\infty,\\infty)"),
        (r"(?:,\s*)?(?:\\text\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![a-zA-Z])(?:and|or)(?![a-zA-Z]))|;", ","),
        (r"\\text\s*\{\s*(?:percent|\\?%)\s*\}|\\%", "%"),
        (r"\^\s*\{?\s*\\(?:circ|degree)(?![a-zA-Z])\s*\}?", r"\\deg "),
        (r"(?<=\d)\.(?!\d|\\(?:overline|bar|dot))", ""),  # -3./2, 12.
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\(?:bar|dot)\s*\{?(\d+)\}?", r"\\overline{\1}"),
    )
]
BARE_UNIT = (
    r"(?:square |cubic |sq\.? )?(?:[cmk]m|k?g|mg|ml|ft|mph|percent|in(?:ch(?:es)?)?|feet|miles?"
    r"|(?:kilo|centi|milli)?met(?:er|re)s?|lit(?:er|re)s?|hours?|minutes?|seconds?|days?|weeks?|years?|dollars?|cents?|degrees?"
    r"|units?)(?:\^\{?[23]\}?)?"
)
UNIT = re.compile(rf"^(.*[\d}})a-zA-Z%])\s*\\text\s*\{{([^{{}}]*)\}}\s*(?:\^\s*\{{?-?\d\}}?)?$|^(.*[\d}}])\s*{BARE_UNIT}$")
NOT_UNIT = re.compile(r"\b(?:hundred|thousand|million|billion|dozen|no|not)\b|(?:\S+\s+){3}\S")
LABEL = re.compile(
    r"^((?:\\angle[^=<>]*|\\text\s*\{[^{}]*\}|\\?[A-Za-z]|\\[A-Za-z]+)'*(?:_\s*(?:\{[^{}]*\}|\w))?(?:\([A-Za-z, ]*\))?)"
    r"\s*(?::?=|\\in(?![a-z])|\\approx)\s*(.+)$"
)
RELATION = re.compile(r"[=<>]|\\(?:le|ge|ne|lt|gt)(?![a-zA-Z])")
CHOICE = re.compile(r"^(?:\\text\s*\{\s*)?(?:\(([A-Z])\)|([A-Z])(?=$|\s*[.:}]))[\s.:]*\}?[\s.:]*(.*)$")
MATRIX = re.compile(r"^\\begin\{([pb]?matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\1\}$")


def decide(gold: str, answer: str, leaf: Leaf | None = None) -> Verdict:
    """Compare a gold and an extracted answer as written; `leaf` decides what `exact` cannot."""
    if gold == answer:
        return True
    if re.fullmatch(r"-?\d{1,400}", gold) and re.fullmatch(r"-?\d{1,400}", answer):
        return int(gold) == int(answer)  # most pairs; 20 times faster than reading them
    if max(len(gold), len(answer)) > MAX_READ:
        return None
    gold, answer = clean(gold), clean(answer)
    if squeeze(gold) == squeeze(answer):
        return True
    if max(_depth(gold), _depth(answer)) > MAX_DEPTH:
        return None
    asked, given = CHOICE.match(gold), CHOICE.match(answer)
    if asked and not asked[3]:
        return given is not None and (asked[1] or asked[2]) == (given[1] or given[2])
    if given and given[3]:
        answer = clean(given[3])  # the option's text is the answer where no letter was asked for
    return _compare(shape(gold), shape(answer), leaf or exact)


def guarded(text: str) -> bool:
    """Whether SymPy should not be shown a text: too long, prose, or with numbers in it that nothing can expand."""
    if len(text) > MAX_READ:
        return True
    text = clean(text)
    flat = re.sub(r"\{[^{}^]*\}|\([^()^]*\)", "0", text)  # without innermost groups, so that ^{ ^{ ^ is a tower
    prose = re.findall(r"(?<![\\a-zA-Z])[a-z]{4,}", re.sub(r"\\text\s*\{[^{}]*\}", "", text))
    monster = any(pattern.search(part) for pattern in MONSTERS for part in (text, flat))
    return len(text) > MAX_ALGEBRA or _depth(text) > MAX_DEPTH or len(prose) > 1 or monster


MONSTERS = [
    re.compile(pattern)
    for pattern in (
        r"\^\s*[{(]?\s*[-+(]?\d{5}",  # exponents from 10^4
        r"\d{4,}\s*!|\([^()]*(?:\^|\d{4})[^()]*\)\s*!",  # factorials from 10^3
        r"\\binom\s*\{[^{}]*(?:\^|\d{5})",
        r"\\(?:sum|prod)(?![a-z]).*(?:\d{5}|10\s*\^\s*\{?\d)",
        r"\^\s*[{(][^(){}]*\^\s*[{(][^(){}]*\^|\^\s*\w+\s*\^\s*\w+\s*\^",  # power towers
    )
]


def readable(gold: str, leaf: Callable[[str], Verdict] = lambda text: None) -> Verdict:
    """Whether every part of a gold is a number, words or a letter, or else what `leaf` says of it."""
    text = clean(gold)
    return True if CHOICE.match(text) else _readable(shape(text), leaf)


def _readable(one: "Shape", leaf: Callable[[str], Verdict]) -> Verdict:
    if one.kind == "leaf":
        return True if number(one.text) or words(one.text) else leaf(one.text)
    return _all([_readable(item, leaf) for item in one.items])


@lru_cache(maxsize=4096)
def clean(text: str) -> str:
    """Return LaTeX without the spacing, sizing, currency, units and typography that carry no meaning."""
    text = "".join(c for c in text.translate(TYPOGRAPHY) if c.isprintable() or c.isspace())
    if re.search(r"[0-9A-Za-z]", text):
        text = re.sub(r"[\u3000-\u9fff]+", "", text)  # a Chinese unit after a number; Chinese words alone stay
    for pattern, new in REWRITES:
        text = pattern.sub(new, text)
    if re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", text):
        text = re.sub(r"([\d.]+)\s*\\deg ", r"{(\1 \\pi/180)}", text)
    text = _peel(text.replace(r"\deg ", "").strip().rstrip(".,").strip())
    unit = UNIT.match(text)
    if unit and not NOT_UNIT.search(unit[2] or ""):
        text = unit[1] or unit[3]
    return text.strip()


def _peel(text: str) -> str:
    """Take off brackets that only group: ((7)) is 7, {5} is 5; (1,2), {1,2} and (1)(2) stay. One pass, any depth."""
    for opening, closing in ("()", "{}"):
        pairs = min(len(text) - len(text.lstrip(opening)), len(text) - len(text.rstrip(closing)))
        inner = text[pairs : len(text) - pairs]
        depth = lowest = 0
        for character in inner:
            depth += (character == opening) - (character == closing)
            lowest = min(lowest, depth)
        pairs += lowest - (lowest == 0 and len(_split(inner, ",")) > 1)
        if pairs > 0 and depth == 0:
            text = text[pairs:-pairs].strip()
    return text


def squeeze(text: str) -> str:
    """The text without spaces and needless braces, for comparison; "2 2/3" keeps its space."""
    text = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)
    return re.sub(r"(?<=[\^_])\{(\w)\}(?![\w.])", r"\1", text)


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


# Shapes: lists, sets, brackets, matrices.


@dataclass(frozen=True)
class Shape:
    """How a text is put together. `kind` is leaf, list, set, union, matrix, row, or a bracket pair such as "[)"."""

    kind: str
    text: str  # without the label
    items: tuple["Shape", ...] = ()
    label: str = ""  # what stood before "=" or "\in"
    whole: str = ""  # the text with its label


def shape(text: str) -> Shape:
    """Split a cleaned text. A comma groups thousands only where the whole text is one number: (1,103) has two items."""
    matrix = MATRIX.match(text)
    if matrix:
        rows = [[shape(cell) for cell in _split(row, "&")] for row in matrix[2].split(r"\\") if row.strip()]
        return Shape("matrix", text, tuple(Shape("row", "", tuple(row)) for row in rows))
    if PLAIN.fullmatch(text.lstrip("+-").rstrip("%")):
        return Shape("leaf", text, whole=text)
    parts = [part for part in _split(text, ",") if part]
    if len(parts) > 1:
        return Shape("list", text, _flat(parts, "list"), whole=text)
    label = LABEL.match(text)
    if label:
        right = shape(label[2].rsplit("=", 1)[-1].strip())
        return Shape(right.kind, right.text, right.items, re.sub(r"\s", "", label[1]), text)
    parts = _split(text, r"\\cup(?![a-z])")
    if len(parts) > 1:
        items = _flat(parts, "set")
        return Shape("set" if all(item.kind == "leaf" for item in items) else "union", text, items, whole=text)
    bracketed = _bracketed(text)
    if bracketed or r"\pm" not in text:
        return bracketed or Shape("leaf", text, whole=text)
    signs = [text.replace(r"\pm", plus).replace(r"\mp", minus).strip() for plus, minus in ("+-", "-+")]
    return Shape("list", text, _flat(signs, "list"), whole=text)


def _bracketed(text: str) -> Shape | None:
    bracket = re.match(r"^(\\?\{|\(|\[)(.*?)(\\?\}|\)|\])$", text)
    parts = [part for part in _split(bracket[2], ",") if part] if bracket else []
    if bracket and bracket[1] == "\\{" and not re.search(r"\\mid|[:|]", text):
        return Shape("set", text, _flat(parts, "list"), whole=text)
    if bracket is None or len(parts) < 2:
        return None
    if bracket[1] == "{":  # a set that lost its backslashes
        return Shape("set", text, _flat(parts, "list"), whole=text)
    return Shape(bracket[1] + bracket[3], text, tuple(shape(part) for part in parts), whole=text)


def _flat(parts: list[str], kind: str) -> tuple[Shape, ...]:
    """Shapes of the parts; a part that is itself of this kind gives its items."""
    shapes = [shape(part) for part in parts]
    return tuple(item for one in shapes for item in (one.items if one.kind == kind else (one,)))


def _split(text: str, separator: str) -> list[str]:
    """Split at separators outside every bracket; an unbalanced text is not split."""
    parts, depth, start = [], 0, 0
    for token in re.finditer(rf"[{{}}()\[\]]|{separator}", text):
        depth += (token[0] in "([{") - (token[0] in ")]}")
        if depth < 0:
            return [text]
        if depth == 0 and token[0] not in ")]}":
            parts.append(text[start : token.start()].strip())
            start = token.end()
    return [*parts, text[start:].strip()] if depth == 0 else [text]


def _compare(gold: Shape, answer: Shape, leaf: Leaf) -> Verdict:
    if gold.label != answer.label:
        unnamed = answer if gold.label else gold
        if (gold.label and answer.label) or (unnamed.kind == "leaf" and RELATION.search(unnamed.text)):
            return leaf(*(one.whole if one.kind == "leaf" else one.text for one in (gold, answer)))
    if "leaf" in (gold.kind, answer.kind):
        # only math-verify knows that a relation describes an interval
        single = gold if gold.kind == "leaf" else answer
        return leaf(gold.text, answer.text) if gold.kind == answer.kind or RELATION.search(single.text) else False
    if len(gold.items) != len(answer.items):
        return False
    if {gold.kind, answer.kind} <= {"list", "set", "union"} and _named(gold) == _named(answer):
        return _unordered(gold.items, answer.items, leaf)
    if gold.kind != answer.kind and {gold.kind, answer.kind} not in ({"list", "()"}, {"list", "set"}):
        return False
    return _all([_compare(one, other, leaf) for one, other in zip(gold.items, answer.items, strict=True)])


def _named(one: Shape) -> bool:
    """Whether the items carry different names (x = 1, y = 2), so that an answer without names must keep the order."""
    return len({item.label for item in one.items}) > 1


def _all(verdicts: list[Verdict]) -> Verdict:
    return False if False in verdicts else None if None in verdicts else True


def _unordered(gold: tuple[Shape, ...], answer: tuple[Shape, ...], leaf: Leaf) -> Verdict:
    """Match items one to one; equality is transitive up to rounding, so the first match may be taken."""
    left = list(answer)
    unsure = False
    for item in gold:
        verdicts = [_compare(item, other, leaf) for other in left]
        if True in verdicts:
            del left[verdicts.index(True)]
        elif None not in verdicts:
            return False
        else:
            unsure = True
    return None if unsure else True


# Leaves: numbers and words.


@dataclass(frozen=True)
class Number:
    """An exact number. `slack` is the absolute tolerance that a scientific notation implies, 0 otherwise."""

    value: Fraction
    slack: Fraction = Fraction(0)
    decimal: bool = False
    percent: bool = False
    base: int = 0  # the written subscript; `value` reads the digits as if they were decimal


DECIMAL = r"(?:(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)(?:\.\d+)?|\.\d+)"
POWER = r"(?:\{\s*([-+]?\d{1,4})\s*\}|([-+]?\d{1,4}))"
PLAIN = re.compile(DECIMAL)
BASED = re.compile(r"\(?(\d+)\)?\s*_\s*\{?(\d{1,2})\}?")
REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\s*\{?(\d+)\}?")
FRACTION = re.compile(
    rf"(\d+)?\s*\\frac\s*(?:\{{\s*([-+]?{DECIMAL})\s*\}}|(\d))\s*(?:\{{\s*([-+]?{DECIMAL})\s*\}}|(\d))"
    rf"|(?:(\d+) )?({DECIMAL})\s*/\s*({DECIMAL})"
)
SCIENTIFIC = re.compile(rf"({DECIMAL})\s*(?:[eE]|(?:\\times|\\cdot|\*)\s*10\s*\^)\s*{POWER}|10\s*\^\s*{POWER}")


@lru_cache(maxsize=4096)
def number(text: str) -> Number | None:
    """Read an integer, decimal, fraction, mixed number or scientific notation exactly; None for anything else."""
    text = re.sub(r"^\\text\s*\{([^{}]*)\}$", r"\1", text).strip()
    sign, percent = -1 if text[:1] == "-" else 1, text[-1:] == "%"
    body = text.removeprefix("-").removeprefix("+").rstrip("% ").lstrip()
    if PLAIN.fullmatch(body):
        return Number(sign * _value(body), decimal="." in body, percent=percent)
    if found := BASED.fullmatch(body):
        return Number(sign * _value(found[1]), base=int(found[2]))
    if found := REPEATING.fullmatch(body):
        cycle = Fraction(int(found[3]), 10 ** len(found[2]) * (10 ** len(found[3]) - 1))
        return Number(sign * (_value(f"0{found[1]}.{found[2]}0") + cycle), percent=percent)
    if found := FRACTION.fullmatch(body):
        above, below = _value(found[2] or found[3] or found[7]), _value(found[4] or found[5] or found[8])
        whole = _value(found[1] or found[6] or "0")
        return Number(sign * (whole + above / below), percent=percent) if below else None
    return _scientific(sign, body)


def _value(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", ""))


def _scientific(sign: int, body: str) -> Number | None:
    r"""1.70e4 and 1.70 \times 10^{4} have half a unit of their last digit as slack, here 50; 10^{4} is exact."""
    found = SCIENTIFIC.fullmatch(body)
    exponent = int(found[2] or found[3] or found[4] or found[5]) if found else 0
    if found is None or abs(exponent) > MAX_POWER:
        return None
    power = Fraction(10) ** exponent
    if found[1] is None:
        return Number(sign * power)
    value, places = _value(found[1]) * power, len(found[1].partition(".")[2])
    return Number(sign * value, slack=min(power / 10**places / 2, value / 100), decimal=True)


def exact(gold: str, answer: str) -> Verdict:
    """Decide two leaves without algebra: equal texts, numbers, words, clock times."""
    if squeeze(gold) == squeeze(answer):
        return True
    left, right = number(gold), number(answer)
    if left and right:
        return _same_number(left, right)
    if words(gold) or words(answer):
        said, heard = (words(text) or (text.casefold() if text.isalpha() else None) for text in (gold, answer))
        return said == heard
    return False if all(re.fullmatch(r"[\d:]+", text) for text in (gold, answer)) else None


def words(text: str) -> str | None:
    r"""What \text{...} says, in lower case; None for a text that has anything else in it."""
    spoken = re.fullmatch(r"(?:\\text\s*\{[^{}\d]*[^\W\d_][^{}\d]*\}\s*)+", text)
    return " ".join(re.sub(r"\\text|[{}.]", " ", text).casefold().split()) if spoken else None


def _same_number(gold: Number, answer: Number) -> bool:
    if gold.base and answer.base and gold.base != answer.base:
        return False
    gap = abs(gold.value - answer.value)
    stands_for = (gold.decimal and _endless(answer.value)) or (answer.decimal and _endless(gold.value))
    if gap <= max(gold.slack, DECIMAL_TOLERANCE * abs(gold.value) if stands_for else 0):
        return True
    scaled = gold.value - answer.value * 100 if gold.percent else gold.value * 100 - answer.value
    return gold.percent != answer.percent and scaled == 0


def _endless(value: Fraction) -> bool:
    """Whether a fraction has no finite decimal."""
    below = value.denominator
    for prime in (2, 5):
        while below % prime == 0:
            below //= prime
    return below != 1
