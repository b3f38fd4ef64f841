"""Can a match be carried out, and can it ever win? What a gateway would refuse or never reach is told beforehand.

Regular expressions are RE2's in the gateway, which takes no lookaround and no backreference. Taken here is what RE2 and
Python's `re` understand alike, so that an expression is judged where no RE2 is.
"""

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from slipway.api.traffic import Match, Variant

SIZE_MAX, REPEATS_MAX, EXPRESSIONS_MAX = 100, 32, 8
"""Of an expression: the program that RE2 makes of it, and one counted repetition; of a service: its expressions. A
gateway's worker serves nobody else while it matches, at worst this size times the value's length for each of them."""
_TOKEN = re.compile(
    r"""\\(?:[dDsSwWbBAaftnrv]|x[0-9A-Fa-f]{2}|[^\w\s])  # an escape that means the same to both
    |\(\?(?::|P<\w+>|[ims]+[:)])                          # a group, flags
    |\(\?[^)]{0,8}(?P<group>)                             # any other: lookaround, conditional, backreference
    |\{,(?P<open>)                                        # Python counts from 0, RE2 reads the characters
    |[*+?}]\+(?P<possessive>)
    |\{\d+(?:,\d*)?\}(?!\+)                                # how often
    |\\(?P<escape>.?)
    |\[\^?\]?(?:\\.|[^\]\\])*\]                           # a set
    |.""",
    re.VERBOSE | re.DOTALL,
)
_PLAIN = re.compile(r"([\w@%&~,;:=/ -]*)(\.\*)?")
_COUNTED = re.compile(r"\{(\d+)(?:,(\d*))?\}")
_FLAWS = {
    "group": "lookaround, conditions and backreferences are not supported",
    "open": "write {0,N} for {,N}",
    "possessive": "possessive repetition is not supported",
}


@lru_cache(maxsize=4096)
def flaw(expression: str) -> str:
    """What keeps a regular expression from being used, in words; empty when nothing does."""
    for token in _TOKEN.finditer(expression):
        if (known := token.lastgroup) is not None:
            return _FLAWS.get(known) or f"the escape {token[0]} is not supported"
        if token[0].startswith("[") and (inner := _set_flaw(token[0])):
            return inner
    return _syntax_flaw(expression) or _size_flaw(expression)


def burden(found: Iterable[Match]) -> str:
    """Why a gateway should not try these on every request of a service, in words; empty when it may."""
    expressions = [match.regex for match in found if match.regex is not None]
    if len(expressions) > EXPRESSIONS_MAX:
        return f"{len(expressions)} matches have a regex, must be at most {EXPRESSIONS_MAX}"
    return next((f"regex {each!r} cannot be used: {words}" for each in expressions if (words := flaw(each))), "")


def _set_flaw(text: str) -> str:
    for escape in re.finditer(r"\\(.)", text):
        if escape[1].isalnum() and escape[1] not in "dDsSwWaftnrvx":
            return f"the escape {escape[0]} is not supported in a set"
    return ""


def _syntax_flaw(expression: str) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(expression)
    except (re.error, RecursionError, OverflowError, Warning) as error:
        return str(error)
    return ""


def _size_flaw(expression: str) -> str:
    for count in _COUNTED.finditer(expression):
        if (most := max(int(number or 0) for number in count.groups())) > REPEATS_MAX:
            return f"it repeats {most} times, more than {REPEATS_MAX}"
    size = program_size(expression)
    return f"its size is {size}, more than {SIZE_MAX}; shorten its repetitions or use fewer sets" * (size > SIZE_MAX)


