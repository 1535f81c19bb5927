"""Running methods over the collection: one row a model and method, in parallel processes, resumable.

Owns what is run and in which order. A model's rows are made in `subject`, kept in `results`; processes are in `pool`.
"""

import json
import platform
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from interpbench_hub.constants import CERTIFICATE_FILE, MODEL_FILES
from interpbench_hub.discovery.methods import Method, MethodEntry, get_method, is_importable
from interpbench_hub.discovery.naming import ScoreGranularity
from interpbench_hub.discovery.pool import Died, run_jobs
from interpbench_hub.discovery.results import Journal, Row, check_tables, row_key, to_frame
from interpbench_hub.discovery.subject import FAITHFULNESS_PAIRS, Settings, Subject, check_choices
from interpbench_hub.errors import InterpBenchError, SettingError

if TYPE_CHECKING:
    from pandas import DataFrame

    from interpbench_hub.cases.pairs import Split
    from interpbench_hub.discovery.exhaustive import Ablation

Event = dict[str, Any]
Report = Callable[[Event], None]


@dataclass(frozen=True)
class _Call:
    """One row to make."""

    settings: Settings
    options: dict[str, Any]
    row: Row
    """What is known of the row before it is made."""


@dataclass(frozen=True)
class _Job:
    """One model and the methods to run on it: the model, its pairs and its runs are had once."""

    model: str
    folder: Path
    size: int
    calls: tuple[_Call, ...]
    entries: tuple[MethodEntry, ...] = field(default=(), compare=False)
    """The methods of the calls where they cannot be found by their paths; then the job stays in this process."""


def evaluate(
    method: "str | Method | Sequence[str | Method]",
    cases: str | Iterable[str] | None = None,
    *,
    granularity: ScoreGranularity = "qkv-edge",
    ablation: "Ablation" = "resample",
    n_pairs: int = 256,
    seed: int = 0,
    split: "Split" = "test",
    faithfulness_pairs: int = FAITHFULNESS_PAIRS,
    workers: int | None = None,
    out: str | Path | None = "results",
    restart: bool = False,
    report: Report | None = None,
    **options: Any,
) -> "DataFrame":
    """Run circuit discovery methods on models with known circuits and score what they find; one row a model and method.

    Rows are kept in the folder `out` as they come, and `results.parquet` there holds all of them. A call that was
    interrupted, by Ctrl-C or otherwise, goes on when it is made again: rows that are there for the same settings, code
    of the method and weights are not made again, those with an error are. An error in one row stops no other. A script
    that calls this guards its main part by `if __name__ == "__main__":`, as always with processes.

    Args:
        method: Name of a method (`interpbench methods` lists them), import path `package.module:function`, a function,
            or several of these. What a method is: `interpbench_hub.discovery.methods.Method`.
        cases: Models as `load_model` takes them (`case_3`, `case_3_siit`, a folder) and tiers; all certified models
            that are bundled, of grade edge or path, if None.
        granularity: What is scored: edges into each of q, k and v, edges into heads as wholes, or nodes. What a method
            cannot score itself is merged or lifted (`scoring.at_granularity`).
        ablation: What replaces an edge's value, for methods that have the option and for faithfulness.
        n_pairs: Pairs of inputs a model.
        seed: What pairs and random knockouts are drawn from; also that of methods that have one.
        split: Split of the case's dataset that pairs are drawn from.
        faithfulness_pairs: How many of the pairs faithfulness is measured on, spread evenly; with 0 it is not.
        workers: Processes of one thread each, as many as cores by default; with 1 this very process does it all.
        out: Folder that keeps the rows; None keeps none.
        restart: Make all rows again.
        report: Called with every event, a dictionary: `jobs` (`total`, `kept`) once, then a `row` for each.
        **options: Options of the method; of several methods, each has to have them.

    Returns:
        The rows of this call, those that were there included: `interpbench_hub.discovery.results.COLUMNS`.

    Raises:
        SettingError, UnknownNameError: The arguments cannot be, or pandas is missing (extra `data`).
        BusyError: Another evaluation writes to `out`.

    >>> evaluate("eap", cases=["case_3", "single-head"], workers=2)  # doctest: +SKIP
    """
    check_tables()
    methods: Iterable[Any] = [method] if isinstance(method, str) or callable(method) else method
    entries = [get_method(one) for one in methods]
    settings = settings_of(entries, granularity, ablation, n_pairs, seed, split, faithfulness_pairs, options)
    is_portable = all(map(is_importable, entries))
    n_workers = _n_workers(workers, is_portable=is_portable)
    jobs = _jobs(chosen_models(cases), entries, settings, options, is_portable=is_portable)
    folder = None if out is None else Path(out)
    with ExitStack() as stack:
        journal = None
        if folder is not None:
            from interpbench_hub.siit.lock import folder_lock

            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(folder_lock(folder))
            journal = Journal(folder)
            journal.repair()
        wanted = {row_key(call.row): None for job in jobs for call in job.calls}
        rows = {} if journal is None or restart else {row_key(row): row for row in journal.rows()}
        rows = {key: row for key, row in rows.items() if key in wanted and row["error"] is None}
        jobs = [_without(job, rows) for job in jobs]
        jobs = sorted((job for job in jobs if job.calls), key=lambda job: -job.size)
        if report:
            report({"event": "jobs", "total": len(wanted), "kept": len(rows)})
        try:
            for row in _made(jobs, min(n_workers, max(1, len(jobs)))):
                rows[row_key(row)] = row
                if journal is not None:
                    journal.add(row)
                if report:
                    report({"event": "row", "row": row})
        finally:
            if journal is not None:
                journal.write_table()
    return to_frame(rows[key] for key in wanted if key in rows)


