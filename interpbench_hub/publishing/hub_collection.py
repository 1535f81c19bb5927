"""The Collection on the Hub: one page that lists every model and dataset with a note."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interpbench_hub.collecting import case_of
from interpbench_hub.manifest import natural_order
from interpbench_hub.publishing.repositories import CIRCUITS, RESULTS, Repository

if TYPE_CHECKING:
    from huggingface_hub import Collection, HfApi

TITLE = "InterpBench: transformers with known circuits"
DESCRIPTION = "Small transformers whose circuits are certified edge by edge, with programs, data and counterfactuals."
"""At most 150 characters; the Hub refuses longer ones."""


@dataclass(frozen=True)
class CollectionChange:
    """What has to happen to the Collection."""

    collection: "Collection | None"
    """The Collection as it is; None if there is none of our title."""
    missing: tuple[Repository, ...]
    renoted: tuple[tuple[str, str], ...]
    """Item ids of repositories whose note is another one, with the note they shall have."""

    @classmethod
    def read(cls, api: "HfApi", namespace: str, repositories: Sequence[Repository]) -> "CollectionChange":
        slug = next((entry.slug for entry in api.list_collections(owner=namespace) if entry.title == TITLE), None)
        # A listing holds no more than four items of each.
        collection = None if slug is None else api.get_collection(slug)
        items = {(item.item_type, item.item_id): item for item in collection.items} if collection else {}
        renoted = []
        missing = []
        for repository in sorted(repositories, key=_order):
            item = items.get((repository.kind, repository.id))
            if item is None:
                missing.append(repository)
            elif item.note != repository.note:
                renoted.append((item.item_object_id, repository.note))
        return cls(collection, tuple(missing), tuple(renoted))

    def __len__(self) -> int:
        return len(self.missing) + len(self.renoted)

    @property
    def summary(self) -> str:
        """What is different, in a few words."""
        parts = [(len(self.missing), "to list"), (len(self.renoted), "with another note")]
        return ", ".join(f"{count} {what}" for count, what in parts if count)

    def apply(self, api: "HfApi", namespace: str, *, private: bool) -> str:
        """Makes the Collection what it shall be; its slug. Items that others have put there stay."""
        collection = self.collection or api.create_collection(
            TITLE, namespace=namespace, description=DESCRIPTION, private=private, exists_ok=True
        )
        for repository in self.missing:
            api.add_collection_item(
                collection.slug, repository.id, repository.kind, note=repository.note, exists_ok=True
            )
        for item, note in self.renoted:
            api.update_collection_item(collection.slug, item, note=note)
        return collection.slug


def _order(repository: Repository) -> tuple[int, list[tuple[int, str]], str]:
    """The circuits first, then the results, then each case's models and data side by side."""
    name = repository.id.partition("/")[2]
    place = (CIRCUITS, RESULTS).index(name) if name in (CIRCUITS, RESULTS) else 2
    return (place, natural_order(case_of(name)), f"{repository.kind == 'dataset'} {name}")
