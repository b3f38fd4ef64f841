"""Which expressions and matches are taken, and which can never win."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.api.model import Model
from slipway.api.traffic import Match, Variant
from slipway.decide.matches import dead, flaw, takes_all_of

MODEL = Model.model_validate({"modelFormat": {"name": "torchscript"}, "storageUri": "sample://hello"})


def header(**how: str) -> Match:
    return Match.model_validate({"header": "x-group"} | how)


@pytest.mark.parametrize(
    "expression",
    [
        "beta",
        "beta-.*",
        "(?i)beta|gamma",
        r"\d+[\w.-]*",
        "(?P<n>x)y?",
        "a{0,3}",
        "x{32}",
        "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
        "(acme|initech)-[0-9]+",
        r"[^\]]+",
        "(a|b)*?",
        r"\/\.",
        "[a++]",
        "",
    ],
)
def test_what_both_engines_understand_alike_is_taken(expression: str) -> None:
    assert flaw(expression) == ""


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("a(?=b)", "lookaround"),
        ("(?!b).*", "lookaround"),
        ("(?<=a)b", "lookaround"),
        ("(?<!a)b", "lookaround"),
        ("(?P<n>a)(?P=n)", "backreferences"),
        ("(a)?(?(1)b)", "conditions"),
        ("(?>a)", "not supported"),
        (r"(a)\1", r"the escape \1"),
        (r"\Z", r"the escape \Z"),
        (r"\pL", r"the escape \p"),
        (r"[\b]", r"the escape \b is not supported in a set"),
        ("a++", "possessive"),
        ("a{2}+", "possessive"),
        ("a{,3}", "write {0,N}"),
        ("[[:alpha:]]", "nested set"),
        ("a**", "multiple repeat"),
        ("[", "unterminated"),
        ("(", "missing )"),
        ("x{33}", "it repeats 33 times, more than 32"),
        ("a{0,1000}", "it repeats 1000 times, more than 32"),
        ("(x{10}){11}", "its size is 138, more than 100"),
        (".{30}", "its size is 276, more than 100"),
        ("[^x]{30}", "more than 100; shorten its repetitions or use fewer sets"),
        (r"(?i)[k-s]{30}", "more than 100"),
        ("a{3}+", "possessive"),
        ("a\\", r"the escape"),
    ],
)
def test_what_the_gateway_would_not_take_is_told(expression: str, words: str) -> None:
    assert words in flaw(expression)


@given(st.text("ab(){}[]|?*+^$\\.,:=!<>P1d-", max_size=20))
def test_whatever_is_taken_compiles(expression: str) -> None:
    if not flaw(expression):
        re.compile(expression)


@pytest.mark.parametrize(
    ("earlier", "later", "takes"),
    [
        pytest.param({"exact": "a"}, {"exact": "a"}, True, id="the same value"),
        pytest.param({"exact": "a"}, {"exact": "b"}, False, id="another value"),
        pytest.param({"prefix": "be"}, {"prefix": "beta"}, True, id="a longer prefix"),
        pytest.param({"prefix": "beta"}, {"prefix": "be"}, False, id="a shorter prefix"),
        pytest.param({"prefix": "be"}, {"exact": "beta"}, True, id="a value below a prefix"),
        pytest.param({"exact": "beta"}, {"prefix": "be"}, False, id="a prefix above a value"),
        pytest.param({"regex": "be.*"}, {"exact": "beta"}, True, id="an expression that is a prefix"),
        pytest.param({"regex": ".*"}, {"regex": "a|b"}, True, id="any value"),
        pytest.param({"regex": "beta"}, {"exact": "beta"}, True, id="an expression that is a value"),
        pytest.param({"regex": "b.t+"}, {"regex": "b.t+"}, True, id="the same expression"),
        pytest.param({"regex": "b.t+"}, {"exact": "bet"}, False, id="an expression that would have to be run"),
    ],
)
def test_an_earlier_match_takes_all_of_a_later_one(earlier: dict[str, str], later: dict[str, str], takes: bool) -> None:
    assert takes_all_of(header(**earlier), header(**later)) is takes


def test_matches_of_other_names_take_nothing_of_each_other() -> None:
    assert not takes_all_of(header(exact="a"), Match(header="x-other", exact="a"))
    assert not takes_all_of(header(exact="a"), Match(cookie="x-group", exact="a"))


def test_an_expression_that_takes_python_for_ever_stops_nobody() -> None:
    slow = Variant(name="b", model=MODEL, match=[header(regex="(a+)+b")])
    late = Variant(name="c", model=MODEL, match=[header(exact="a" * 200)])
    assert list(dead([slow, late])) == []


def test_a_variant_may_say_the_same_twice_but_not_what_an_earlier_one_says() -> None:
    twice = Variant(name="b", model=MODEL, match=[header(exact="a"), header(exact="a")])
    late = Variant(name="c", model=MODEL, match=[header(exact="z"), header(exact="a")])
    assert list(dead([twice])) == []
    assert {(name, match.exact, earlier) for name, match, earlier, _ in dead([twice, late])} == {("c", "a", "b")}
