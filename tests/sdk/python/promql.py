"""What an expression names: its selectors, and the labels that it groups and matches by.

No parser of the language, which Prometheus has: it splits an expression that Prometheus has accepted into
words, and knows what can stand before a parenthesis or a brace.
"""

import re
from dataclasses import dataclass, field

WORD = re.compile(
    r"""
    \s+
    | (?P<text>"(?:[^"\\]|\\.)*"|'[^']*'|`[^`]*`)
    | (?P<range>\[[^\]]*\])
    | (?P<name>[A-Za-z_:][A-Za-z0-9_:]*)
    | (?P<number>[0-9][0-9A-Za-z.]*)
    | (?P<other>=~|!~|!=|==|>=|<=|[-+*/%^(){},<>=])
    """,
    re.VERBOSE,
)
GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
KEYWORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}


@dataclass
class Selector:
    """A metric and the conditions on its labels: name, operator, value."""

    metric: str
    matchers: list[tuple[str, str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        inner = ",".join(f'{name}{operator}"{value}"' for name, operator, value in self.matchers)
        return f"{self.metric}{{{inner}}}" if inner else self.metric


def words(expression: str) -> list[tuple[str, str]]:
    found, at = [], 0
    while at < len(expression):
        word = WORD.match(expression, at)
        assert word, f"cannot be read from here: {expression[at:]!r}"
        if word.lastgroup:
            found.append((word.lastgroup, word[0]))
        at = word.end()
    return found


def names(expression: str) -> tuple[list[Selector], set[str]]:
    """The selectors of an expression, and the labels that it groups or matches by."""
    selectors, labels = [], set()
    left = words(expression)[::-1]

    def take() -> str:
        return left.pop()[1]

    def ahead() -> str:
        return left[-1][1] if left else ""

    while left:
        kind, word = left.pop()
        if kind != "name" or word.lower() in KEYWORDS:
            continue
        if word in GROUPING:
            if ahead() == "(":
                take()
                while (name := take()) != ")":
                    labels |= {name} - {","}
            continue
        if ahead() == "(" or (ahead() in ("by", "without") and is_call(left)):
            continue  # A function, or an aggregation.
        selector = Selector(word)
        if ahead() == "{":
            take()
            while (name := take()) != "}":
                if name != ",":
                    operator, value = take(), take()
                    selector.matchers.append((name, operator, value[1:-1]))
        selectors.append(selector)
    return selectors, labels


def is_call(left: list[tuple[str, str]]) -> bool:
    """Whether what comes is a list of labels and then what is aggregated."""
    rest = [word for _, word in reversed(left[-40:])]
    end = rest.index(")")
    return rest[end + 1 : end + 2] == ["("]
