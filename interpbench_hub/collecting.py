"""Making the bundled collection: certified checkpoints go in, the manifest is renewed."""

from pathlib import Path

from interpbench_hub.checkpoint import load_checkpoint, save_checkpoint
from interpbench_hub.errors import CheckpointError
from interpbench_hub.hub import COLLECTION, write_manifest

_ID_OF_RECIPE = {"edge-siit": "{case}", "siit": "{case}_siit", "behaviour": "{case}_natural"}


def bundle(folder: str | Path, collection: str | Path | None = None) -> Path:
    """Put a certified checkpoint into a collection under its model id; returns its place there.

    The id is the case's, with `_siit` or `_natural` for models of the node-level recipe or of behaviour alone.
    Raises `CheckpointError` for a checkpoint without a certificate.
    """
    checkpoint = load_checkpoint(folder)
    if checkpoint.certificate is None:
        raise CheckpointError(f"{folder} has no certificate; run `interpbench certify {folder}` first")
    target = Path(collection) if collection is not None else COLLECTION
    config = checkpoint.config
    name = _ID_OF_RECIPE.get(config.provenance.recipe, "{case}_" + config.provenance.recipe)
    place = target / name.format(case=config.case)
    save_checkpoint(checkpoint, place)
    write_manifest(target)
    return place
