"""The certificate: the measured evidence that a model computes along its circuit and nowhere else.

Owns the entries, the grade that follows from them and their JSON. Knows nothing of torch: measuring is
`siit.measure`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, get_args

from interpbench_hub.constants import SCHEMA_VERSION
from interpbench_hub.errors import CheckpointError

Counterfactual = Literal["resample", "name_swap", "s2_to_io", "abc"]
"""What a source input is to its base: any other input, or (sentences) one that differs in its names as told."""
Ablation = Literal[Counterfactual, "zero", "mean"]
ABLATIONS: tuple[Ablation, ...] = ("resample", "zero", "mean")
"""What replaces a value: its value on a source input, zeros, or its mean over inputs at the same position."""

Section = Literal["behaviour", "node_interchange", "edge_interchange", "node_strict", "edge_strict", "complement"]
SECTIONS: tuple[Section, ...] = (
    "behaviour",
    "node_interchange",
    "edge_interchange",
    "node_strict",
    "edge_strict",
    "complement",
)
Grade = Literal["path", "edge", "node", "none"]
GRADES: tuple[Grade, ...] = ("path", "edge", "node", "none")
"""Best first."""


def is_at_least(grade: Grade, least: Grade) -> bool:
    """Whether a grade is this good or better.

    >>> is_at_least("path", "edge"), is_at_least("node", "edge")
    (True, False)
    """
    return GRADES.index(grade) <= GRADES.index(least)


THRESHOLD = 0.999
"""Share of pairs that must be correct, for the worst entry of each kind."""
TOLERANCE = 0.05
"""Largest error of a correct regression output."""
CONFIDENCE = 0.99

_PLACES = {ablation: place for place, ablation in enumerate((None, *get_args(Ablation)))}
_RULES = {"threshold": THRESHOLD, "tolerance": TOLERANCE, "confidence": CONFIDENCE}
_COUNT_COLUMNS = ("count", "correct")
_BOUND_COLUMNS = ("count", "correct", "lower_bound")
_EFFECT_COLUMNS = ("name", "count", "changed", "predicted")


@dataclass(frozen=True)
class Entry:
    """How many pairs came out right under one intervention.

    A pair is correct when every position is: same argmax for classes, an error below `TOLERANCE` for regression.
    """

    name: str
    """The node or edge replaced; `all` for behaviour and for the whole complement."""
    ablation: Ablation | None
    """What replaced it; None where nothing did."""
    count: int
    correct: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.count if self.count else 0.0

    @cached_property
    def lower_bound(self) -> float:
        """One-sided 99 % Clopper-Pearson lower bound of the accuracy (Clopper and Pearson 1934)."""
        return clopper_pearson_lower(self.correct, self.count)

    @property
    def passes(self) -> bool:
        return self.count > 0 and self.accuracy >= THRESHOLD


def in_order(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Entries name by name as these first come, and of each in the order of the ablations' definition."""
    entries = tuple(entries)
    names = {name: place for place, name in enumerate(dict.fromkeys(entry.name for entry in entries))}
    return tuple(sorted(entries, key=lambda entry: (names[entry.name], _PLACES[entry.ablation])))


@dataclass(frozen=True)
class Effect:
    """What resampling one varying circuit edge alone does to the output."""

    name: str
    count: int
    changed: int
    """Pairs whose output changed."""
    predicted: int
    """Pairs whose output the high-level model says changes."""

    @property
    def share(self) -> float:
        return self.changed / self.count if self.count else 0.0

    @property
    def predicted_share(self) -> float:
        return self.predicted / self.count if self.count else 0.0


