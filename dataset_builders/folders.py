"""Folders of datasets: `<out>/<case>/<split>-00000-of-00001.parquet`, a card in each folder and one over all.

Owns how a build finds out what is finished, and builds of many cases. Imports what is heavy where it is used, so that
the command line starts quickly.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_builders.files import partial_path, remove_partial_files, usable_folder, write_whole
from dataset_builders.settings import DEFAULT_ROWS, check_settings
from interpbench_hub.constants import CARD_FILE, NAMESPACE
from interpbench_hub.errors import SettingError

if TYPE_CHECKING:
    from interpbench_hub.cases.case import Case
    from interpbench_hub.cases.pairs import Split

FORMAT = 2
"""Version of the columns and of how rows are drawn; files of another format are built again."""
GENERATED = "<!-- Written by dataset_builders; a build writes it anew. -->"
"""Stands in every card, so that no other README is overwritten."""
_RECORD = b"interpbench"


def build_dataset(case: "Case | str", out: str | Path, *, seed: int = 0, rows: Sequence[int] = DEFAULT_ROWS) -> Path:
    """Writes the dataset of a case, or what is missing of it, and returns its folder `<out>/<case id>`.

    Args:
        case: A case or the id of a registered one.
        out: The folder that holds the folders of all cases; its card is brought up to date.
        seed: Another seed makes another dataset; the same one makes the same bytes.
        rows: Rows of train, validation and test.

    Splits that are there already with the same seed and rows are left as they are. The folder of the case, like `out`,
    can be given to `datasets.load_dataset`.

    >>> folder = build_dataset("case_3", "datasets", rows=(100, 20, 20))
    >>> sorted(path.name for path in folder.iterdir())[:2]
    ['README.md', 'test-00000-of-00001.parquet']
    """
    check_settings(rows, seed)
    folder, _ = _build_case(case, usable_folder(out, GENERATED, "datasets"), seed, rows)
    write_folder_card(out)
    return folder


def build_datasets(
    case_ids: Sequence[str],
    out: str | Path,
    *,
    seed: int = 0,
    rows: Sequence[int] = DEFAULT_ROWS,
    workers: int = 1,
) -> Iterator[tuple[str, bool]]:
    """Builds many cases in `workers` processes; yields each id when it is done, and whether anything was written."""
    from interpbench_hub.cases import get_case

    check_settings(rows, seed)
    if workers < 1:
        raise SettingError(f"workers {workers} is less than 1; give the number of processes to build in")
    for case_id in case_ids:
        get_case(case_id)
    folder = usable_folder(out, GENERATED, "datasets")
    try:
        if workers == 1:
            for case_id in case_ids:
                yield case_id, _build_case(case_id, folder, seed, rows)[1]
        else:
            yield from _build_in_processes(case_ids, folder, seed, rows, workers)
    finally:
        # Whatever is finished can be loaded, also after an interruption.
        write_folder_card(folder)


def write_folder_card(out: str | Path) -> None:
    """Writes the card of a folder of datasets, which makes every finished case in it a config."""
    from dataset_builders.card import folder_card

    found = [records for path in sorted(Path(out).iterdir()) if path.is_dir() and (records := _records(path))]
    if found:
        write_whole(Path(out) / CARD_FILE, folder_card(found))


def dataset_files(folder: str | Path, *, namespace: str = NAMESPACE) -> dict[str, bytes]:
    """The files of a built case's repository `<namespace>/<case id>` on the Hub, by their paths in it.

    Raises `SettingError` for a folder that holds no finished dataset.
    """
    from dataset_builders.card import case_card
    from interpbench_hub.cases import get_case

    folder = Path(folder)
    records = _records(folder)
    if records is None or not (folder / CARD_FILE).exists():
        raise SettingError(f"{str(folder)!r} holds no finished dataset of a case; build it first")
    card = case_card(get_case(records["train"]["case"]), records, namespace=namespace)
    return {
        CARD_FILE: card.encode(),
        **{split_file(split): (folder / split_file(split)).read_bytes() for split in records},
    }


def split_file(split: str) -> str:
    """Name of a split's file in a case's folder."""
    return f"{split}-00000-of-00001.parquet"


def read_record(path: Path) -> dict[str, Any] | None:
    """What a file says about how it was built; None if there is no such file or it is none of ours."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    return json.loads(metadata[_RECORD]) if _RECORD in metadata else None


# -- one case ----------------------------------------------------------------------------------------------------------


