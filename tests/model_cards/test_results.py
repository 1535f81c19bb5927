"""Results: the worst entries, never rounded up, and the Hub's two formats read back by the Hub's own client."""

from collections.abc import Callable
from fractions import Fraction

import yaml
from huggingface_hub import parse_eval_result_entries
from hypothesis import given, settings
from hypothesis import strategies as st

from interpbench_hub.certificate import SECTIONS, Certificate, Entry
from model_cards.results import MOST_FAILURES, cut, eval_results, eval_results_file, failure_rows, worst_entries

Certificates = Callable[..., Certificate]


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 10**7).flatmap(lambda whole: st.tuples(st.integers(0, whole), st.just(whole))))
def test_shares_are_cut_off_and_never_rounded_up(counts: tuple[int, int]) -> None:
    part, whole = counts
    lost = Fraction(part, whole) - Fraction(cut(part, whole))
    assert 0 <= lost < Fraction(1, 10**4)


def test_a_share_just_below_one_is_not_shown_as_one(make_certificate: Certificates) -> None:
    certificate = make_certificate(behaviour=(Entry("all", None, 10**8, 10**8 - 1),))
    assert cut(10**8 - 1, 10**8) == "0.9999"
    assert worst_entries(certificate)[0].value == 0.999999


def test_of_equal_shares_the_one_with_the_fewest_pairs_is_the_worst(make_certificate: Certificates) -> None:
    entries = (Entry("all", "resample", 5000, 5000), Entry("all", "zero", 300, 300), Entry("all", "mean", 900, 900))
    worst = worst_entries(make_certificate(complement=entries))[-1]
    assert (worst.section, worst.entry, worst.bound) == ("complement", entries[1], "0.9847")


def test_sections_without_entries_are_left_out(make_certificate: Certificates) -> None:
    sections = [worst.section for worst in worst_entries(make_certificate(node_strict=()))]
    assert sections == [section for section in SECTIONS if section != "node_strict"]


def test_the_results_file_reads_back(make_certificate: Certificates) -> None:
    certificate = make_certificate(edge_strict=(Entry("m0->m1", "zero", 2000, 1999), Entry("m0->m1", "mean", 2000, 5)))
    entries = parse_eval_result_entries(yaml.safe_load(eval_results_file(certificate, "some/model", "some/data")))
    assert [entry.task_id for entry in entries] == list(SECTIONS)
    assert {entry.dataset_id for entry in entries} == {"some/data"}
    assert {entry.source_url for entry in entries} == {"https://huggingface.co/some/model/blob/main/certificate.json"}
    edges = entries[4]
    assert edges.value == 0.0025
    assert edges.notes is not None
    assert edges.notes.startswith("worst of 2 entries (m0->m1, mean): 5 of 2000 pairs right, 99 % lower bound 0.00")
    assert "grade node" in edges.notes
    assert [result.metric_value for result in eval_results(certificate, "a/b", "a/c")] == [e.value for e in entries]


def test_failures_are_listed_worst_first_up_to_a_limit(make_certificate: Certificates) -> None:
    entries = tuple(Entry("embed->m1", "resample", 2000, 50 * number) for number in range(30))
    rows = failure_rows(make_certificate(edge_strict=entries))
    assert len(rows) == MOST_FAILURES
    assert [row[3] for row in rows[:3]] == ["0 of 2,000", "50 of 2,000", "100 of 2,000"]
