"""One model under evaluation: what all methods that run on it share, and a method's row of scores and costs.

Owns how a model is loaded for methods and which settings a row depends on.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interpbench_hub.circuit import Circuit
from interpbench_hub.constants import CERTIFICATE_FILE, MODEL_FILES
from interpbench_hub.discovery.methods import MethodEntry
from interpbench_hub.discovery.naming import GRANULARITIES, ScoreGranularity
from interpbench_hub.discovery.results import Row
from interpbench_hub.errors import SettingError

if TYPE_CHECKING:
    from interpbench_hub.cases import Case
    from interpbench_hub.cases.pairs import Split
    from interpbench_hub.discovery.behaviour import AblatedModel
    from interpbench_hub.discovery.data import PairData
    from interpbench_hub.discovery.exhaustive import Ablation

FAITHFULNESS_PAIRS = 128
"""Pairs that faithfulness is measured on unless said otherwise; twice as many take twice as long."""


@dataclass(frozen=True)
class Settings:
    """All that a method's scores depend on, but for the model."""

    granularity: ScoreGranularity
    ablation: "Ablation"
    n_pairs: int
    faithfulness_pairs: int
    split: "Split"
    seed: int
    options: str
    """JSON"""
    method: str
    method_path: str
    method_sha256: str | None
    package_version: str

    @property
    def columns(self) -> Row:
        return dict(vars(self))

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.columns, sort_keys=True).encode()).hexdigest()[:12]