# -- what is to be done ------------------------------------------------------------------------------------------------


def settings_of(
    entries: list[MethodEntry],
    granularity: ScoreGranularity,
    ablation: "Ablation",
    n_pairs: int,
    seed: int,
    split: "Split",
    faithfulness_pairs: int,
    options: dict[str, Any],
) -> list[Settings]:
    """The settings of each method, checked before anything is run."""
    from interpbench_hub import __version__

    check_choices(
        granularity=granularity,
        ablation=ablation,
        split=split,
        n_pairs=n_pairs,
        faithfulness_pairs=faithfulness_pairs,
        seed=seed,
    )
    if not entries:
        raise SettingError("no method is given; `interpbench methods` lists them")
    found = []
    for entry in entries:
        entry.check_options(options)
        # Options only need to be told apart, so what JSON does not have is written as Python shows it.
        text = json.dumps(options, sort_keys=True, default=repr)
        found.append(
            Settings(
                granularity,
                ablation,
                n_pairs,
                min(faithfulness_pairs, n_pairs),
                split,
                seed,
                text,
                entry.name,
                entry.path,
                entry.sha256,
                __version__,
            )
        )
    if len({one.digest for one in found}) < len(found):
        raise SettingError(f"a method is given twice among {', '.join(entry.name for entry in entries)}; name it once")
    return found


def _n_workers(workers: int | None, *, is_portable: bool) -> int:
    from interpbench_hub.siit.workers import default_workers

    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise SettingError(f"workers is {workers!r}; it is a whole number of at least 1")
    if is_portable:
        return workers or default_workers()
    if workers not in (None, 1):
        raise SettingError(
            f"workers is {workers}, but a method is a function that other processes cannot import (defined in a "
            "notebook or within another function); put it into a module, or use workers=1"
        )
    return 1


def chosen_models(cases: str | Iterable[str] | None = None) -> list[str]:
    """Names of models from names and tiers; all bundled certified ones, of grade edge or path, if None.

    Twins of other recipes (`case_3_siit`, `case_3_natural`) are taken when they are named.
    """
    from interpbench_hub.cases.case import Tier
    from interpbench_hub.collecting import case_of
    from interpbench_hub.manifest import load_manifest

    models = load_manifest()["models"]
    certified = [name for name, entry in models.items() if entry["grade"] in ("edge", "path") and case_of(name) == name]
    if cases is None:
        return certified
    names: dict[str, None] = {}
    for name in [cases] if isinstance(cases, str) else cases:
        if name in get_args(Tier):
            from interpbench_hub.cases import get_case

            names |= dict.fromkeys(model for model in certified if get_case(model).tier == name)
        else:
            names[str(name)] = None
    if not names:
        raise SettingError("no model is given; name models or tiers, or leave `cases` out for all that are certified")
    return list(names)


