"""Publishing the whole bundled collection to a Hub on this machine, and loading some of it back in a fresh process.

python benchmarks/publishing.py [--models case_3 case_4 ...] [--data data] [--loaded 20]

Everything is compared byte for byte with what is bundled. Datasets that are not in the folder are built first, which is
not counted. The Hub is the one of the tests: it answers at once, so these are the seconds of our own side.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "hf_benchmark"

LOADING = """
import hashlib, json, sys, time
from pathlib import Path
start = time.perf_counter()
from interpbench_hub import load_certificate, load_circuit, load_model
from interpbench_hub.hub import resolve
from interpbench_hub.manifest import COLLECTION, load_manifest, version_tag
import datasets
print(json.dumps(["import", time.perf_counter() - start]), flush=True)
data, names = Path(sys.argv[1]), sys.argv[2:]
manifest = load_manifest()["models"]
datasets.disable_progress_bars()
for name in names:
    files, repo = manifest[name]["files"], f"interpbench/{name}"
    case = json.loads((COLLECTION / name / "config.json").read_bytes())["case"]
    options = {"revision": version_tag()}
    start = time.perf_counter()
    model, circuit, certificate = (load(repo, **options) for load in (load_model, load_circuit, load_certificate))
    loaded = time.perf_counter()
    rows = datasets.load_dataset(f"interpbench/{case}", **options)
    print(json.dumps([name, loaded - start, time.perf_counter() - loaded]), flush=True)
    # Not from the bundled files: the revision leads to the Hub.
    folder = resolve(repo, files=list(files), **options)
    assert not folder.is_relative_to(COLLECTION)
    assert all(hashlib.sha256((folder / file).read_bytes()).hexdigest() == files[file] for file in files), name
    theirs = load_model(name).state_dict()
    assert all((value == theirs[key]).all() for key, value in model.state_dict().items()), name
    assert str(circuit) == str(load_circuit(name)) and certificate == load_certificate(name), name
    here = {split: str(data / case / f"{split}-00000-of-00001.parquet") for split in ("train", "validation", "test")}
    expected = datasets.load_dataset("parquet", data_files=here)
    for split in here:
        found, table = rows[split].data.table, expected[split].data.table
        assert found.equals(table.cast(found.schema)), (name, split)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Publish the collection to a local Hub and load some of it back.")
    parser.add_argument("--models", nargs="+", help="bundled models; all if left out")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--loaded", type=int, default=20, help="how many models are loaded back")
    arguments = parser.parse_args()
    os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    sys.path.insert(0, str(ROOT))

    from interpbench_hub.publishing import publish
    from tests.local_hub import LocalHub

    with tempfile.TemporaryDirectory() as temporary, LocalHub(Path(temporary) / "hub", {TOKEN: "interpbench"}) as hub:
        options = {"data": arguments.data, "token": TOKEN, "endpoint": hub.url}
        # Builds what is missing.
        publish(arguments.models, dry_run=True, **options)
        start = time.perf_counter()
        outcomes = publish(arguments.models, **options)
        whole = time.perf_counter() - start
        assert not [outcome for outcome in outcomes if outcome.status == "failed"], outcomes
        n_files, n_bytes = sum(each.n_files for each in outcomes), sum(each.n_bytes for each in outcomes)
        rows = [(f"publish {len(outcomes) - 1} repositories, {n_files:,} files, {n_bytes / 1e6:.1f} MB", whole)]
        hub.clear_requests()
        start = time.perf_counter()
        publish(arguments.models, **options)
        rows.append(("publish again: nothing to send", time.perf_counter() - start))
        assert not hub.writes()
        models = sorted({name.partition("/")[2] for kind, name in hub.repositories() if kind == "model"})
        loaded = random.Random(0).sample(models, min(arguments.loaded, len(models)))
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(Path(temporary) / "home")}
        command = [sys.executable, "-W", "ignore", "-c", LOADING, str(arguments.data.resolve()), *loaded]
        output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    (_, importing), *timed = [json.loads(line) for line in output.splitlines()]
    rows.append(("in a fresh process: import", importing))
    rows.append((f"load {len(timed)} models, circuits and certificates from the Hub", sum(row[1] for row in timed)))
    rows.append((f"load {len(timed)} datasets from the Hub", sum(row[2] for row in timed)))
    print("\n| what | seconds |\n|---|---|")
    for what, value in rows:
        print(f"| {what} | {value:.1f} |")


if __name__ == "__main__":
    main()
