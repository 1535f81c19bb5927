"""Certificates: bounds against brute force, grades that follow from the entries alone, JSON that cannot lie."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from interpbench_hub.certificate import SECTIONS, Certificate, Effect, Entry, clopper_pearson_lower, in_order
from interpbench_hub.errors import CheckpointError
from tests.certificate_files import entries_of

ABLATIONS = ("resample", "zero", "mean")


def chance_of_at_least(correct: int, count: int, share: float) -> float:
    """Probability of `correct` or more successes in `count` trials, summed term by term."""
    return sum(math.comb(count, n) * share**n * (1 - share) ** (count - n) for n in range(correct, count + 1))


# -- bounds ------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 60).flatmap(lambda count: st.tuples(st.integers(1, count), st.just(count))))
def test_at_the_bound_such_a_result_has_a_chance_of_one_in_a_hundred(counts):
    correct, count = counts
    assert chance_of_at_least(correct, count, clopper_pearson_lower(correct, count)) == pytest.approx(0.01, rel=1e-6)


@pytest.mark.parametrize(("correct", "count"), [(1999, 2000), (2000, 2000), (99_950, 100_000), (1, 3), (0, 10)])
def test_bounds_are_those_of_scipy(correct, count):
    interval = binomtest(correct, count, alternative="greater").proportion_ci(0.99, method="exact")
    assert clopper_pearson_lower(correct, count) == pytest.approx(float(interval.low), abs=1e-12)


def test_the_bound_lies_below_the_accuracy():
    entry = Entry("m0", "zero", 2000, 1990)
    assert 0 < entry.lower_bound < entry.accuracy == 0.995
    assert Entry("m0", "zero", 0, 0).accuracy == Entry("m0", "zero", 0, 0).lower_bound == 0
    assert not Entry("m0", "zero", 0, 0).passes


# -- grades ------------------------------------------------------------------------------------------------------------


def failing(*ablations: str | None) -> tuple[Entry, ...]:
    """Entries of which the last falls just short of 99.9 %."""
    return tuple(Entry("x", ablation, 10_000, 10_000) for ablation in ABLATIONS) + tuple(
        Entry("y", ablation, 10_000, 9_989)  # type: ignore[arg-type]
        for ablation in ablations
    )


def test_all_passing_is_path(make_certificate):
    assert make_certificate().grade == "path"
    assert make_certificate(behaviour=(Entry("all", None, 10_000, 9_990),)).grade == "path"


@pytest.mark.parametrize(
    ("section", "entries", "grade"),
    [
        ("edge_interchange", failing("resample"), "edge"),
        ("edge_strict", failing("resample"), "node"),
        ("edge_strict", failing("zero"), "node"),
        ("edge_strict", failing("mean"), "node"),
        ("complement", failing("resample"), "node"),
        ("complement", failing("zero"), "node"),
        ("node_strict", failing("zero"), "node"),
        ("node_strict", failing("mean"), "node"),
        ("node_strict", failing("resample"), "none"),
        ("node_interchange", failing("resample"), "none"),
        ("behaviour", failing(None), "none"),
        ("behaviour", (), "none"),
        ("effect", (Effect("embed->m0", 2000, 900, 905), Effect("m0->logits", 2000, 0, 500)), "node"),
    ],
)
def test_the_worst_entry_decides_the_grade(make_certificate, section, entries, grade):
    certificate = make_certificate(**{section: entries})
    assert certificate.grade == grade
    assert Certificate.from_dict(certificate.to_dict()).grade == grade


def test_a_section_with_nothing_to_measure_passes(make_certificate):
    empty = {section: () for section in SECTIONS if section != "behaviour"}
    assert make_certificate(**empty, effect=()).grade == "path"


def test_an_entry_over_no_pairs_does_not_pass(make_certificate):
    assert make_certificate(node_strict=(Entry("m1", "resample", 0, 0),)).grade == "none"


def test_failures_are_listed_worst_first(make_certificate):
    certificate = make_certificate(
        edge_strict=(Entry("a", "zero", 100, 50), Entry("b", "mean", 100, 100)),
        complement=(Entry("all", "zero", 100, 20),),
    )
    assert [(section, entry.name) for section, entry in certificate.failures()] == [
        ("complement", "all"),
        ("edge_strict", "a"),
    ]
    worst = certificate.worst("edge_strict", "mean")
    assert worst is not None
    assert worst.name == "b"
    assert certificate.worst("edge_strict", "resample") is None


# -- JSON --------------------------------------------------------------------------------------------------------------

entries = st.builds(
    lambda name, ablation, count, share: Entry(name, ablation, count, int(count * share)),
    st.sampled_from(["m0", "a1.h2", "embed->m0"]),
    st.sampled_from([None, "name_swap", *ABLATIONS]),
    st.integers(1, 10_000),
    st.floats(0, 1),
)
certificates = st.builds(
    Certificate,
    case=st.just("case_3"),
    weights_sha256=st.just("a" * 64),
    seed=st.integers(0, 2**31),
    n_pairs=st.integers(0, 10_000),
    n_pairs_single=st.integers(0, 10_000),
    is_exhaustive=st.booleans(),
    is_held_out=st.booleans(),
    package_version=st.just("0.1.0"),
    effect=st.lists(
        st.builds(Effect, st.just("embed->m0"), st.integers(5, 9), st.integers(0, 5), st.integers(0, 5)), max_size=3
    ).map(tuple),
    **{
        section: st.lists(entries, max_size=5, unique_by=lambda entry: (entry.name, entry.ablation)).map(in_order)
        for section in SECTIONS
    },
)


@given(certificates)
def test_a_certificate_comes_back_from_json(certificate):
    again = Certificate.from_dict(certificate.to_dict())
    assert again == certificate
    assert again.to_dict() == certificate.to_dict()


@given(st.lists(entries, unique_by=lambda entry: (entry.name, entry.ablation)))
def test_entries_are_put_in_order_name_by_name(found):
    ordered, standing = in_order(found), [None, "resample", "name_swap", "s2_to_io", "abc", "zero", "mean"]
    assert sorted(ordered, key=found.index) == found
    names = list(dict.fromkeys(entry.name for entry in found))
    places = [(names.index(entry.name), standing.index(entry.ablation)) for entry in ordered]
    assert places == sorted(set(places))


@given(certificates)
def test_a_file_holds_each_entry_under_the_names_of_its_columns(certificate):
    data = certificate.to_dict()
    for section in SECTIONS:
        expected = [(entry.name, entry.ablation, entry.count, entry.correct) for entry in getattr(certificate, section)]
        assert entries_of(data[section]) == expected


def test_two_entries_for_one_thing_cannot_be_written(make_certificate):
    twice = (Entry("m1", "zero", 2000, 2000), Entry("m1", "zero", 2000, 1999))
    with pytest.raises(ValueError, match="one has two"):
        make_certificate(node_strict=twice).to_dict()


@pytest.mark.parametrize(
    "columns",
    [["name"], ["name", "zero count"], ["name", "zero correct", "zero count"], ["zero count", "zero correct", "name"]],
)
def test_other_columns_are_refused(make_certificate, columns):
    data = make_certificate().to_dict()
    data["node_strict"]["columns"] = columns
    with pytest.raises(CheckpointError, match="not a certificate"):
        Certificate.from_dict(data)


def test_a_grade_that_does_not_follow_is_refused(make_certificate):
    data = make_certificate(behaviour=failing(None)).to_dict() | {"grade": "path"}
    with pytest.raises(CheckpointError, match="says grade 'path', its entries give 'none'"):
        Certificate.from_dict(data)


def test_more_correct_pairs_than_pairs_are_refused(make_certificate):
    data = make_certificate().to_dict()
    (name,), count = data["node_strict"]["rows"][0], data["node_strict"]["count"]
    data["node_strict"]["rows"][0] = [name, count, count + 1, *[count] * 4]
    with pytest.raises(CheckpointError, match="node_strict m1: 2001 correct of 2000 cannot be"):
        Certificate.from_dict(data)


def test_rows_of_pairs_all_right_are_cut_to_their_names(make_certificate):
    some = (Entry("m1", "zero", 2000, 2000), Entry("m1", "mean", 2000, 2000), Entry("m2", "zero", 2000, 1999))
    fewer = (Entry("m3", "zero", 500, 500), Entry("m4", "zero", 2000, 2000))
    data = make_certificate(node_strict=some, edge_strict=fewer, complement=some[2:]).to_dict()
    columns = ["name", "zero count", "zero correct"]
    wide = [*columns, "mean count", "mean correct"]
    # What lacks an ablation, or has fewer pairs than others, is written out.
    assert data["node_strict"] == {"columns": wide, "count": 2000, "rows": [["m1"], ["m2", 2000, 1999, None, None]]}
    assert data["edge_strict"] == {"columns": columns, "count": 2000, "rows": [["m3", 500, 500], ["m4"]]}
    assert data["complement"] == {"columns": columns, "rows": [["m2", 2000, 1999]]}


def test_a_name_alone_needs_the_count_of_its_table(make_certificate):
    data = make_certificate().to_dict()
    del data["node_strict"]["count"]
    with pytest.raises(CheckpointError, match=r"not a certificate.*count"):
        Certificate.from_dict(data)
    written_out = [[name, *[2000] * 6] for (name,) in data["node_strict"]["rows"]]
    data["node_strict"]["rows"] = written_out
    assert Certificate.from_dict(data) == make_certificate()


def test_a_row_that_comes_twice_is_refused(make_certificate):
    data = make_certificate().to_dict()
    data["node_strict"]["rows"] *= 2
    with pytest.raises(CheckpointError, match=r"not a certificate.*twice"):
        Certificate.from_dict(data)


@pytest.mark.parametrize("key", ["grade", "case", "edge_strict", "effect", "schema_version"])
def test_a_missing_key_is_named(make_certificate, key):
    data = make_certificate().to_dict()
    del data[key]
    with pytest.raises(CheckpointError, match=key):
        Certificate.from_dict(data)


def test_another_version_is_refused(make_certificate):
    with pytest.raises(CheckpointError, match="schema_version 9; this package reads 1"):
        Certificate.from_dict(make_certificate().to_dict() | {"schema_version": 9})


# -- for people --------------------------------------------------------------------------------------------------------


def test_a_certificate_prints_its_worst_entries(make_certificate):
    certificate = make_certificate(edge_strict=(Entry("embed->m1", "zero", 2000, 1000),), node_strict=())
    lines = str(certificate).splitlines()
    assert lines[0].startswith("case_3: grade node (10000 pairs")
    assert any("edge_strict" in line and "0.5000" in line and "embed->m1 (zero)" in line for line in lines)
    assert any("node_strict" in line and "nothing to measure" in line for line in lines)
    assert "embed->m0" in lines[-1]
    assert "all there are" in str(replace(certificate, is_exhaustive=True))