@dataclass(frozen=True)
class Certificate:
    """All entries for one model of one case.

    `grade` is `path` if everything passes, `edge` if all but `edge_interchange` does and every varying edge has an
    effect, `node` if behaviour, node interchange and node strictness under resampling do, else `none`.
    """

    case: str
    weights_sha256: str
    """SHA-256 of the weights file the entries were measured on."""
    seed: int
    n_pairs: int
    """Pairs behind each aggregate entry."""
    n_pairs_single: int
    """Pairs behind each entry of a single node or edge."""
    is_exhaustive: bool
    """Whether the aggregate entries cover every pair of inputs."""
    is_held_out: bool
    """Whether the inputs (of every length with enough of them to divide) are ones that training never draws."""
    package_version: str
    behaviour: tuple[Entry, ...]
    node_interchange: tuple[Entry, ...]
    edge_interchange: tuple[Entry, ...]
    node_strict: tuple[Entry, ...]
    edge_strict: tuple[Entry, ...]
    complement: tuple[Entry, ...]
    effect: tuple[Effect, ...]

    def entries(self, *sections: Section) -> Iterator[tuple[Section, Entry]]:
        """Entries of some sections (all by default) with the section's name."""
        for section in sections or SECTIONS:
            for entry in getattr(self, section):
                yield section, entry

    def worst(self, section: Section, ablation: Ablation | None = None) -> Entry | None:
        """The least accurate entry of a section, of one ablation if given; None if there is none."""
        entries = [e for e in getattr(self, section) if ablation is None or e.ablation == ablation]
        return min(entries, key=lambda entry: entry.accuracy, default=None)

    def failures(self) -> list[tuple[Section, Entry]]:
        """Every entry below the threshold, worst first."""
        return sorted(((s, e) for s, e in self.entries() if not e.passes), key=lambda item: item[1].accuracy)

    @cached_property
    def grade(self) -> Grade:
        def passes(section: Section) -> bool:
            worst = self.worst(section)
            return worst is None or worst.passes

        has_behaviour = bool(self.behaviour) and passes("behaviour")
        resampled = (entry for entry in self.node_strict if entry.ablation not in ("zero", "mean"))
        node = has_behaviour and passes("node_interchange") and all(entry.passes for entry in resampled)
        strict = all(passes(section) for section in ("node_strict", "edge_strict", "complement"))
        if node and strict and passes("edge_interchange") and self._every_edge_matters:
            return "path"
        if node and strict and self._every_edge_matters:
            return "edge"
        return "node" if node else "none"

    @property
    def _every_edge_matters(self) -> bool:
        return all(effect.changed > 0 for effect in self.effect)

    def to_dict(self) -> dict[str, Any]:
        """The content of `certificate.json`: a row for each node or edge, and each bound once: small files."""
        data: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "grade": self.grade}
        for item in fields(self):
            if item.name not in (*SECTIONS, "effect"):
                data[item.name] = getattr(self, item.name)
        data |= _RULES
        for section in SECTIONS:
            data[section] = _table(getattr(self, section))
        bounds = {(e.count, e.correct): round(e.lower_bound, 6) for _, e in self.entries()}
        data["lower_bounds"] = {
            "columns": list(_BOUND_COLUMNS),
            "rows": [[*counts, bound] for counts, bound in sorted(bounds.items())],
        }
        rows = [[e.name, e.count, e.changed, e.predicted] for e in self.effect]
        data["effect"] = {"columns": list(_EFFECT_COLUMNS), "rows": rows}
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Certificate":
        """The certificate `to_dict` wrote; raises `CheckpointError` for anything else.

        The grade and the bounds are computed anew from the counts; a file that says otherwise is refused.
        """
        try:
            if data["schema_version"] != SCHEMA_VERSION:
                raise CheckpointError(
                    f"certificate has schema_version {data['schema_version']!r}; this package reads {SCHEMA_VERSION}"
                )
            content: dict[str, Any] = {f.name: data[f.name] for f in fields(cls) if f.name not in (*SECTIONS, "effect")}
            content |= {section: _entries(data[section]) for section in SECTIONS}
            certificate = cls(**content, effect=tuple(Effect(*row) for row in data["effect"]["rows"]))
            written = data["grade"]
            bounds = {(count, correct): bound for count, correct, bound in data["lower_bounds"]["rows"]}
            rules = {name: data[name] for name in _RULES}
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"not a certificate: {error!r}; write certificates with Certificate.to_dict"
            ) from error
        if rules != _RULES:
            raise CheckpointError(f"certificate was measured by the rules {rules}; this package's are {_RULES}")
        for section, entry in certificate.entries():
            bound = bounds.get((entry.count, entry.correct))
            if not 0 <= entry.correct <= entry.count:
                raise CheckpointError(
                    f"certificate entry {section} {entry.name}: {entry.correct} correct of {entry.count} cannot be"
                )
            if bound != round(entry.lower_bound, 6):
                raise CheckpointError(
                    f"certificate entry {section} {entry.name}: lower bound {bound} does not follow from "
                    f"{entry.correct} correct of {entry.count}; measure it again"
                )
        if written != certificate.grade:
            raise CheckpointError(
                f"certificate says grade {written!r}, its entries give {certificate.grade!r}; measure it again"
            )
        return certificate

    def __str__(self) -> str:
        """A table: grade, then each section's number of entries and its worst one."""
        lines = [
            f"{self.case}: grade {self.grade} ({self.n_pairs} pairs{', all there are' if self.is_exhaustive else ''}; "
            f"{self.n_pairs_single} for each single node or edge)"
        ]
        for section in SECTIONS:
            entries = getattr(self, section)
            worst = self.worst(section)
            if worst is None:
                lines.append(f"  {section:<17} {'-':>5}  nothing to measure")
                continue
            what = worst.name + (f" ({worst.ablation})" if worst.ablation else "")
            lines.append(
                f"  {section:<17} {len(entries):>5}  worst {worst.accuracy:.4f}  "
                f"99 % bound {worst.lower_bound:.4f}  {what if worst.accuracy < 1 else ''}".rstrip()
            )
        weakest = min(self.effect, key=lambda effect: effect.share, default=None)
        if weakest is not None:
            lines.append(
                f"  {'effect':<17} {len(self.effect):>5}  least {weakest.share:.4f} "
                f"(program: {weakest.predicted_share:.4f})  {weakest.name}"
            )
        return "\n".join(lines)


