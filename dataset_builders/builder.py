"""The `datasets` builder: one case's dataset as tables, split by split.

Owns how settings name a dataset and how many rows it has. It writes to the cache of `datasets` as any builder does;
`folders` writes the same tables as the files that are published.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import datasets
import pyarrow as pa
from datasets.builder import Key

from dataset_builders.draws import draw_of
from dataset_builders.folders import FORMAT, case_digest
from dataset_builders.settings import DEFAULT_ROWS, check_settings
from dataset_builders.tables import features_of, tables_of
from interpbench_hub.cases.pairs import SPLITS, Split
from interpbench_hub.cases.registry import get_case

if TYPE_CHECKING:
    from interpbench_hub.cases.case import Case


@dataclass(eq=False)
class CircuitConfig(datasets.BuilderConfig):
    """Which case, how many rows of each split, and from which seed."""

    seed: int = 0
    rows: tuple[int, int, int] = DEFAULT_ROWS
    """Rows of train, validation and test."""
    case: "Case | None" = None
    """The case itself where it is not registered; else `name` is its id."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rows = check_settings(self.rows, self.seed)
        if self.case is not None:
            self.name = self.case.id

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """What the cache calls this dataset: everything its rows depend on."""
        case = self.case or get_case(self.name)
        return f"{case.id}-{case_digest(case)[:16]}-seed-{self.seed}-rows-{'-'.join(map(str, self.rows))}"


class CircuitDataset(datasets.ArrowBasedBuilder):
    """Inputs of a case with outputs, variables and counterfactuals, in the splits train, validation and test.

    >>> builder = CircuitDataset(config_name="case_3", rows=(20, 10, 10))
    >>> builder.download_and_prepare()
    >>> builder.as_dataset("test").num_rows
    10
    """

    BUILDER_CONFIG_CLASS = CircuitConfig
    VERSION = datasets.Version(f"{FORMAT}.0.0")
    config: CircuitConfig

    @property
    def case(self) -> "Case":
        return self.config.case or get_case(self.config.name)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(description=self.case.description, features=features_of(self.case))

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name=split, gen_kwargs={"split": split}) for split in SPLITS]

    def _generate_tables(self, **kwargs: Any) -> Iterator[tuple[Key, pa.Table]]:
        split: Split = kwargs["split"]
        n_rows = self.config.rows[SPLITS.index(split)]
        drawn = draw_of(self.case, split, seed=self.config.seed)
        for number, rows in enumerate(tables_of(drawn, n_rows)):
            yield Key(0, number), rows
