"""Which query is asked for a PromQL expression of a user, and what keeps one from being asked?

A user's text is never sent. It is parsed, and the query is written anew from the tree: each selector with a matcher of
the service's own namespace, placeholders put in as values of the tree, where no name can become syntax. What would read
another namespace or a lot of history is refused. Pure: the parser is compiled code without I/O.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any

import promql_parser as promql

RANGE_MAX, OFFSET_MAX = timedelta(hours=1), timedelta(days=7)
STEP_MIN = timedelta(seconds=10)
SELECTORS_MAX = 16
_TOKENS_MAX, _DEPTH_MAX = 600, 64
"""The parser takes 20 ms for 600 tokens in their worst order; depth is that of the recursion here."""
_STRING = r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|`[^`]*`'
_TOKEN = re.compile(rf"{_STRING}|#[^\n]*|\w+|[^\s\w]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_METRIC = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*")
_PLACEHOLDER = re.compile(r"\$(?:stable|candidate|revision|namespace|service)\b")
_OPERATORS = ((promql.MatchOp.Equal, "="), (promql.MatchOp.NotEqual, "!="), (promql.MatchOp.Re, "=~"))
_ESCAPES = {"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t"}
NAMESPACE = "namespace"


class Unfit(ValueError):
    """The expression cannot be asked; says why."""


@dataclass(frozen=True, slots=True)
class Names:
    """What placeholders stand for."""

    namespace: str
    service: str
    stable: str
    """Empty: no revision answers yet."""
    candidate: str
    revision: str = ""
    """The one of an experiment that is asked about; stable and candidate are empty then."""

    def get(self, placeholder: str) -> str:
        known = {
            "$namespace": self.namespace,
            "$service": self.service,
            "$stable": self.stable,
            "$candidate": self.candidate,
            "$revision": self.revision,
        }
        if placeholder not in known:
            raise Unfit(f"{placeholder} is not known; there are {', '.join(filter(known.get, known))}")
        # An empty value would match every series without the label.
        if not known[placeholder]:
            raise Unfit(f"there is no revision for {placeholder} to stand for")
        return known[placeholder]


@lru_cache(maxsize=1024)
def flaw(text: str, namespace: str, *, of_each: bool = False) -> str:
    """Why an expression cannot be asked for a service of this namespace, in words; empty when it can.

    `of_each`: for the metrics of experiments, which are asked of each revision by itself.
    """
    names = ("", "", "revision") if of_each else ("stable", "candidate")
    try:
        rewrite(text, Names(namespace, "service", *names))
    except Unfit as error:
        return str(error)
    return ""


@lru_cache(maxsize=1024)
def rewrite(text: str, names: Names) -> str:
    """The query to ask.

    `errors{revision="$candidate"}` -> `errors{namespace="team",revision="hello-6b3d"}`

    Raises:
        Unfit
    """
    if sum(1 for _ in _TOKEN.finditer(text)) > _TOKENS_MAX:
        raise Unfit(f"longer than {_TOKENS_MAX} words and signs: let a recording rule do a part of it")
    try:
        return _written(promql.parse(text), names)
    except Unfit:
        raise
    except (ValueError, OverflowError) as error:  # a range of more days than the parser can tell is only met here
        raise Unfit(str(error)) from error


def _written(tree: promql.Expr, names: Names) -> str:
    if isinstance(tree, promql.StringLiteral | promql.MatrixSelector | promql.SubqueryExpr):
        raise Unfit("gives no number: aggregate it, by max_over_time(...) for instance")
    writer = _Writer(names)
    query = writer.write(tree)
    if not writer.selectors:
        raise Unfit("reads no metric")
    return query


class _Writer:
    """Writes a tree as text. Parentheses are nodes of the tree, so none has to be added."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._depth, self._is_in_subquery = 0, False
        self.selectors = 0
        self._kinds: dict[type, Callable[[Any], str]] = {
            promql.NumberLiteral: lambda node: _number(node.val),
            promql.StringLiteral: self._string,
            promql.ParenExpr: lambda node: f"({self.write(node.expr)})",
            promql.UnaryExpr: lambda node: f"-{self.write(node.expr)}",
            promql.BinaryExpr: self._binary,
            promql.AggregateExpr: self._aggregate,
            promql.Call: self._call,
            promql.VectorSelector: self._selector,
            promql.MatrixSelector: lambda node: self._selector(node.vector_selector, f"[{_range(node.range)}]"),
            promql.SubqueryExpr: self._subquery,
        }

    def write(self, node: Any) -> str:
        if (write := self._kinds.get(type(node))) is None:  # a later parser's
            raise Unfit(f"{type(node).__name__} is not supported")
        if self._depth == _DEPTH_MAX:
            raise Unfit(f"nested more than {_DEPTH_MAX} deep")
        self._depth += 1
        text = write(node)
        self._depth -= 1
        return text

    def _string(self, node: promql.StringLiteral) -> str:
        if _PLACEHOLDER.search(node.val):
            raise Unfit(f"{_quoted(node.val)}: placeholders are values of labels in {{}} and nothing else")
        return _quoted(node.val)

    def _binary(self, node: promql.BinaryExpr) -> str:
        return f"{self.write(node.lhs)} {node.op}{_matching(node.modifier)} {self.write(node.rhs)}"

    def _aggregate(self, node: promql.AggregateExpr) -> str:
        parameter = "" if node.param is None else f"{self.write(node.param)}, "
        return f"{node.op}{_grouping(node.modifier)}({parameter}{self.write(node.expr)})"

    def _call(self, node: promql.Call) -> str:
        if node.func.experimental:
            raise Unfit(f"{node.func.name}() is experimental in Prometheus and not taken")
        return f"{node.func.name}({', '.join(map(self.write, node.args))})"

    def _subquery(self, node: promql.SubqueryExpr) -> str:
        if self._is_in_subquery:
            raise Unfit("a subquery within a subquery is too much for Prometheus")
        if node.range is None:
            raise Unfit("a subquery needs a range")
        if node.step is not None and node.step < STEP_MIN:
            raise Unfit(f"a subquery's step is at least {STEP_MIN.seconds} s")
        step = promql.display_duration(node.step) if node.step else ""
        self._is_in_subquery = True
        inner = self.write(node.expr)
        self._is_in_subquery = False
        return f"{inner}[{_range(node.range)}:{step}]{_offset(node)}"

    def _selector(self, node: promql.VectorSelector, window: str = "") -> str:
        self.selectors += 1
        if self.selectors > SELECTORS_MAX:
            raise Unfit(f"reads more than {SELECTORS_MAX} metrics: let a recording rule do a part of it")
        if node.matchers.or_matchers:
            raise Unfit('"or" between matchers is not supported: write a regular expression')
        name = node.name or ""
        if name and not _METRIC.fullmatch(name):
            raise Unfit(f"{_quoted(name)} is not the name of a metric")
        matchers = [f"{NAMESPACE}={_quoted(self._names.namespace)}"]
        matchers += [self._matcher(each) for each in node.matchers.matchers if not self._is_own_namespace(each)]
        return f"{name}{{{','.join(matchers)}}}{window}{_offset(node)}"

    def _is_own_namespace(self, matcher: promql.Matcher) -> bool:
        if matcher.name != NAMESPACE:
            return False
        if matcher.op != promql.MatchOp.Equal or matcher.value not in ("$namespace", self._names.namespace):
            raise Unfit(f"{matcher}: leave the namespace out, only the service's own is read")
        return True

    def _matcher(self, matcher: promql.Matcher) -> str:
        if not _NAME.fullmatch(matcher.name):
            raise Unfit(f"{_quoted(matcher.name)}: names of labels have letters, digits and _")
        sign = next((sign for op, sign in _OPERATORS if op == matcher.op), "!~")
        value = matcher.value
        if value.startswith("$") and sign in ("=", "!="):
            value = self._names.get(value)
        elif found := _PLACEHOLDER.search(value):
            raise Unfit(f'{matcher}: write {matcher.name}="{found[0]}", a placeholder is a whole value')
        return f"{matcher.name}{sign}{_quoted(value)}"


