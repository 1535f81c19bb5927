"""The YAML that heads the cards, which the Hub and `datasets` read; text and tables are the cards' own affair."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from model_cards.rendering import render

if TYPE_CHECKING:
    from huggingface_hub import DatasetCardData

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10**7, "1M<n<10M"))
_TAGS = ("mechanistic-interpretability", "circuit-analysis", "transformers", "benchmark")

Configs = Mapping[str, Mapping[str, str]]
"""For each config, the file of each split."""


def card_data(
    title: str, tags: Sequence[str], n_rows: int, configs: Configs, *, default: str | None = None
) -> "DatasetCardData":
    """The metadata of a dataset; without a default, the name of a config may be left out only if it is the one."""
    from huggingface_hub import DatasetCardData

    entries = []
    for name, files in configs.items():
        entry: dict[str, Any] = {"config_name": name} | ({"default": True} if name == default else {})
        entries.append(entry | {"data_files": [{"split": split, "path": path} for split, path in files.items()]})
    return DatasetCardData(
        license="cc-by-4.0",
        pretty_name=title,
        tags=[*_TAGS, *tags],
        size_categories=[next((name for most, name in _SIZES if n_rows < most), "n>10M")],
        configs=entries,
    )


def render_card(template: str, data: "DatasetCardData", **values: object) -> str:
    """The text of a card whose template begins with `card_data` between lines of dashes."""
    from huggingface_hub import DatasetCard

    return str(DatasetCard(render(template, card_data=data.to_yaml(), **values)))
