"""What is asked of Prometheus for a user's expression, and what is not asked at all."""

import re
from pathlib import Path

import promql_parser
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from slipway.api.v1alpha1 import InferenceServiceSpec
from slipway.decide.promql import Names, Unfit, flaw, rewrite

NAMES = Names(namespace="team", service="hello", stable="hello-6b3d", candidate="hello-91aa")
VALUES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        pytest.param("errors", 'errors{namespace="team"}', id="bare"),
        pytest.param("errors{}", 'errors{namespace="team"}', id="empty braces"),
        pytest.param(
            'sum(rate(e{revision="$candidate",code!="x"}[1m])) / sum(rate(r{revision="$stable"}[90s] offset 1h))',
            'sum(rate(e{namespace="team",revision="hello-91aa",code!="x"}[1m])) / '
            'sum(rate(r{namespace="team",revision="hello-6b3d"}[1m30s] offset 1h))',
            id="both revisions",
        ),
        pytest.param(
            'a{namespace="$namespace",service!="$service"}', 'a{namespace="team",service!="hello"}', id="placeholders"
        ),
        pytest.param('a{namespace="team"}', 'a{namespace="team"}', id="own namespace by name"),
        pytest.param('{__name__=~"a|b"}', '{namespace="team",__name__=~"a|b"}', id="no name"),
        pytest.param('{"my.metric"}', '{namespace="team",__name__="my.metric"}', id="name in quotes"),
        pytest.param('a{b=~"x$|y\\\\d"}', 'a{namespace="team",b=~"x$|y\\\\d"}', id="expression with an end"),
        pytest.param("a{b='\"\\\\'}", 'a{namespace="team",b="\\"\\\\"}', id="quotes and backslashes"),
        pytest.param("a # sum(b)\n+ 1e3", 'a{namespace="team"} + 1000', id="comment"),
        pytest.param(
            "a - -b * (c + d) ^ -2",
            'a{namespace="team"} - -b{namespace="team"} * (c{namespace="team"} + d{namespace="team"}) ^ -2',
            id="precedence",
        ),
        pytest.param(
            "a * on(pod) group_left(x, y) b",
            'a{namespace="team"} * on (pod) group_left (x, y) b{namespace="team"}',
            id="join to the left",
        ),
        pytest.param(
            "a > bool ignoring(x) group_right b",
            'a{namespace="team"} > bool ignoring (x) group_right () b{namespace="team"}',
            id="join to the right",
        ),
        pytest.param(
            "a and on() b unless c", 'a{namespace="team"} and on () b{namespace="team"} unless c{namespace="team"}'
        ),
        pytest.param("topk(3, sum(a) by (x))", 'topk(3, sum by (x) (a{namespace="team"}))', id="grouped"),
        pytest.param("quantile without(x) (0.9, a)", 'quantile without (x) (0.9, a{namespace="team"})', id="without"),
        pytest.param(
            'label_replace(a, "b", "$1", "c", "(.*)")', 'label_replace(a{namespace="team"}, "b", "$1", "c", "(.*)")'
        ),
        pytest.param(
            "max_over_time(rate(a[1m])[10m:30s] offset 5m)",
            'max_over_time(rate(a{namespace="team"}[1m])[10m:30s] offset 5m)',
            id="subquery",
        ),
        pytest.param("absent(a) or vector(0)", 'absent(a{namespace="team"}) or vector(0)', id="absent"),
        pytest.param("a / Inf + NaN - -Inf", 'a{namespace="team"} / Inf + NaN - -Inf', id="numbers that are none"),
    ],
)
def test_every_selector_reads_the_services_namespace_only(text: str, asked: str) -> None:
    assert rewrite(text, NAMES) == asked
    assert rewrite(asked, NAMES) == asked
    assert flaw(text, "team") == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sum(a", "unclosed"),
        ("", "no expression"),
        ("$candidate", "unexpected character"),
        ('a{namespace="other"}', "only the service's own is read"),
        ('a{namespace=~"team|other"}', "only the service's own is read"),
        ('a{namespace!="team"}', "only the service's own is read"),
        ('a + sum(b{namespace=""})', "only the service's own is read"),
        ('a{b="1" or namespace="other"}', '"or" between matchers'),
        ('a{pod=~"$candidate-.*"}', "a placeholder is a whole value"),
        ('a{pod=~"$candidate"}', "a placeholder is a whole value"),
        ('a{revision="$canary"}', "$canary is not known; there are $namespace, $service, $stable, $candidate"),
        ('label_replace(a, "b", "$candidate", "", "")', "placeholders are values of labels in {}"),
        ("a @ 1600000000", "@ is not taken"),
        ("rate(a[5m] @ end())", "@ is not taken"),
        ("a offset -5m", "not into the future"),
        ("a offset 8d", "at most 7d"),
        ("rate(a[61m])", "at most 1h"),
        ("rate(a[9999999y])", "number too large"),
        ("max_over_time(a[2h:1m])", "at most 1h"),
        ("max_over_time(a[5m:1s])", "at least 10 s"),
        ("max_over_time(max_over_time(a[5m:])[5m:])", "subquery within a subquery"),
        ("rate(a[5m])[1h:]", "gives no number"),
        ("a[5m]", "gives no number"),
        ('"text"', "gives no number"),
        ("time() - 5", "reads no metric"),
        ("info(a)", "info() is experimental"),
        ("a + fill_left(0) b", "fill is experimental"),
        ('a{"b.c"="1"}', "names of labels"),
        ('sum(a) by ("b.c")', "names of labels"),
        ("+".join(["a"] * 17), "more than 16 metrics"),
        ("(" * 70 + "a" + ")" * 70, "more than 64 deep"),
        ("-" * 2000 + "a", "longer than 600"),
        ('a{b=~"(x{1000}){1000}"}', "illegal regex"),
    ],
)
def test_what_would_read_more_than_it_may_is_refused_in_words(text: str, says: str) -> None:
    assert says in flaw(text, "team")


