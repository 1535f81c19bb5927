"""The registry of cases: ids to `Case`, in the order of registration."""

from typing import Any

from interpbench_hub.cases.case import Case
from interpbench_hub.errors import CaseError, UnknownNameError, unknown_name

_CASES: dict[str, Case] = {}


def register_case(case: Case) -> Case:
    """Add a case, so that `get_case`, training and certifying find it by its id; an id belongs to one case.

    >>> from interpbench_hub.cases import Case, register_case
    >>> from interpbench_hub.rasp import SelectorWidth, Select, Comparison, tokens
    >>> same = Select(tokens, tokens, Comparison.EQ)
    >>> _ = register_case(Case("my_count", "How often the token occurs.", SelectorWidth(same), ("a", "b")))
    """
    if case.id in _CASES:
        raise CaseError(f"case {case.id!r} is registered already; choose another id")
    _CASES[case.id] = case
    return case


def unregister_case(case_id: str) -> None:
    """Take a case out of the registry again."""
    get_case(case_id)
    del _CASES[case_id]


def get_case(case_id: str) -> Case:
    """The case called `case_id`.

    >>> get_case("case_3").vocab
    ('a', 'b', 'c', 'x')
    """
    try:
        return _CASES[case_id]
    except (KeyError, TypeError):
        raise unknown_name("case", case_id, _CASES, hint="list_cases() lists them") from None


def list_cases(**tags: Any) -> list[Case]:
    """All cases whose tags have the given values, in order; see `Case.tags` for what can be asked.

    >>> [case.id for case in list_cases(tier="single-head", categorical=False)][:1]
    ['case_3']
    """
    cases = list(_CASES.values())
    if tags and cases:
        known = cases[0].tags
        for tag in tags:
            if tag not in known:
                raise unknown_name("tag", tag, known)
    # Some tags are costly (kinds of edges), so only those asked for are looked at.
    return [case for case in cases if all(_tag(case, tag) == value for tag, value in tags.items())]


def _tag(case: Case, tag: str) -> Any:
    if hasattr(Case, tag):
        return getattr(case, tag)
    try:
        return case.tags[tag]
    except KeyError:
        raise UnknownNameError(f"case {case.id} has no tag {tag!r}") from None
