"""Commands that fetch models and verify them."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from interpbench_hub.certificate import SECTIONS
from interpbench_hub.cli.common import CacheDir, Revision, Seed, app, named_models, print_text
from interpbench_hub.constants import CARD_FILE, CERTIFICATE_FILE, MODEL_FILES, TOKENIZER_FILES
from interpbench_hub.errors import CheckpointError, InterpBenchError, SettingError

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="Models as load_model takes them: case_3, namespace/id or a folder."),
]

_HEADINGS = ("behaviour", "node inter.", "edge inter.", "node strict", "edge strict", "complement")
"""Short names of the sections of a certificate, in their order."""


@app.command()
def download(
    names: Names = None,
    all_: Annotated[bool, typer.Option("--all", help="Every bundled model.")] = False,
    revision: Revision = None,
    cache_dir: CacheDir = None,
    force: Annotated[bool, typer.Option("--force", help="Fetch even what is bundled or cached.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Copy each model's folder into this one, whole or not at all.")
    ] = None,
) -> None:
    """Fetch all files of models and print where they are. What is bundled is not fetched, unless --revision or --force.

    Private repositories need a token: that of `hf auth login`, or the one in HF_TOKEN.
    """
    from interpbench_hub.checkpoint import load_config
    from interpbench_hub.hub import HubOptions, local_folder, resolve

    models = named_models(names, all_)
    places = {name: (local_folder(name) or Path(name)).resolve().name for name in models}
    if out is not None and len(set(places.values())) < len(places):
        raise SettingError(f"{', '.join(places)} would go into one folder of {out}; copy them one by one")
    for name in models:
        options: HubOptions = {"revision": revision, "cache_dir": cache_dir, "force_download": force}
        folder = resolve(name, files=MODEL_FILES, optional=(CERTIFICATE_FILE, CARD_FILE), **options)
        if load_config(folder).is_language:
            # Others have none, and would be asked for them each time.
            folder = resolve(name, files=TOKENIZER_FILES, **options)
        print_text(f"{name}: {folder if out is None else _copied(folder, out / places[name])}")


def _copied(folder: Path, target: Path) -> Path:
    """`target`, after it has become a copy of a checkpoint folder; a folder that is there is never changed."""
    known = (*MODEL_FILES, CERTIFICATE_FILE, *TOKENIZER_FILES, CARD_FILE)
    files = [file for file in known if (folder / file).is_file()]
    try:
        content = {file: (folder / file).read_bytes() for file in files}
        if target.exists():
            there = {path.name: path.read_bytes() for path in target.iterdir()} if target.is_dir() else {}
            if there != content:
                raise CheckpointError(f"{target} is there already and is another; delete it or choose another --out")
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.copying-", dir=target.parent) as staging:
            # Within the staging folder, whose own permissions are the owner's alone.
            whole = Path(staging) / target.name
            whole.mkdir()
            for file in files:
                (whole / file).write_bytes(content[file])
            whole.replace(target)
    except OSError as error:
        raise CheckpointError(f"{target}: cannot be written ({error.strerror or error})") from error
    return target


@app.command()
def verify(
    names: Names = None,
    all_: Annotated[bool, typer.Option("--all", help="Every bundled model.")] = False,
    revision: Revision = None,
    cache_dir: CacheDir = None,
    edges: Annotated[
        int, typer.Option(min=0, help="Single edges outside the circuit to replace, drawn at random.")
    ] = 20,
    pairs: Annotated[int, typer.Option(min=1, help="Fresh pairs of inputs behind each entry.")] = 500,
    seed: Seed = 0,
) -> None:
    """Check the files of models, and measure a part of their certificates anew.

    Checksums are those of the manifest for bundled models and published revisions; the weights' own is in every
    certificate. Each line has the worst share of right pairs among the entries measured. What is measured agrees with
    the certificate unless chance can hardly explain the difference. The exit status is 1 if anything disagrees.
    """
    from interpbench_hub.verification import verify as verified

    models = named_models(names, all_)
    width = max(map(len, ("model", *models)))
    print_text(f"{'model':<{width}}  {'grade':<5}  {'  '.join(f'{heading:>11}' for heading in _HEADINGS)}  verdict")
    n_wrong = 0
    for name in models:
        try:
            result = verified(name, n_pairs=pairs, n_edges=edges, seed=seed, revision=revision, cache_dir=cache_dir)
        except InterpBenchError as error:
            n_wrong += 1
            print_text(_line(name, width, "-", [None] * len(SECTIONS), "cannot be verified"))
            print_text(f"  {error}")
            continue
        worst = [result.worst(section) for section in SECTIONS]
        print_text(_line(name, width, result.certificate.grade, worst, "agrees" if result.agrees else "DISAGREES"))
        for problem in result.problems:
            print_text(f"  {problem}")
        n_wrong += not result.agrees
    if n_wrong:
        print_text(f"{n_wrong} of {len(models)} models cannot be verified or are not as their files say")
        raise typer.Exit(1)


def _line(name: str, width: int, grade: str, worst: list[float | None], verdict: str) -> str:
    cells = ["-" if share is None else f"{share:.4f}" for share in worst]
    return f"{name:<{width}}  {grade:<5}  {'  '.join(f'{cell:>11}' for cell in cells)}  {verdict}"