def _build_case(case: "Case | str", out: Path, seed: int, rows: Sequence[int]) -> tuple[Path, bool]:
    """Builds what is missing of a case; its folder, and whether anything was missing."""
    from interpbench_hub.siit.machine import torch_threads

    with torch_threads(1):
        return _build_in_thread(case, out, seed, rows)


def _build_in_thread(case: "Case | str", out: Path, seed: int, rows: Sequence[int]) -> tuple[Path, bool]:
    from dataset_builders.card import case_card
    from interpbench_hub.cases import get_case
    from interpbench_hub.cases.pairs import SPLITS

    case = get_case(case) if isinstance(case, str) else case
    folder = usable_folder(out / case.id, GENERATED, "datasets")
    settings = {"format": FORMAT, "case": case.id, "digest": case_digest(case), "seed": seed, "rows": list(rows)}
    missing: list[Split] = [split for split in SPLITS if not _is_built(folder / split_file(split), settings)]
    card = folder / CARD_FILE
    is_finished = not missing and card.exists()
    if not is_finished:
        # Without its card a folder is unfinished, also while files of two seeds lie side by side.
        card.unlink(missing_ok=True)
        remove_partial_files(folder)
        for split in missing:
            _write_split(case, split, folder / split_file(split), settings)
    records = _records(folder)
    assert records is not None
    text = case_card(case, records)
    # What a card says changes more often than the rows, so that of a finished dataset is brought up to date.
    if not is_finished or card.read_text(encoding="utf-8") != text:
        write_whole(card, text)
    return folder, not is_finished


def _is_built(path: Path, settings: dict[str, Any]) -> bool:
    record = read_record(path)
    return record is not None and all(record.get(key) == value for key, value in settings.items())


def _write_split(case: "Case", split: "Split", path: Path, settings: dict[str, Any]) -> None:
    import pyarrow.parquet as pq

    from dataset_builders.draws import draw_of
    from dataset_builders.tables import features_of, tables_of
    from interpbench_hub.cases.pairs import SPLITS

    drawn = draw_of(case, split, seed=settings["seed"])
    partial = partial_path(path)
    try:
        schema = features_of(case).arrow_schema
        with pq.ParquetWriter(partial, schema, compression="zstd", write_page_index=True) as writer:
            for rows in tables_of(drawn, settings["rows"][SPLITS.index(split)]):
                writer.write_table(rows, row_group_size=rows.num_rows)
            record = {
                **settings,
                "split": split,
                "description": case.description,
                "lengths": [case.min_len, case.max_len],
                **drawn.record(),
            }
            writer.add_key_value_metadata({_RECORD: json.dumps(record)})
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _records(folder: Path) -> dict[str, dict[str, Any]] | None:
    """What the files of a case's folder say, by split; None unless all are there and of one build."""
    splits = ("train", "validation", "test")
    records = {split: read_record(folder / split_file(split)) for split in splits}
    whole = {split: record for split, record in records.items() if record is not None}
    keys = {json.dumps([record.get(key) for key in ("format", "digest", "seed", "rows")]) for record in whole.values()}
    return whole if len(whole) == len(splits) and len(keys) == 1 else None


def case_digest(case: "Case") -> str:
    """A fingerprint of what a case's inputs and outputs are.

    Functions have no text that could be compared, so the program enters by its outputs on some inputs and the sampler
    by the inputs it draws.
    """
    rng = random.Random(0)
    n_lengths = case.max_len - case.min_len + 1
    inputs = [case.sample(rng, case.min_len - 1 + number % n_lengths) for number in range(64)]
    outputs = [case.program(tokens) for tokens in inputs]
    variables = [(variable.name, variable.classes) for variable in case.graph.variables]
    edges = [(str(edge), edge.kind) for edge in case.circuit]
    what = (case.id, case.vocab, case.min_len, case.max_len, case.causal, variables, edges, inputs, outputs)
    if case.is_language:
        from interpbench_hub.cases.pairs import SPLITS
        from interpbench_hub.ioi.templates import TEMPLATES, templates_of

        # A few inputs do not show every template.
        what = (*what, TEMPLATES, [templates_of(split) for split in SPLITS])
    return hashlib.sha256(repr(what).encode()).hexdigest()


# -- many cases --------------------------------------------------------------------------------------------------------


def _build_in_processes(
    case_ids: Sequence[str], out: Path, seed: int, rows: Sequence[int], workers: int
) -> Iterator[tuple[str, bool]]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed

    # Torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        ids = {pool.submit(_build_case, case_id, out, seed, rows): case_id for case_id in case_ids}
        try:
            for future in as_completed(ids):
                yield ids[future], future.result()[1]
        finally:
            pool.shutdown(cancel_futures=True)
