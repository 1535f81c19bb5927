"""Install torch into the environment of the Python that runs this file, as a CPU build unless there is an NVIDIA GPU.

A plain `pip install torch` on Linux brings gigabytes of CUDA libraries, whether the machine can use them or not. This
file picks the build first; everything else is then installed around it. Standard library only: it runs before anything
has been installed.
"""

import argparse
import importlib.metadata
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"

# Only CPU builds carry the local version label `+cpu`, so a requirement that names it never resolves to a CUDA build.
CPU_BUILD = "torch==2.13.0+cpu"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--constraint",
        type=Path,
        metavar="FILE",
        help="write the installed version here; `pip install --constraint FILE` then keeps this build",
    )
    arguments = parser.parse_args()

    requirement = torch_requirement()
    version = installed_version()
    if version is not None and satisfies(version, requirement):
        print(f"torch {version} is installed and satisfies {requirement}")
    elif not needs_cpu_build():
        pip_install(requirement)
    elif not pip_install_cpu_build():
        pip_install(requirement, "--index-url", CPU_INDEX)

    if arguments.constraint:
        arguments.constraint.write_text(f"torch=={installed_version()}\n")


def torch_requirement() -> str:
    """The project's own requirement, such as `torch>=2.6,<2.14`."""
    dependencies = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
    return next(line for line in dependencies if line.startswith("torch>="))


def installed_version() -> str | None:
    # The caches must go: pip may have installed torch since this process last looked.
    importlib.invalidate_caches()
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def satisfies(version: str, requirement: str) -> bool:
    """Whether `version` lies in a range of the form `torch>=MAJOR.MINOR,<MAJOR.MINOR`."""
    bounds = re.fullmatch(r"torch>=(\d+)\.(\d+),<(\d+)\.(\d+)", requirement)
    if bounds is None:
        sys.exit(f"{PYPROJECT}: {requirement!r} is not of the form 'torch>=MAJOR.MINOR,<MAJOR.MINOR'")
    low_major, low_minor, high_major, high_minor = map(int, bounds.groups())
    major, minor = map(int, version.split(".")[:2])
    return (low_major, low_minor) <= (major, minor) < (high_major, high_minor)


def needs_cpu_build() -> bool:
    """Linux without a working NVIDIA driver. Elsewhere (macOS, Windows) PyPI's wheels hold no CUDA libraries anyway."""
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"):
        return False
    nvidia_smi = shutil.which("nvidia-smi")
    return nvidia_smi is None or subprocess.run([nvidia_smi], capture_output=True, check=False).returncode != 0


def pip_install(requirement: str, *options: str) -> None:
    print("Installing", requirement, flush=True)
    command = [sys.executable, "-m", "pip", "install", *options, requirement]
    code = subprocess.run(command, check=False).returncode
    if code != 0:
        sys.exit(code)


def pip_install_cpu_build() -> bool:
    """Install the CPU build if pip, as it is set up on this machine, knows one (a mirror, a folder of wheels).

    PyPI does not hold it, so on most machines the answer is no: then False is returned, and what pip said, which would
    only alarm, is not shown. Any other failure, a lost connection for one, ends the program with pip's own words.
    """
    print("Installing", CPU_BUILD, flush=True)
    command = [sys.executable, "-m", "pip", "install", CPU_BUILD]
    result = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
    if result.returncode != 0 and f"No matching distribution found for {CPU_BUILD}" in result.stderr:
        print("The configured package indexes do not hold it", flush=True)
        return False
    sys.stderr.write(result.stderr)
    if result.returncode != 0:
        sys.exit(result.returncode)
    return True


if __name__ == "__main__":
    main()
