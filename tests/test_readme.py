"""The README's Python lines run as they stand, in order, in one session."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = {
    name: re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
    for name in ("README.md", "CONTRIBUTING.md")
}


def test_readme_code_runs(capsys):
    blocks = [block for block in BLOCKS["README.md"] if "load_dataset" not in block]
    assert len(blocks) >= 2
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    case, logits = names["case"], names["logits"]
    assert case.decode(logits)[0] == pytest.approx([0, 1 / 2, 2 / 3], abs=0.05)  # type: ignore[attr-defined]
    assert "is_x" in capsys.readouterr().out


def test_a_case_of_ones_own_as_in_contributing():
    from interpbench_hub.cases import get_case, unregister_case

    (block,) = (block for block in BLOCKS["CONTRIBUTING.md"] if "register_case" in block)
    exec(compile(block, "CONTRIBUTING.md", "exec"), {})
    try:
        case = get_case("top_marker")
        assert case.program([1, 3, 3]) == [False, True, True]
        assert {edge.kind for edge in case.circuit} == {"varying", "constant"}
        assert case.tier == "single-head"
    finally:
        unregister_case("top_marker")


def test_files_the_readme_points_to_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)|src=\"([^\"]+)\"", (ROOT / "README.md").read_text("utf-8")):
        assert (ROOT / (target[0] or target[1])).exists(), target