def program_size(expression: str) -> int:
    """At least the size of RE2's program for an expression that has no other flaw.

    Example:
        program_size("[ab]{3}c") -> 6 + 3 * 2 + 1
    """
    wide = "i" in "".join(re.findall(r"\(\?([ims]+)[:)]", expression))
    open_groups = [[0]]
    for text in (found[0] for found in _TOKEN.finditer(expression)):
        pieces = open_groups[-1]
        if text[0] == "(":
            if not text.endswith(")"):
                open_groups.append([0])
        elif text == ")":
            inner = sum(open_groups.pop())
            open_groups[-1].append(inner + 2)
        elif text in "*+?":
            pieces[-1] += 2
        elif count := _COUNTED.fullmatch(text):
            pieces[-1] = _repeated(pieces[-1], int(count[1]), count[2])
        else:
            pieces.append(_atom(text, wide=wide))
    return 6 + sum(map(sum, open_groups))


def _repeated(size: int, least: int, most: str | None) -> int:
    if most is None:
        return max(1, least) * size
    return max(1, least + 1) * (size + 1) if most == "" else max(1, int(most)) * (size + 1)


def _atom(text: str, *, wide: bool) -> int:
    """Of one character or set. RE2 works on bytes, of which a character outside ASCII has up to four.

    `wide`: upper and lower case are one, and k and s have a third form outside ASCII.
    """
    if text[0] == "[" and len(text) > 1:
        negative, rest = (22 if wide else 11, text[2:-1]) if text[1] == "^" else (0, text[1:-1])
        ranges = re.sub(r"(\\x[0-9A-Fa-f]{2}|\\.|[^\\])-(\\x[0-9A-Fa-f]{2}|\\.|[^\\])", r"\1", rest, flags=re.DOTALL)
        inner = re.findall(r"\\x..|\\.|.", ranges, re.DOTALL)
        strange = 0 if rest.isascii() and r"\x" not in rest else 8
        return negative + strange + sum(_atom(one, wide=wide) for one in inner) + (7 if wide else 0)
    if text == "." or (text[0] == "\\" and text[1:] in ("D", "S", "W")):
        return (9 if text == "." else 13) + (14 if wide else 0)
    named = {"\\d": 1, "\\s": 4, "\\w": 4 + (5 if wide else 0)}.get(text)
    if named is not None:
        return named
    strange = not text.isascii() or text.startswith(r"\x")
    return 1 + (8 if strange else 0) + (5 if wide and text in "kKsS" else 1 if wide else 0)


def subject(match: Match) -> tuple[str, str]:
    """What of a request is looked at: kind and name."""
    return next((kind, name) for kind in ("header", "cookie", "query") if (name := getattr(match, kind)) is not None)


def title(match: Match) -> str:
    """A match as people write it: `header x-group prefix beta`."""
    how, value = _written(match)
    return f"{' '.join(subject(match))} {how} {value}"


def takes_all_of(earlier: Match, later: Match) -> bool:
    """Whether every request that `later` matches is matched by `earlier` too, as far as that can be told.

    No expression is ever run: one that takes Python for ever takes RE2 no time, and is not to stop this process.
    """
    if subject(earlier) != subject(later):
        return False
    (how, value), (other_how, other) = _condition(earlier), _condition(later)
    if how == "prefix":
        return other.startswith(value) if other_how != "regex" else value == ""
    return (other_how, other) == (how, value)


def dead(variants: Sequence[Variant]) -> Iterator[tuple[str, Match, str, Match]]:
    """Matches that can never win: variant and match, then the earlier variant and match that take all of theirs."""
    for place, variant in enumerate(variants):
        for match in variant.match:
            for before in variants[:place]:
                yield from (
                    (variant.name, match, before.name, earlier)
                    for earlier in before.match
                    if takes_all_of(earlier, match)
                )


def _written(match: Match) -> tuple[str, str]:
    return next((how, text) for how in ("exact", "prefix", "regex") if (text := getattr(match, how)) is not None)


def _condition(match: Match) -> tuple[str, str]:
    """As written, but an expression that says no more than an exact value or a prefix is that."""
    how, text = _written(match)
    if how == "regex" and (plain := _PLAIN.fullmatch(text)):
        return ("prefix" if plain[2] else "exact"), plain[1]
    return how, text