def _matching(modifier: promql.BinModifier | None) -> str:
    """What stands behind a binary operator."""
    if modifier is None:
        return ""
    if (modifier.fill_values.lhs, modifier.fill_values.rhs) != (None, None):
        raise Unfit("fill is experimental in Prometheus and not taken")
    words = " bool" if modifier.return_bool else ""
    if modifier.matching is not None:
        on = modifier.matching.type == promql.LabelModifierType.Include
        words += f" {'on' if on else 'ignoring'} {_labels(modifier.matching.labels)}"
    if modifier.card == promql.VectorMatchCardinality.ManyToOne:
        words += f" group_left {_labels(modifier.group_labels or ())}"
    elif modifier.card == promql.VectorMatchCardinality.OneToMany:
        words += f" group_right {_labels(modifier.group_labels or ())}"
    return words


def _grouping(modifier: promql.AggModifier | None) -> str:
    if modifier is None:
        return ""
    return f" {'by' if modifier.type == promql.AggModifierType.By else 'without'} {_labels(modifier.labels)} "


def _labels(names: Iterable[str]) -> str:
    names = list(names)
    if bad := next((name for name in names if not _NAME.fullmatch(name)), None):
        raise Unfit(f"{_quoted(bad)}: names of labels have letters, digits and _")
    return f"({', '.join(names)})"


def _range(window: timedelta) -> str:
    if window > RANGE_MAX:
        raise Unfit("a range is at most 1h: let a recording rule look back further")
    return promql.display_duration(window)


def _offset(node: promql.VectorSelector | promql.SubqueryExpr) -> str:
    if node.at is not None:
        raise Unfit("@ is not taken: what is judged is now")
    if not node.offset:
        return ""
    if not timedelta() < node.offset <= OFFSET_MAX:
        raise Unfit("an offset is at most 7d, and not into the future")
    return f" offset {promql.display_duration(node.offset)}"


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    return repr(value).removesuffix(".0")


def _quoted(text: str) -> str:
    """As Go reads it."""
    written = (_ESCAPES.get(sign) or (sign if sign >= " " else f"\\x{ord(sign):02x}") for sign in text)
    return f'"{"".join(written)}"'
