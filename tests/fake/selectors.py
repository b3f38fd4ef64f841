"""Label selectors in the string form of a list request: `a=b,c!=d,e,!f`."""

from collections.abc import Callable, Mapping

Labels = Mapping[str, str]


def parse(selector: str) -> Callable[[Labels], bool]:
    terms = [_term(term.strip()) for term in selector.split(",") if term.strip()]
    return lambda labels: all(matches(labels) for matches in terms)


def _term(term: str) -> Callable[[Labels], bool]:
    if " " in term or "(" in term:
        raise ValueError(f"set-based selectors are not known to the fake API server: {term!r}")
    if "!=" in term:
        name, _, value = term.partition("!=")
        return lambda labels: labels.get(name) != value
    if "=" in term:
        name, _, value = term.replace("==", "=").partition("=")
        return lambda labels: labels.get(name) == value
    if term.startswith("!"):
        return lambda labels: term[1:] not in labels
    return lambda labels: term in labels