def test_metrics_of_experiments_are_asked_of_each_revision_by_itself() -> None:
    each = Names("team", "hello", "", "", "hello-b")
    assert rewrite('clicks{revision="$revision"}', each) == 'clicks{namespace="team",revision="hello-b"}'
    assert flaw('clicks{revision="$revision"}', "team", of_each=True) == ""
    assert flaw('clicks{revision="$revision"}', "team") == "there is no revision for $revision to stand for"
    words = flaw('clicks{revision="$stable"}', "team", of_each=True)
    assert words == "there is no revision for $stable to stand for"


def test_a_missing_stable_is_not_every_series_without_a_revision() -> None:
    names = Names("team", "hello", stable="", candidate="hello-91aa")
    with pytest.raises(Unfit, match="no revision for \\$stable"):
        rewrite('a{revision="$stable"}', names)
    assert rewrite('a{revision="$candidate"}', names) == 'a{namespace="team",revision="hello-91aa"}'


@given(namespace=VALUES, candidate=VALUES)
def test_no_name_becomes_syntax(namespace: str, candidate: str) -> None:
    """Names of Kubernetes are tame; the query does not depend on it."""
    asked = rewrite('sum(a{revision="$candidate"})', Names(namespace, "s", "s-1", candidate))
    selector = promql_parser.parse(asked).expr  # type: ignore[attr-defined]
    assert [(each.name, each.value) for each in selector.matchers.matchers] == [
        ("namespace", namespace),
        ("revision", candidate),
    ]


@given(value=VALUES, op=st.sampled_from(["=", "!="]))
def test_no_value_of_a_label_becomes_syntax(value: str, op: str) -> None:
    quoted = "".join(f"\\U{ord(sign):08x}" for sign in value)
    text = f'a{{b{op}"{quoted}"}}'
    if flaw(text, "team"):
        assert "$" in value
        return
    selector = promql_parser.parse(rewrite(text, NAMES))
    assert isinstance(selector, promql_parser.VectorSelector)
    expected = NAMES.get(value) if value.startswith("$") else value
    assert [each.value for each in selector.matchers.matchers] == ["team", expected]


_LEAVES = st.sampled_from(
    ["a", 'b{c="$stable"}', "rate(c[5m])", '{__name__="d"}', "1.5", "e offset 1h", "max_over_time(f[10m:1m])"]
)


def _trees(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = st.sampled_from(["+", "-", "*", "/", "^", "> bool", "* on(x)", "- ignoring(y) group_left"])
    return st.one_of(
        st.builds("({})".format, inner),
        st.builds("-{}".format, inner),
        st.builds("sum by (x) ({})".format, inner),
        st.builds("{} {} {}".format, inner, operators, inner),
        st.builds("clamp_max({}, 3)".format, inner),
    )


@given(text=st.recursive(_LEAVES, _trees, max_leaves=8))
def test_what_is_asked_is_what_was_written_and_every_selector_is_bound(text: str) -> None:
    try:
        asked = rewrite(text, NAMES)
    except Unfit:
        return
    seen: list[promql_parser.Expr] = []
    promql_parser.walk(promql_parser.parse(asked), seen.append)
    selectors = [node.matchers.matchers for node in seen if isinstance(node, promql_parser.VectorSelector)]
    assert all([each.value for each in found if each.name == "namespace"] == ["team"] for found in selectors)
    unbound = re.sub(r'namespace="team",?', "", asked)
    assert _printed(unbound) == _printed(text.replace("$stable", NAMES.stable))


def _printed(text: str) -> str:
    """By the parser's own hand."""
    return promql_parser.parse(text).prettify()


@given(text=st.text(st.sampled_from(list("ab{}()[]\"'`=~!,:+-*/ \\$#@1m$sumrate \n")), max_size=60))
def test_any_text_is_either_asked_or_refused_in_words(text: str) -> None:
    if not flaw(text, "team"):
        assert 'namespace="team"' in rewrite(text, NAMES)


def test_the_metrics_of_the_documentation_can_be_asked() -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    (service,) = [block for block in blocks if block.get("kind") == "InferenceService"]
    spec = InferenceServiceSpec.model_validate(service["spec"], extra="forbid")
    metrics = spec.rollout.analysis.metrics
    assert metrics
    assert {metric.name: flaw(metric.promql, "team") for metric in metrics if flaw(metric.promql, "team")} == {}