def _table(entries: Sequence[Entry]) -> dict[str, Any]:
    """Entries as a row for each name, with two columns for each ablation; null where there is no such entry.

    Most rows would hold one number, all pairs and all right: they are cut to the name, and the number stands once as
    the table's `count`. An entry that comes twice is an error.
    """
    ablations = sorted({entry.ablation for entry in entries}, key=_PLACES.__getitem__)
    counts = {(entry.name, entry.ablation): [entry.count, entry.correct] for entry in entries}
    if len(counts) < len(entries):
        raise ValueError("a certificate has one entry for a name and an ablation; here one has two")
    rows = [
        [name, *(count for ablation in ablations for count in counts.get((name, ablation), [None, None]))]
        for name in dict.fromkeys(entry.name for entry in entries)
    ]
    count = max((entry.count for entry in entries), default=0)
    cut = [row[:1] if set(row[1:]) == {count} else row for row in rows]
    return {"columns": _columns(ablations), **({"count": count} if cut != rows else {}), "rows": cut}


def _columns(ablations: Iterable[str | None]) -> list[str]:
    counts = (f"{ablation} {column}" if ablation else column for ablation in ablations for column in _COUNT_COLUMNS)
    return ["name", *counts]


def _entries(table: Mapping[str, Any]) -> tuple[Entry, ...]:
    """The entries of such a table, row by row."""
    ablations: list[Any] = [column.removesuffix(_COUNT_COLUMNS[0]).strip() or None for column in table["columns"][1::2]]
    if table["columns"] != _columns(ablations):
        raise ValueError(f"columns {table['columns']}")
    if len({name for name, *_ in table["rows"]}) < len(table["rows"]):
        raise ValueError("a name comes twice in one section")
    if table["rows"] and not ablations:
        raise ValueError("rows without columns of numbers")
    return tuple(
        Entry(name, ablation, count, correct)
        for name, *written in table["rows"]
        for counts in [written or [table["count"], table["count"]] * len(ablations)]
        for ablation, count, correct in zip(ablations, counts[::2], counts[1::2], strict=True)
        if count is not None
    )


def clopper_pearson_lower(correct: int, count: int) -> float:
    """One-sided lower confidence bound of a proportion at level `CONFIDENCE`, exact (Clopper and Pearson 1934)."""
    if correct <= 0:
        return 0.0
    alpha = 1 - CONFIDENCE
    if correct == count:
        return alpha ** (1 / count)
    from scipy.stats import beta

    return float(beta.ppf(alpha, correct, count - correct + 1))
