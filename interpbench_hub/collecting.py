"""Making the bundled collection: certified checkpoints go in, the manifest is renewed."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interpbench_hub import manifest
from interpbench_hub.certificate import Grade, is_at_least
from interpbench_hub.checkpoint import Checkpoint, CheckpointConfig, load_checkpoint, save_checkpoint
from interpbench_hub.constants import ATTEMPTS_FILE
from interpbench_hub.errors import CheckpointError

if TYPE_CHECKING:
    from interpbench_hub.siit.attempts import Ledger

_SUFFIX_OF_RECIPE = {"edge-siit": "", "siit": "_siit", "behaviour": "_natural"}


def bundle(folders: Iterable[str | Path], collection: str | Path | None = None) -> list[Path]:
    """Put certified checkpoints into a collection under their model ids; returns their places there.

    The id is the case's, with `_siit` or `_natural` for models of the node-level recipe or of behaviour alone. The
    manifest lists the attempts of the ledger next to a folder, if there is one with this run in it. Folders of the
    collection itself are saved anew, as this version writes checkpoints, and keep their attempts.
    Raises `CheckpointError` for a checkpoint without a certificate and for two of one id, before anything is saved.
    """
    from interpbench_hub.siit.attempts import Ledger

    target = Path(collection) if collection is not None else manifest.COLLECTION
    found: dict[Path, tuple[str | Path, Checkpoint]] = {}
    attempts: dict[str, list[dict[str, Any]]] = {}
    for folder in folders:
        checkpoint = _certified(folder)
        place = target / model_id(checkpoint.config)
        if place in found:
            raise CheckpointError(f"{folder} and {found[place][0]} are both of model {place.name}; bundle one of them")
        found[place] = folder, checkpoint
        if not (place.exists() and place.samefile(folder)):
            attempts[place.name] = _attempts(Ledger.load(Path(folder).absolute().parent), checkpoint)
    for place, (_, checkpoint) in found.items():
        save_checkpoint(checkpoint, place)
    if found:
        manifest.write_manifest(target, attempts)
    return list(found)


def bundle_all(runs: str | Path, collection: str | Path | None = None, *, least: Grade = "none") -> list[Path]:
    """Put the chosen model of every case and recipe in a folder of runs into a collection; returns their places there.

    Models of a grade lower than `least` are left out; comparison twins are not, to fall short is what they are for.
    Raises `CheckpointError` if there is no ledger of attempts in the folder, or for a checkpoint that is not whole.
    """
    from interpbench_hub.siit.attempts import Ledger, run_folder

    runs = Path(runs)
    ledgers = [Ledger.load(path.parent) for path in sorted(runs.glob(f"*/{ATTEMPTS_FILE}"))]
    if not ledgers:
        raise CheckpointError(
            f"{runs} holds no {ATTEMPTS_FILE}; give the folder of runs of `interpbench train --all`, or bundle "
            "checkpoint folders one by one"
        )
    folders: list[Path] = []
    for ledger in ledgers:
        for recipe in ledger.recipes:
            chosen = ledger.chosen(recipe)
            is_twin = recipe != "edge-siit"
            if chosen and (is_twin or is_at_least(chosen.grade or "none", least)):
                folders.append(run_folder(runs, ledger.case, recipe, chosen.seed))
    return bundle(folders, collection)


def model_id(config: CheckpointConfig) -> str:
    """The id of a model in the collection, by its case and recipe."""
    recipe = config.provenance.recipe
    return config.case + _SUFFIX_OF_RECIPE.get(recipe, f"_{recipe}")


def case_of(model_id: str) -> str:
    """Id of the case that a model with this id was trained for.

    >>> case_of("case_3"), case_of("case_3_siit")
    ('case_3', 'case_3')
    """
    suffix = next((suffix for suffix in _SUFFIX_OF_RECIPE.values() if suffix and model_id.endswith(suffix)), "")
    return model_id.removesuffix(suffix)


def _certified(folder: str | Path) -> Checkpoint:
    checkpoint = load_checkpoint(folder)
    if checkpoint.certificate is None:
        raise CheckpointError(f"{folder} has no certificate; run `interpbench certify {folder}` first")
    return checkpoint


def _attempts(ledger: "Ledger", checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """The attempts behind a checkpoint, as the manifest lists them; none if the ledger does not know it."""
    recipe, seed = checkpoint.config.provenance.recipe, checkpoint.config.provenance.seed
    finished = [attempt for attempt in ledger.attempts(recipe) if attempt.status == "finished"]
    if ledger.case != checkpoint.config.case or seed not in [attempt.seed for attempt in finished]:
        return []
    return [
        {
            "seed": attempt.seed,
            "steps": attempt.steps,
            "grade": attempt.grade,
            "training_cpu_seconds": attempt.training_cpu_seconds,
            "certificate_cpu_seconds": attempt.certificate_cpu_seconds,
            "chosen": attempt.seed == seed,
        }
        for attempt in finished
    ]