def _jobs(
    models: Sequence[str],
    entries: list[MethodEntry],
    settings: list[Settings],
    options: dict[str, Any],
    *,
    is_portable: bool,
) -> list[_Job]:
    from interpbench_hub.checkpoint import load_config, weights_sha256
    from interpbench_hub.hub import resolve

    jobs = []
    for model in models:
        folder = resolve(model, files=MODEL_FILES, optional=(CERTIFICATE_FILE,))
        config, digest = load_config(folder), weights_sha256(folder)
        shape = config.transformer
        size = len(shape.edges) * shape.n_layers * shape.d_model * shape.n_ctx
        about = {"model": model, "case": config.case, "recipe": config.provenance.recipe, "weights_sha256": digest}
        calls = tuple(_Call(one, options, about | one.columns | {"settings": one.digest}) for one in settings)
        jobs.append(_Job(model, folder.absolute(), size, calls, () if is_portable else tuple(entries)))
    return jobs


def _without(job: _Job, rows: dict[tuple[str, str, str], Row]) -> _Job:
    """A job without the calls whose rows are there."""
    keep = [place for place, call in enumerate(job.calls) if row_key(call.row) not in rows]
    entries = tuple(job.entries[place] for place in keep) if job.entries else ()
    return replace(job, calls=tuple(job.calls[place] for place in keep), entries=entries)


def _made(jobs: list[_Job], workers: int) -> Iterator[Row]:
    """The rows of all jobs as they come; where a process dies, the call it was at has an error and the rest goes on."""
    begun: dict[str, int] = {}
    results = run_jobs(_work, jobs, workers)
    again: list[Any] | None = None
    try:
        while True:
            try:
                job, message = results.send(again)
            except StopIteration:
                return
            again = None
            if isinstance(message, Died):
                place = begun.pop(job.model, 0)
                error = f"its process died (exit code {message.exit_code}); too little memory, or a crash of the method"
                yield _finished(job.calls[place], {"error": error})
                if len(job.calls) > place + 1:
                    again = [replace(job, calls=job.calls[place + 1 :])]
            elif isinstance(message, int):
                begun[job.model] = message
            else:
                yield message
    finally:
        results.close()


# -- within a process --------------------------------------------------------------------------------------------------


def _work(job: _Job) -> Iterator[int | Row]:
    """The rows of a job, before each the number of its call."""
    from interpbench_hub.siit.machine import torch_threads

    with torch_threads(1):
        subject: Subject | None = None
        for place, call in enumerate(job.calls):
            yield place
            try:
                entry = job.entries[place] if job.entries else get_method(_known_as(call.settings))
                subject = subject or Subject(job.folder)
                found = subject.row(entry, call.settings, call.options)
            except Exception as error:
                found = {"error": _in_a_line(error)}
            yield _finished(call, found)


def _known_as(settings: Settings) -> str:
    return settings.method if ":" not in settings.method else settings.method_path


def _in_a_line(error: Exception) -> str:
    if isinstance(error, InterpBenchError):
        return " ".join(str(error).split("\n"))
    where = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(f"{type(error).__name__}: {error}".split("\n"))
    return f"{text} ({Path(where.filename).name}:{where.lineno})"


def _finished(call: _Call, found: Row) -> Row:
    """A row from what is known before and what was found, with where and when it was made."""
    import torch

    from interpbench_hub.siit.machine import hardware

    made = {
        "torch_version": torch.__version__,
        "python_version": platform.python_version(),
        "hardware": hardware(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return call.row | {"error": None} | found | made
