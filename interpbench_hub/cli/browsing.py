"""Commands that show what there is: cases, models, their circuits and certificates, cards, the demo."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from interpbench_hub.certificate import Grade, is_at_least
from interpbench_hub.cli.common import CacheDir, Revision, Tier, app, case_id, console, print_text
from interpbench_hub.constants import CERTIFICATE_FILE, MODEL_FILES, NAMESPACE
from interpbench_hub.errors import InterpBenchError, UnknownNameError, unknown_name

if TYPE_CHECKING:
    from interpbench_hub.cases import Case
    from interpbench_hub.checkpoint import Provenance

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A model as load_model takes it: case_3, namespace/id or a folder.")
]


@dataclass(frozen=True)
class Row:
    """One line of the list: a case, or a model on the Hub, whose case may be unknown here."""

    name: str
    case: "Case | None"
    grade: Grade | None
    """Grade of the bundled model of this name; None if there is none."""

    @property
    def n_edges(self) -> int | None:
        """Edges of the circuit."""
        return None if self.case is None else len(self.case.high_level.circuit)

    def to_dict(self) -> dict[str, Any]:
        case = self.case
        return {
            "id": self.name,
            "case": case and case.id,
            "task": case and case.description,
            "tier": case and case.tier,
            "heads": case and case.n_attention_heads,
            "edges": self.n_edges,
            "grade": self.grade,
        }


@app.command("list")
def list_(
    tier: Annotated[Tier | None, typer.Option(help="Only cases of this tier.")] = None,
    bundled: Annotated[bool, typer.Option("--bundled", help="Only cases whose trained model comes along.")] = False,
    grade: Annotated[
        Grade | None, typer.Option(help="Only cases whose bundled model has at least this grade; path is the best.")
    ] = None,
    min_edges: Annotated[int | None, typer.Option(help="Only circuits of at least this many edges.")] = None,
    max_edges: Annotated[int | None, typer.Option(help="Only circuits of at most this many edges.")] = None,
    hub: Annotated[
        bool, typer.Option("--hub", help=f"The models that the namespace {NAMESPACE} of the Hub holds, not the cases.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of objects.")] = False,
) -> None:
    """List the cases: what they compute, how many heads and edges their circuits have, which models come along."""
    if min_edges is not None and max_edges is not None and min_edges > max_edges:
        raise typer.BadParameter(f"no circuit has at least {min_edges} and at most {max_edges} edges")
    rows = [
        row
        for row in (_hub_rows() if hub else _case_rows())
        if (tier is None or (row.case is not None and row.case.tier == tier))
        and (not bundled or row.grade is not None)
        and (grade is None or (row.grade is not None and is_at_least(row.grade, grade)))
        and (min_edges is None or (row.n_edges is not None and row.n_edges >= min_edges))
        and (max_edges is None or (row.n_edges is not None and row.n_edges <= max_edges))
    ]
    if as_json:
        print_text(json.dumps([row.to_dict() for row in rows], indent=1, ensure_ascii=False))
        return
    if not rows:
        print_text(f"no {'model' if hub else 'case'} is like that; leave an option out")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    # Names are what other commands take, so they are never cut.
    longest = max((len(row.name) for row in rows), default=0)
    table.add_column("model" if hub else "case", no_wrap=True, min_width=longest)
    for heading in ("task", "tier"):
        table.add_column(heading)
    for heading in ("heads", "edges"):
        table.add_column(heading, justify="right")
    table.add_column("bundled" if hub else "model")
    for row in rows:
        cells = row.to_dict()
        names = ("id", "task", "tier", "heads", "edges", "grade")
        table.add_row(*("" if cells[name] is None else str(cells[name]) for name in names))
    console.print(table)


def _case_rows() -> Iterator[Row]:
    from interpbench_hub.cases import list_cases
    from interpbench_hub.manifest import load_manifest

    models = load_manifest()["models"]
    for case in list_cases():
        yield Row(case.id, case, models[case.id]["grade"] if case.id in models else None)


def _hub_rows() -> Iterator[Row]:
    from interpbench_hub.cases import list_cases
    from interpbench_hub.collecting import case_of
    from interpbench_hub.hub import list_models, split_name
    from interpbench_hub.manifest import load_manifest

    models, cases = load_manifest()["models"], {case.id: case for case in list_cases()}
    for name in list_models("hub"):
        model_id = split_name(name)[1]
        grade = models[model_id]["grade"] if model_id in models else None
        yield Row(name, cases.get(case_of(model_id)), grade)


@app.command()
def show(name: Name, revision: Revision = None, cache_dir: CacheDir = None) -> None:
    """Show a case or a model: task, program, circuit and, of a model, certificate and provenance."""
    model = _model_or_case(name, revision)
    if not isinstance(model, str):
        _show_case(model)
        print_text(str(model.circuit))
        return
    from interpbench_hub.checkpoint import load_config
    from interpbench_hub.hub import resolve
    from interpbench_hub.loader import load_case, load_certificate, load_circuit

    folder = resolve(model, files=MODEL_FILES, optional=(CERTIFICATE_FILE,), revision=revision, cache_dir=cache_dir)
    config = load_config(folder)
    _show_case(load_case(folder))
    print_text(str(load_circuit(folder)))
    if (folder / CERTIFICATE_FILE).exists():
        print_text(f"\n{load_certificate(folder)}")
    else:
        print_text("\nno certificate: the model has not been measured")
    shape = config.transformer
    print_text(f"\n{shape.n_layers} layers of {shape.n_heads} heads, d_model {shape.d_model}")
    print_text(_provenance(config.provenance))
    print_text(f"files in {folder}")


def _model_or_case(name: str, revision: str | None) -> "str | Case":
    """The case that a name stands for if no model of that name comes along; else the name, for the loaders."""
    from interpbench_hub.cases import get_case, list_cases
    from interpbench_hub.hub import local_folder
    from interpbench_hub.manifest import load_manifest

    short, models = case_id(name), load_manifest()["models"]
    if revision is not None or local_folder(name) is not None or short in models:
        return name
    try:
        return get_case(short)
    except UnknownNameError:
        if "/" in name or "." in name:
            return name  # on the Hub, perhaps, or no name at all
        known = dict.fromkeys([*(case.id for case in list_cases()), *models])
        raise unknown_name("case or model", name, known, hint="`interpbench list` lists the cases") from None


def _show_case(case: "Case") -> None:
    console.print(f"[bold]{case.id}[/bold]", end="  ", highlight=False)
    print_text(f"{case.description}\n\n{case.program}\n")


def _provenance(origin: "Provenance") -> str:
    commit = f", commit {origin.commit[:12]}" if origin.commit else ""
    case = f" of {origin.started_from_case}" if origin.started_from_case else ""
    weights = f", with the weights {origin.started_from[:12]}{case} alone" if origin.started_from else ""
    ends = f" (given more after {', '.join(map(str, origin.earlier_ends))}{weights})" if origin.earlier_ends else ""
    return (
        f"trained on {origin.created} with {origin.recipe}, seed {origin.seed}, {origin.steps} steps{ends}, "
        f"{origin.cpu_seconds:.0f} s of processor time ({origin.wall_seconds:.0f} s in all) on {origin.hardware}\n"
        f"by interpbench-hub {origin.package_version}{commit}, torch {origin.torch_version}, Python "
        f"{origin.python_version}"
    )


@app.command()
def card(name: Name, revision: Revision = None, cache_dir: CacheDir = None) -> None:
    """Print a model's card, the README.md of its repository on the Hub."""
    from interpbench_hub.checkpoint import load_config
    from interpbench_hub.collecting import model_id
    from interpbench_hub.hub import local_folder, resolve, split_name

    try:
        from model_cards.model_card import model_card
    except ImportError as error:
        raise InterpBenchError(
            f"cards cannot be made here ({error}); they need the folder model_cards of the source tree"
        ) from error
    folder = resolve(name, files=MODEL_FILES, optional=(CERTIFICATE_FILE,), revision=revision, cache_dir=cache_dir)
    if local_folder(name) is not None:
        namespace, model = None, model_id(load_config(folder))
    else:
        namespace, model = split_name(name)
    text = model_card(model, Path(folder), namespace=namespace or NAMESPACE)
    console.print(text, highlight=False, markup=False, soft_wrap=True, end="" if text.endswith("\n") else "\n")


@app.command()
def demo() -> None:
    """Load the bundled case 3, run it, show its circuit and verify a part of its certificate live."""
    from interpbench_hub.demo import run_demo

    run_demo(console)