def check_choices(
    *,
    granularity: str = "qkv-edge",
    ablation: str = "resample",
    split: str = "test",
    n_pairs: int = 1,
    faithfulness_pairs: int = 0,
    seed: int = 0,
    least: int = 1,
) -> None:
    """Raise `SettingError` for what cannot be; `least` is that of `n_pairs`."""
    from interpbench_hub.cases.pairs import SPLITS
    from interpbench_hub.discovery.exhaustive import ABLATIONS

    for what, value, known in (
        ("granularity", granularity, GRANULARITIES),
        ("ablation", ablation, ABLATIONS),
        ("split", split, SPLITS),
    ):
        if value not in known:
            raise SettingError(f"{what} {value!r} is not one of {', '.join(known)}")
    for what, count, floor in (("n_pairs", n_pairs, least), ("faithfulness_pairs", faithfulness_pairs, 0)):
        if isinstance(count, bool) or not isinstance(count, int) or count < floor:
            raise SettingError(f"{what} is {count!r}; it is a whole number of at least {floor}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise SettingError(f"seed is {seed!r}; it is a whole number")


class Subject:
    """A model with all that its rows share: case, circuit, pairs, and the runs that faithfulness compares."""

    def __init__(self, folder: Path) -> None:
        from interpbench_hub.checkpoint import load_config, load_weights
        from interpbench_hub.loader import load_case, load_certificate, load_circuit
        from interpbench_hub.transformer import Transformer

        config = load_config(folder)
        self.folder = folder
        self.case: Case = load_case(folder)
        self.circuit: Circuit = load_circuit(folder)
        # Straight from the file: TransformerLens alone takes seconds to import.
        self.transformer = Transformer(config.transformer)
        self.transformer.load_state_dict(load_weights(folder, config))
        has_certificate = (folder / CERTIFICATE_FILE).exists()
        self.grade = load_certificate(folder).grade if has_certificate else None
        self._hooked: Any = None
        self._data: dict[tuple[Any, ...], PairData] = {}
        self._ablated: dict[tuple[Any, ...], AblatedModel] = {}

    def row(self, entry: MethodEntry, settings: Settings, options: Mapping[str, Any]) -> Row:
        """What a method finds, scored: the columns from `tier` to the costs."""
        import torch

        from interpbench_hub.discovery.labels import labels_of
        from interpbench_hub.discovery.scoring import at_granularity, faithfulness_metrics, ranking_metrics
        from interpbench_hub.discovery.usage import measured

        data, universe = self.pairs(settings.n_pairs, settings.seed, settings.split), self.circuit.universe
        model = self.transformer if entry.takes_transformer else self._hooked_transformer()
        # Methods that draw from torch's own generator give the same in every process, and the caller's stays as it is.
        with torch.random.fork_rng(devices=[]), measured(model) as usage:
            torch.manual_seed(settings.seed)
            scores = entry.scores(
                model,
                universe,
                data,
                granularity=settings.granularity,
                ablation=settings.ablation,
                seed=settings.seed,
                options=options,
            )
        scores = at_granularity(scores, universe, settings.granularity)
        truth = self.circuit.to_head_level() if settings.granularity == "edge" else self.circuit
        n_positives = int(labels_of(truth).is_positive.sum())
        row: Row = {
            "tier": self.case.tier,
            "grade": self.grade,
            "n_edges": len(truth.universe),
            "n_positives": n_positives,
            "n_negatives": len(truth.negatives),
            "wall_seconds": usage.wall_seconds,
            "cpu_seconds": usage.cpu_seconds,
            "forward_passes": usage.forward_rows / len(data),
            "backward_passes": usage.backward_rows / len(data),
            "peak_memory_mb": usage.peak_memory_mb,
            **ranking_metrics(scores, truth),
        }
        if settings.faithfulness_pairs:
            ablated = self.ablated_model(
                settings.n_pairs, settings.faithfulness_pairs, settings.seed, settings.split, settings.ablation
            )
            row |= faithfulness_metrics(scores, truth, ablated, seed=settings.seed)
        return row

    def pairs(self, n_pairs: int, seed: int, split: "Split") -> "PairData":
        from interpbench_hub.discovery.data import PairData

        key = (n_pairs, seed, split)
        if key not in self._data:
            self._data[key] = PairData.of(self.case, n_pairs=n_pairs, seed=seed, split=split)
        return self._data[key]

    def ablated_model(
        self, n_pairs: int, n_used: int, seed: int, split: "Split", ablation: "Ablation"
    ) -> "AblatedModel":
        """The model and its runs on `n_used` of the pairs, spread evenly over all lengths and kinds of pairs."""
        import torch

        from interpbench_hub.discovery.behaviour import AblatedModel

        key = (n_pairs, n_used, seed, split, ablation)
        if key not in self._ablated:
            some = self.pairs(n_pairs, seed, split).rows(torch.arange(n_used) * n_pairs // n_used).trimmed()
            self._ablated[key] = AblatedModel(self.transformer, some, ablation=ablation)
        return self._ablated[key]

    def _hooked_transformer(self) -> Any:
        if self._hooked is None:
            from interpbench_hub.loader import load_model

            self._hooked = load_model(self.folder)
        return self._hooked


def score_file(
    path: str | Path,
    name_or_path: str | Path,
    *,
    missing: float | None = None,
    absolute: bool = False,
    granularity: ScoreGranularity | None = None,
    ablation: "Ablation" = "resample",
    n_pairs: int = FAITHFULNESS_PAIRS,
    seed: int = 0,
) -> dict[str, float | None]:
    """Every metric of scores that were made elsewhere: a file that `read_scores` reads, about a model with a circuit.

    Args:
        path: The JSON file; its names and its granularity are found out.
        name_or_path: The model, as `load_model` takes it.
        missing: Score of edges that the file leaves out; else every edge has to be there.
        absolute: Rank by the size of scores that have a sign.
        granularity: What the file scores, if that is to be said.
        ablation: What replaces an edge's value, for faithfulness.
        n_pairs: Pairs of inputs for faithfulness; with 0 it is left out.
        seed: What pairs and random knockouts are drawn from.

    Raises:
        SettingError: The file is not about this model, or lacks edges.
        UnknownNameError: No such model, or a name in the file that is none of its edges.
    """
    from interpbench_hub.discovery.scores import read_scores
    from interpbench_hub.discovery.scoring import faithfulness_metrics, ranking_metrics
    from interpbench_hub.hub import resolve

    check_choices(ablation=ablation, n_pairs=n_pairs, faithfulness_pairs=n_pairs, seed=seed, least=0)
    subject = Subject(resolve(name_or_path, files=MODEL_FILES, optional=(CERTIFICATE_FILE,)))
    scores = read_scores(path, subject.circuit, granularity=granularity, missing=missing)
    scores = abs(scores) if absolute else scores
    found = ranking_metrics(scores, subject.circuit)
    if n_pairs:
        model = subject.ablated_model(n_pairs, n_pairs, seed, "test", ablation)
        found |= faithfulness_metrics(scores, subject.circuit, model, seed=seed)
    return found
