r"""Reads golds and answers without SymPy: clean LaTeX, split lists and brackets, compare exact values.

An answer is read in three layers, each a plain function on text:

    clean("x \in \left[0,\,\dfrac12\right)")  ->  "x \in [0, \frac12)"
    shape(...)                                ->  label "x", brackets "[)", items "0" and "\frac12"
    number("\frac12")                         ->  Number(Fraction(1, 2))

`compare` walks two shapes and returns True, False, or None where only algebra can decide; `engine.grade` sends
those to math-verify. Whatever is a convention rather than mathematics is listed in CONVENTIONS.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

CONVENTIONS = (
    "a unit, a degree sign or a currency sign may be left out; the unit itself is not checked",
    "28% equals 28 and 0.28 where one side has the percent sign; never a factor of 100 without it",
    "a base subscript may be left out (2516_8 and 2516), but two different bases differ",
    "x = 5 and x \\in S may be shortened to 5 and S; two different names on the left differ",
    "a bare list and a set in braces are unordered; anything in round or square brackets is ordered",
    "a bare list may be given in round brackets, in the gold's order",
    "a gold in scientific notation accepts half a unit of its last digit, at most 1 %; other decimals are exact",
    "a decimal stands for a repeating fraction or an irrational number within 1e-6 relative",
    "a single capital letter is a choice: C, (C), C. with or without the option's text",
)

Verdict = bool | None
Leaf = Callable[[str, str], Verdict]

MAX_READ = 4096  # characters; a longer answer is compared as text only, which bounds every regex and recursion below
MAX_DEPTH = 40  # nested brackets
MAX_SYMPY = 512  # characters that SymPy is shown
HUGE = re.compile(r"\^\s*\{?\s*\(?-?\d{5}|\d{4,}\s*!|\([^()]*(?:\^|\d{4})[^()]*\)\s*!|\\binom\s*\{[^{}]*(?:\^|\d{5})")
MAX_DIGITS = 400  # of a power of ten that is expanded exactly
DECIMAL_TOLERANCE = Fraction(1, 10**6)  # relative, for a decimal that stands for a number with no finite decimal

FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " ", 0x3001: ",", 0x3002: "."}
UNICODE = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt "}
    | {"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∪": r"\cup ", "∈": r"\in ", "ℝ": r"\mathbb{R}"}
    | {"°": r"^\circ ", "²": "^2", "³": "^3", "½": r"\frac{1}{2}", "或": ",", "和": ",", "€": "", "£": "", "¥": ""}
    | FULL_WIDTH
)
BARE_UNIT = (
    r"(?:square|cubic|sq\.?)?\s*(?:[cmk]m|k?g|mg|ml|ft|mph|hrs?|mins?|secs?|in(?:ch(?:es)?)?|feet|foot|(?:kilo|centi|milli)?met(?:er|re)s?"
    r"|kilograms?|grams?|miles?|yards?|lit(?:er|re)s?|gallons?|pounds?|hours?|minutes?|seconds?|days?|weeks?|months?"
    r"|years?|dollars?|cents?|degrees?|radians?|units?|percent(?:age)?)(?:\s*\^\s*\{?[23]\}?)?"
)
REWRITES = [
    (re.compile(pattern), new)
    for pattern, new in (
        (r"\\left(?![a-zA-Z])\.?|\\right(?![a-zA-Z])\.?|\\[bB]igg?[lrm]?(?![a-zA-Z])", ""),
        (r"\\(?:displaystyle|textstyle|limits|nolimits)(?![a-zA-Z])|\\!\s*|\\\$|\$|\{,\}(?!\d)", ""),
        (r"\{,\}", ","),
        (r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![a-zA-Z])|\\hspace\{[^{}]*\}|\s+", " "),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:geqslant|geq)(?![a-zA-Z])", r"\\ge"),
        (r"\\(?:leqslant|leq)(?![a-zA-Z])", r"\\le"),
        (r"\\neq(?![a-zA-Z])", r"\\ne"),
        (r"\\(?:lbrace|lbrack)(?![a-zA-Z])", r"\\{"),
        (r"\\(?:rbrace|rbrack)(?![a-zA-Z])", r"\\}"),
        (r"\\(?:mathbf|mathit|boldsymbol|mathsf|bm|vec)\s*\{([^{}]*)\}", r"\1"),
        (r"\\(?:mathrm|mbox|textbf|textrm|textit|textnormal|hbox|operatorname)(?=\s*\{)", r"\\text"),
        (r"(?:np|numpy|math)\.([a-z]+)\(", r"\\\1("),
        (r"\\mathbb\{R\}|\\mathbb R|\\R(?![a-zA-Z])", r"(-\\infty,\\infty)"),
        (r"(?:,\s*)?\\text\s*\{\s*,?\s*(?:and|or)\s*\}|(?:,\s*)?(?<![a-zA-Z])(?:and|or)(?![a-zA-Z])|;", ","),
        (r"\\text\s*\{\s*(?:percent|%|\\%)\s*\}|\\%|(?<=\d)\s*percent(?![a-z])", "%"),
        (r"(?<=\d)\s*\^\s*\{?\s*\\(?:circ|degree)\s*\}?", r"\\deg "),
        (r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?", ""),
        (r"(?<=\d)\.(?!\d|\\(?:overline|bar|dot))", ""),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\dot\s*\{(\d)\}", r"\\overline{\1}"),
    )
]
CJK = re.compile(r"[\u3000-\u9fff]+")
UNIT = re.compile(
    rf"^(.*[\d}})a-zA-Z%])\s*\\text\s*\{{([^{{}}]*)\}}\s*(?:\^\s*\{{?-?\d\}}?)?$|^(.*[\d}}])\s*{BARE_UNIT}$"
)
SCALE_WORD = re.compile(r"(?:hundred|thousand|million|billion|dozen|not|no)\b")
LABEL = re.compile(
    r"^((?:\\angle[^=<>]*|\\text\s*\{[^{}]*\}|\\?[A-Za-z]|\\[A-Za-z]+)'*(?:_\s*(?:\{[^{}]*\}|\w))?(?:\([A-Za-z, ]*\))?)"
    r"\s*(?::?=|\\in(?![a-z])|\\approx)\s*(.+)$"
)
RELATION = re.compile(r"[=<>]|\\(?:le|ge|ne|lt|gt)(?![a-zA-Z])")
OPTION = re.compile(r"^(?:\\text\s*\{\s*)?\(?([A-Z])(?:\)\s*\}?|\s*[.:]\s*\}?|\s*\}\s*[).:]?)\s*(.*)$|^\(?([A-Z])\)?$")
MATRIX = re.compile(r"^\\begin\{([pb]?)matrix\}(.*)\\end\{\1matrix\}$|^\\begin\{array\}\{[^}]*\}(.*)\\end\{array\}$")
WORDS = re.compile(r"^(?:\\text\s*\{\s*([^{}\d]*[a-z]{2}[^{}\d]*?)\s*\}\s*)+$|^([A-Za-z]{4,}(?: [A-Za-z]{2,})*)$")


@lru_cache(maxsize=4096)
def clean(text: str) -> str:
    """Return LaTeX with spacing, sizing, currency, units and typography that carry no meaning taken out."""
    text = "".join(c for c in text.translate(UNICODE) if c.isprintable() or c.isspace())
    if re.search(r"[0-9A-Za-z]", text):
        text = CJK.sub("", text)  # 12个 -> 12; a text of Chinese words alone is left as it is
    text = text.replace("\\text{}", "")
    for pattern, new in REWRITES:
        text = pattern.sub(new, text)
    trigonometry = re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", text)
    text = re.sub(r"(\d+)\\deg ", r"{(\1 \\pi/180)}", text) if trigonometry else text.replace(r"\deg ", "")
    text = _peel(text.strip().rstrip(".,").strip())
    unit = UNIT.match(text)
    if unit and not SCALE_WORD.search(unit[2] or "") and len((unit[2] or "").split()) <= 3:
        text = unit[1] or unit[3]
    return text.strip()


def _peel(text: str) -> str:
    """Take off brackets that only group: ((7)) -> 7, {5} -> 5; (1,2), (1)(2) and {1,2} stay."""
    for opening, closing in (("(", ")"), ("{", "}")):
        pairs = min(len(text) - len(text.lstrip(opening)), len(text) - len(text.rstrip(closing)))
        if pairs:
            inner = text[pairs:-pairs]
            depth = lowest = 0
            for character in inner:
                depth += (character == opening) - (character == closing)
                lowest = min(lowest, depth)
            pairs += lowest - (depth == 0 and lowest == 0 and len(_split(inner, ",")) > 1)
            if pairs > 0 and depth == 0:
                text = text[pairs:-pairs].strip()
    return text


def _split(text: str, separator: str) -> list[str]:
    """Split at separators outside every bracket; an unbalanced text is not split."""
    parts, depth, start = [], 0, 0
    for token in re.finditer(rf"\\?[{{}}]|[()\[\]]|{separator}", text):
        if token[0][-1] in "([{":
            depth += 1
        elif token[0][-1] in ")]}":
            depth -= 1
        elif depth == 0:
            parts.append(text[start : token.start()].strip())
            start = token.end()
        if depth < 0:
            return [text]
    return [*parts, text[start:].strip()] if depth == 0 else [text]


@dataclass(frozen=True)
class Shape:
    """How a text is put together. `kind` is leaf, list, set, union, matrix, row, or a bracket pair such as "[)"."""

    kind: str
    text: str
    items: tuple["Shape", ...] = ()
    label: str = ""  # what stood before "=" or "\in"; `text` is then the right-hand side
    whole: str = ""  # the text with its label


def shape(text: str, top: bool = True) -> Shape:
    """Split a cleaned text. Inside brackets (`top` False) a comma never groups thousands: (1,103) has two items."""
    matrix = MATRIX.match(text)
    if matrix:
        rows = [_split(row, "&") for row in re.split(r"\\\\", matrix[2] or matrix[3] or "") if row.strip()]
        items = tuple(Shape("row", "", tuple(shape(cell, False) for cell in row)) for row in rows)
        return Shape("matrix", text, items, whole=text)
    if top and re.fullmatch(r"[-+]?\d{1,3}(?:, ?\d{3})+(?:\.\d+)?%?", text) and ", " not in text:
        return Shape("leaf", text, whole=text)
    parts = [part for part in _split(text, ",") if part]
    if len(parts) > 1:
        return Shape("list", text, _flat(parts, ("list",)), whole=text)
    label = LABEL.match(text)
    if label:
        right = shape(label[2].rsplit("=", 1)[-1].strip(), top)
        return Shape(right.kind, right.text, right.items, re.sub(r"\s", "", label[1]), text)
    parts = _split(text, r"\\cup(?![a-z])")
    if len(parts) > 1:
        items = _flat(parts, ("set",))
        kind = "union" if any(item.kind != "leaf" for item in items) else "set"
        return Shape(kind, text, items, whole=text)
    bracket = re.match(r"^(\\?\{|\(|\[)(.*?)(\\?\}|\)|\])$", text)
    if bracket and len(_split(text[1:-1] if "\\" not in bracket[1] else bracket[2], ",")) > 1 or _is_set(text):
        assert bracket
        parts = [part for part in _split(bracket[2], ",") if part]
        if bracket[1].endswith("{"):
            return Shape("set", text, _flat(parts, ("list",)), whole=text)
        return Shape(bracket[1] + bracket[3], text, tuple(shape(part, False) for part in parts), whole=text)
    if r"\pm" in text:
        signs = [text.replace(r"\pm", a).replace(r"\mp", b) for a, b in (("+", "-"), ("-", "+"))]
        return Shape("list", text, tuple(shape(sign.strip(), False) for sign in signs), whole=text)
    return Shape("leaf", text, whole=text)


def _is_set(text: str) -> bool:
    return text.startswith("\\{") and text.endswith("\\}") and not re.search(r"\\mid|:|\|", text)


def _flat(parts: list[str], kinds: tuple[str, ...]) -> tuple[Shape, ...]:
    """Shapes of the parts, with parts that are themselves of these kinds replaced by their items."""
    shapes = [shape(part, False) for part in parts]
    return tuple(item for one in shapes for item in (one.items if one.kind in kinds else (one,)))


@dataclass(frozen=True)
class Number:
    """An exact number. `slack` is the absolute tolerance its scientific notation implies, 0 otherwise."""

    value: Fraction
    slack: Fraction = Fraction(0)
    decimal: bool = False
    percent: bool = False
    base: int = 0  # written subscript; `value` then reads the digits as if they were decimal


DIGITS = r"(?:\d{1,3}(?:[, ]\d{3})+(?!\d)|\d+)"
DECIMAL = rf"(?:{DIGITS}(?:\.\d+)?|\.\d+)"
PLAIN = re.compile(rf"({DECIMAL})")
REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar)\s*\{?(\d+)\}?")
BASED = re.compile(r"\(?(\d+)\)?\s*_\s*\{?(\d{1,2})\}?")
FRACTION = re.compile(
    rf"(\d+)?\s*\\frac\s*(?:\{{\s*([-+]?{DECIMAL})\s*\}}|(\d))\s*(?:\{{\s*([-+]?{DECIMAL})\s*\}}|(\d))"
    rf"|(?:(\d+) )?([-+]?{DECIMAL})\s*/\s*([-+]?{DECIMAL})"
)
SCIENTIFIC = re.compile(
    rf"(?:({DECIMAL})\s*(?:[eE]|(?:\\times|\\cdot|\*)\s*10\s*\^))\s*(?:\{{\s*([-+]?\d{{1,4}})\s*\}}|([-+]?\d{{1,4}}))"
    r"|10\s*\^\s*(?:\{\s*([-+]?\d{1,4})\s*\}|([-+]?\d{1,4}))"
)


@lru_cache(maxsize=4096)
def number(text: str) -> Number | None:
    """Read an integer, decimal, fraction, mixed number or scientific notation exactly; None for anything else."""
    text = re.sub(r"^\\text\s*\{([^{}]*)\}$", r"\1", text).strip()
    percent = text.endswith("%")
    text = text.rstrip("% ")
    sign = -1 if text.startswith("-") else 1
    body = text[1:].lstrip() if text[:1] in ("-", "+") else text
    if PLAIN.fullmatch(body):
        return Number(sign * _decimal(body), decimal="." in body, percent=percent)
    found = BASED.fullmatch(body)
    if found:
        return Number(sign * Fraction(found[1]), base=int(found[2]))
    found = REPEATING.fullmatch(body)
    if found:
        whole, head, cycle = found[1] or "0", found[2], found[3]
        repeated = Fraction(int(cycle), 10 ** len(head) * (10 ** len(cycle) - 1))
        return Number(sign * (_decimal(f"{whole}.{head}0") + repeated), percent=percent)
    found = FRACTION.fullmatch(body)
    if found:
        below = _decimal(found[4] or found[5] or found[8])
        whole = Fraction(found[1] or found[6] or 0)
        return (
            Number(sign * (whole + _decimal(found[2] or found[3] or found[7]) / below), percent=percent)
            if below
            else None
        )
    return _scientific(sign, body)


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", ""))


def _scientific(sign: int, body: str) -> Number | None:
    r"""1.70e4 and 1.70 \times 10^{4}: half a unit of the last digit, 50 here, at most 1 %; 10^{4} alone is exact."""
    found = SCIENTIFIC.fullmatch(body)
    exponent = int(found[2] or found[3] or found[4] or found[5]) if found else 0
    if not found or abs(exponent) > MAX_DIGITS:
        return None
    power = Fraction(10) ** exponent
    if found[1] is None:
        return Number(sign * power)
    value = _decimal(found[1]) * power
    places = len(found[1].partition(".")[2])
    return Number(sign * value, slack=min(power / 10**places / 2, value / 100), decimal=True)


def same_number(gold: Number, answer: Number) -> bool:
    """Whether two numbers are equal under CONVENTIONS."""
    if gold.base and answer.base and gold.base != answer.base:
        return False
    if close(gold.value, answer.value, gold, answer):
        return True
    if gold.percent == answer.percent:
        return False
    return gold.value == answer.value * 100 if gold.percent else gold.value * 100 == answer.value


def close(gold: Fraction, answer: Fraction, left: Number, right: Number) -> bool:
    """Equal, within the gold's slack, or one a decimal that rounds the other's endless expansion."""
    gap = abs(gold - answer)
    if gap <= left.slack:
        return True
    rounds = (left.decimal and _endless(answer)) or (right.decimal and _endless(gold))
    return rounds and gap <= DECIMAL_TOLERANCE * max(abs(gold), abs(answer))


def _endless(value: Fraction) -> bool:
    below = value.denominator
    for prime in (2, 5):
        while below % prime == 0:
            below //= prime
    return below != 1


def words(text: str) -> str | None:
    r"""The words of \text{...} or of a bare word of four letters and more, in lower case; None for mathematics."""
    found = WORDS.match(text)
    return " ".join(re.sub(r"\\text\s*|[{}.]", " ", text).casefold().split()) if found else None


def exact(gold: str, answer: str) -> Verdict:
    """Decide two cleaned leaf texts without algebra: equal texts, numbers, words, clock times."""
    if squeeze(gold) == squeeze(answer):
        return True
    left, right = number(gold), number(answer)
    if left and right:
        return same_number(left, right)
    said, heard = words(gold), words(answer)
    if said or heard:
        plain = re.fullmatch(r"[A-Za-z ]+", gold + answer)
        return True if said == heard else (None if plain else False)
    if left and re.fullmatch(r"\d+:\d+", answer) and not re.fullmatch(r"\d+:0+", answer):
        return left.value == Fraction(answer.replace(":", "/"))
    both_ratios = re.fullmatch(r"[\d:]+", gold) and re.fullmatch(r"[\d:]+", answer)
    return False if both_ratios else None


def squeeze(text: str) -> str:
    """The text without spaces and needless braces, for comparison; "2 2/3" keeps its space."""
    text = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)
    return re.sub(r"(?<=[\^_])\{(\w)\}(?![\w.])", r"\1", text)


def decide(gold: str, answer: str, leaf: Leaf = exact) -> Verdict:
    """Compare a gold and an extracted answer as they were written."""
    if re.fullmatch(r"-?\d{1,400}", gold) and re.fullmatch(r"-?\d{1,400}", answer):
        return int(gold) == int(answer)  # most pairs, and 20 times faster than reading them
    if gold == answer:
        return True
    if (
        len(answer) > MAX_READ
        or len(gold) > MAX_READ
        or _depth(clean(gold)) > MAX_DEPTH
        or _depth(clean(answer)) > MAX_DEPTH
    ):
        return None
    return compare(clean(gold), clean(answer), leaf)


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


def guarded(text: str) -> bool:
    """Whether SymPy should not be shown a text: too long, prose, or with numbers beyond evaluation in it."""
    if len(text) > MAX_READ:
        return True
    text = clean(text)
    bare = re.sub(r"\\[a-zA-Z]+|\\text\s*\{[^{}]*\}", " ", text)
    return (
        len(text) > MAX_SYMPY
        or _depth(text) > MAX_DEPTH
        or len(re.findall(r"[a-zA-Z]{4,}", bare)) > 1
        or bool(HUGE.search(text))
        or (bool(re.search(r"\\(?:sum|prod|int)(?![a-z])", text)) and bool(re.search(r"\d{5}|10\s*\^\s*\{?\d", text)))
        or len(re.findall(r"\^", text)) > 2
        and bool(re.search(r"\^[^+=,]*?\^[^+=,]*?\^", re.sub(r"\{[^{}^]*\}|\([^()^]*\)", "", text)))
    )


def readable(gold: str, parses: Callable[[str], bool]) -> bool:
    """Whether every leaf of a gold is a number, a word, a letter or a text that `parses`."""
    text = clean(gold)
    if choice(text) or words(text):
        return True
    return all(bool(number(leaf) or words(leaf)) or parses(leaf) for leaf in _leaves(shape(text)))


def _leaves(one: Shape) -> list[str]:
    return [leaf for item in one.items for leaf in _leaves(item)] if one.kind != "leaf" else [one.text]


def compare(gold: str, answer: str, leaf: Leaf = exact) -> Verdict:
    """Compare two cleaned texts; `leaf` decides two parts that cannot be split further."""
    if squeeze(gold) == squeeze(answer):
        return True
    if re.fullmatch(r"[A-Z]|\\text\s*\{\s*\(?[A-Z]\)?\s*\}|\([A-Z]\)", gold):
        return choice(gold) == choice(answer)
    option = re.match(r"^(?:\\text\s*\{\s*)?\([A-Z]\)\s*\}?\s*(.+)$", answer)
    return _compare(shape(gold), shape(clean(option[1]) if option else answer), leaf)


def choice(text: str) -> str | None:
    r"""The letter of a multiple-choice answer: C, (C), \text{(C) } 12, C. 12; None when the text is none."""
    found = OPTION.match(text)
    return (found[1] or found[3]) if found else None


def _compare(gold: Shape, answer: Shape, leaf: Leaf) -> Verdict:
    if gold.label != answer.label:
        both_named = gold.label and answer.label
        unnamed = answer if gold.label else gold
        if both_named or (unnamed.kind == "leaf" and RELATION.search(unnamed.text)):
            return leaf(gold.whole, answer.whole)
    if gold.kind == answer.kind == "leaf":
        return leaf(gold.text, answer.text)
    if "leaf" in (gold.kind, answer.kind):
        single = gold if gold.kind == "leaf" else answer
        return leaf(gold.text, answer.text) if RELATION.search(single.text) else False
    if len(gold.items) != len(answer.items):
        return False
    loose = {"list", "set", "union"}
    if gold.kind in loose and answer.kind in loose and _named(gold) == _named(answer):
        return _unordered(gold.items, answer.items, leaf)
    kinds = {gold.kind, answer.kind}
    if len(kinds) > 1 and kinds not in ({"list", "()"}, {"list", "set"}):
        return False
    return _all([_compare(one, other, leaf) for one, other in zip(gold.items, answer.items, strict=True)])


def _named(one: Shape) -> bool:
    """Whether the items carry different names (x = 1, y = 2), so that an answer without names must keep the order."""
    return len({item.label for item in one.items}) > 1


def _all(verdicts: list[Verdict]) -> Verdict:
    return False if False in verdicts else (None if None in verdicts else True)


def _unordered(gold: tuple[Shape, ...], answer: tuple[Shape, ...], leaf: Leaf) -> Verdict:
    """Match items one to one. Equality is transitive up to rounding, so the first match may be taken."""
    left = list(answer)
    unsure = False
    for item in gold:
        verdicts = [_compare(item, other, leaf) for other in left]
        if True in verdicts:
            del left[verdicts.index(True)]
        elif None in verdicts:
            unsure = True
        else:
            return False
    return None if unsure else True
