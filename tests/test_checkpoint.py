"""Checkpoint folders: the round trip bit for bit, every fault with its own sentence, and saves that are cut short."""

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from interpbench_hub import checkpoint as checkpoint_module
from interpbench_hub.certificate import clopper_pearson_lower
from interpbench_hub.checkpoint import (
    Checkpoint,
    CheckpointConfig,
    Output,
    Vocab,
    decode_value,
    encode_value,
    format_json,
    load_certificate_file,
    load_checkpoint,
    load_circuit_file,
    load_config,
    save_checkpoint,
    weights_digest,
    weights_sha256,
)
from interpbench_hub.circuit import Circuit
from interpbench_hub.constants import CERTIFICATE_FILE, CIRCUIT_FILE, CONFIG_FILE, WEIGHTS_FILE
from interpbench_hub.errors import CheckpointError, SettingError
from interpbench_hub.validation import validate

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)


def same(a: object, b: object) -> bool:
    """Equality that tells 1 from True and 1.0, and takes NaN for NaN."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return type(a) is type(b) and a == b


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def edit(path: Path, change) -> None:
    """Rewrite a JSON file after `change` has worked on its data."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


# -- round trips -------------------------------------------------------------------------------------------------------


@given(values)
def test_every_value_comes_back_from_json(value):
    data = json.loads(json.dumps(encode_value(value), allow_nan=False))
    assert same(decode_value(data), value)


@given(st.lists(values, min_size=1, max_size=5).map(tuple))
def test_encoded_values_obey_the_schema(tokens):
    config = {"tokens": [encode_value(token) for token in tokens], "bos_id": len(tokens), "pad_id": len(tokens) + 1}
    with pytest.raises(CheckpointError) as caught:
        validate({"schema_version": 1, "vocab": config}, "config", file="file")
    assert "missing keys" in str(caught.value)
    assert "more errors" not in str(caught.value)


@pytest.mark.parametrize("value", [b"x", [1], {"a": 1}, object(), torch.tensor(1), (1, [2])])
def test_other_values_cannot_be_saved(value):
    with pytest.raises(SettingError, match="cannot be a token or class"):
        encode_value(value)


def test_a_subclass_of_float_cannot_be_saved():
    import numpy

    with pytest.raises(SettingError, match="has type float64"):
        encode_value(numpy.float64(0.5))


@pytest.mark.parametrize("normalization_type", [None, "LN"])
def test_a_checkpoint_comes_back_bit_for_bit(tmp_path, make_checkpoint, normalization_type):
    checkpoint = make_checkpoint(normalization_type=normalization_type)
    again = load_checkpoint(save_checkpoint(checkpoint, tmp_path / "model"))
    assert again.config == checkpoint.config
    assert again.circuit == checkpoint.circuit
    assert again.certificate is None
    assert again.weights.keys() == checkpoint.weights.keys()
    for name, tensor in checkpoint.weights.items():
        assert again.weights[name].dtype == tensor.dtype
        assert torch.equal(again.weights[name], tensor)


@pytest.mark.parametrize("case", [None, "case_98"])
def test_provenance_says_what_training_began_with(tmp_path, checkpoint, case):
    begun = {"earlier_ends": (3, 5), "started_from": "0a" * 32, "started_from_case": case}
    config = replace(checkpoint.config, provenance=replace(checkpoint.config.provenance, **begun))
    folder = save_checkpoint(replace(checkpoint, config=config), tmp_path / "model")
    assert load_config(folder) == config
    named = json.loads((folder / CONFIG_FILE).read_text())["provenance"]
    assert (named["earlier_ends"], "started_from_case" in named) == ([3, 5], case is not None)


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path, checkpoint):
    first = save_checkpoint(checkpoint, tmp_path / "a")
    shuffled = dict(sorted(checkpoint.weights.items(), reverse=True))
    second = save_checkpoint(replace(load_checkpoint(first), weights=shuffled), tmp_path / "b")
    assert content(first) == content(second)
    assert set(content(first)) == {CONFIG_FILE, CIRCUIT_FILE, WEIGHTS_FILE}


def test_a_certificate_comes_back_too(certified_folder):
    again = load_checkpoint(certified_folder)
    assert again.certificate == load_certificate_file(certified_folder)
    assert again.certificate is not None
    assert again.certificate.grade == "path"


def test_classes_that_json_has_no_word_for_come_back(tmp_path, make_checkpoint):
    classes = (None, "x", 1, 2.5, ("a", None, math.inf))
    folder = save_checkpoint(make_checkpoint(output=Output("categorical", classes)), tmp_path / "model")
    assert load_config(folder).output.classes == classes


def test_only_parameters_are_saved_under_the_names_of_transformer_lens(tmp_path, checkpoint):
    folder = save_checkpoint(checkpoint, tmp_path / "model")
    names = set(load_file(folder / WEIGHTS_FILE))
    assert names == set(checkpoint.config.transformer.parameter_shapes)
    assert weights_sha256(folder) == hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()


def test_weights_that_share_memory_are_saved(tmp_path, make_checkpoint):
    from interpbench_hub.transformer import Transformer

    checkpoint = make_checkpoint()
    model = Transformer(checkpoint.config.transformer)
    folder = save_checkpoint(replace(checkpoint, weights=model.parameters), tmp_path / "model")
    assert torch.equal(load_checkpoint(folder).weights["embed.W_E"], model.parameters["embed.W_E"])


# -- half precision ----------------------------------------------------------------------------------------------------


def rounded(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Single-precision numbers that half precision holds exactly, some of them subnormal there."""
    return {name: (tensor * 1e-3).half().float() for name, tensor in weights.items()}


def test_weights_that_half_precision_holds_take_half_the_space_and_come_back_the_same(tmp_path, checkpoint):
    weights = rounded(checkpoint.weights)
    assert any(bool((tensor.abs() < 6.1e-5).any() & (tensor != 0).any()) for tensor in weights.values())
    half = save_checkpoint(replace(checkpoint, weights=weights), tmp_path / "half")
    whole = save_checkpoint(checkpoint, tmp_path / "whole")
    n_bytes = 2 * sum(tensor.numel() for tensor in weights.values())
    sizes = [(folder / WEIGHTS_FILE).stat().st_size for folder in (half, whole)]
    # Headers name every parameter with its place, and are padded.
    assert abs(sizes[1] - sizes[0] - n_bytes) < 200
    assert {tensor.dtype for tensor in load_file(half / WEIGHTS_FILE).values()} == {torch.float16}
    assert {tensor.dtype for tensor in load_file(whole / WEIGHTS_FILE).values()} == {torch.float32}
    again = load_checkpoint(half).weights
    assert again.keys() == weights.keys()
    for name, tensor in weights.items():
        assert again[name].dtype == torch.float32 and torch.equal(again[name], tensor)


@pytest.mark.parametrize(
    "number", [1 + 2.0**-11, 2.0**-25, 70_000.0, 1 / 3], ids=["too fine", "too small", "too large", "a third"]
)
def test_one_number_that_would_change_keeps_all_in_single_precision(tmp_path, checkpoint, number):
    weights = rounded(checkpoint.weights)
    weights["unembed.b_U"][0] = number
    folder = save_checkpoint(replace(checkpoint, weights=weights), tmp_path / "model")
    assert {tensor.dtype for tensor in load_file(folder / WEIGHTS_FILE).values()} == {torch.float32}
    assert all(torch.equal(tensor, weights[name]) for name, tensor in load_checkpoint(folder).weights.items())


def test_the_digest_is_that_of_the_file_whatever_the_precision(tmp_path, checkpoint):
    exact = rounded(checkpoint.weights)
    halves = {name: tensor.half() for name, tensor in exact.items()}
    for name, weights in (("whole", checkpoint.weights), ("exact", exact), ("halves", halves)):
        folder = save_checkpoint(replace(checkpoint, weights=weights), tmp_path / name)
        assert weights_digest(weights) == weights_sha256(folder)
        # What is loaded has the same digest: a certificate of it names the same file.
        assert weights_digest(load_checkpoint(folder).weights) == weights_sha256(folder)
    assert weights_digest(exact) == weights_digest(halves) != weights_digest(checkpoint.weights)


def test_other_precisions_are_saved_as_they_are(tmp_path, checkpoint):
    weights = {name: tensor.double() for name, tensor in rounded(checkpoint.weights).items()}
    folder = save_checkpoint(replace(checkpoint, weights=weights), tmp_path / "model")
    for name, tensor in load_checkpoint(folder).weights.items():
        assert tensor.dtype == torch.float64 and torch.equal(tensor, weights[name])


def test_faults_of_weights_in_half_precision_have_the_same_sentences(tmp_path, checkpoint):
    folder = save_checkpoint(replace(checkpoint, weights=rounded(checkpoint.weights)), tmp_path / "model")
    state = load_file(folder / WEIGHTS_FILE)
    for change, message in (
        ({"embed.W_E": state["embed.W_E"].T.contiguous()}, r"embed\.W_E has shape \(12, 6\); .* says \(6, 12\)"),
        ({"unembed.b_U": torch.full((1,), torch.inf, dtype=torch.float16)}, r"unembed\.b_U holds NaN or infinity"),
        ({"extra": torch.zeros(1, dtype=torch.float16)}, "weights hold extra"),
    ):
        save_file(state | change, folder / WEIGHTS_FILE)
        with pytest.raises(CheckpointError, match=f"{WEIGHTS_FILE}: .*{message}"):
            load_checkpoint(folder)


# -- the text of JSON files --------------------------------------------------------------------------------------------

plain = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4)
)
json_data = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@given(json_data)
def test_formatted_json_says_the_same(data):
    text = format_json(data)
    assert json.loads(text) == data
    assert text.endswith("\n")


def test_rows_of_plain_values_stay_on_one_line(certified_folder):
    lines = (certified_folder / CERTIFICATE_FILE).read_text().splitlines()
    assert any(line.startswith('["embed->m0",2000,900,905]') for line in lines)
    assert format_json({"a": [1, 2], "b": [], "c": {}, "d": [[1, "x"], [2]]}) == textwrap.dedent(
        """\
        {
         "a": [1, 2],
         "b": [],
         "c": {},
         "d": [
        [1,"x"],
        [2]
         ]
        }
        """
    )


# -- parts that do not fit together ------------------------------------------------------------------------------------


def test_what_does_not_fit_together_is_not_saved(tmp_path, checkpoint, make_certificate):
    place = tmp_path / "model"
    with pytest.raises(
        CheckpointError, match="the circuit is one of 3 layers of 4 heads, the transformer has 2 layers"
    ):
        save_checkpoint(replace(checkpoint, circuit=Circuit(3, 4, [])), place)
    with pytest.raises(CheckpointError, match="the circuit belongs to 'case_4', the configuration to 'case_3'"):
        save_checkpoint(replace(checkpoint, circuit=Circuit(2, 4, [], case="case_4")), place)
    with pytest.raises(CheckpointError, match="measured on weights with SHA-256 000000000000"):
        save_checkpoint(replace(checkpoint, certificate=make_certificate()), place)
    with pytest.raises(CheckpointError, match=r"weights lack the parameter embed\.W_E"):
        save_checkpoint(replace(checkpoint, weights={}), place)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab": Vocab(("a", "b", "c", "x"), 4, 4)}, "bos_id 4 and pad_id 4 do not fit"),
        ({"vocab": Vocab(("a", "b", "c", "x"), 3, 5)}, "two ids after those of the 4 tokens"),
        ({"vocab": Vocab(("a", "b", "c", "x"), 4, 6)}, "below d_vocab 6"),
        ({"output": Output("regression", (1, 2))}, "regression output with 2 classes"),
        ({"output": Output("categorical")}, "categorical output with 0 classes"),
        ({"output": Output("categorical", (1, 2))}, "d_vocab_out is 1; the output needs 2"),
        ({"min_len": 11, "max_len": 11}, "lengths 11 to 11 do not fit"),
        ({"min_len": 5, "max_len": 4}, "lengths 5 to 4 do not fit"),
    ],
)
def test_a_configuration_must_be_consistent(checkpoint, change, message):
    with pytest.raises(SettingError, match=message):
        replace(checkpoint.config, **change)


def test_a_configuration_is_read_back_from_its_dictionary(checkpoint):
    data = checkpoint.config.to_dict()
    assert CheckpointConfig.from_dict(validate(data, "config", file="config.json")) == checkpoint.config


# -- faults of a folder ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [CONFIG_FILE, CIRCUIT_FILE, WEIGHTS_FILE])
def test_a_missing_file_is_named(certified_folder, name):
    (certified_folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: the file is missing"):
        load_checkpoint(certified_folder)


@pytest.mark.parametrize("name", [CONFIG_FILE, CIRCUIT_FILE, CERTIFICATE_FILE])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.97])
def test_truncated_json_is_refused(certified_folder, name, share):
    data = (certified_folder / name).read_bytes()
    (certified_folder / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=f"{name}: not JSON"):
        load_checkpoint(certified_folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -4])
def test_truncated_weights_are_refused(tmp_path, checkpoint, keep):
    folder = save_checkpoint(checkpoint, tmp_path / "model")
    data = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(data[:keep])
    with pytest.raises(CheckpointError, match=f"{WEIGHTS_FILE}: not a whole safetensors file"):
        load_checkpoint(folder)


def test_a_flipped_bit_contradicts_the_certificate(certified_folder):
    data = bytearray((certified_folder / WEIGHTS_FILE).read_bytes())
    data[-3] ^= 1
    (certified_folder / WEIGHTS_FILE).write_bytes(data)
    with pytest.raises(CheckpointError, match=r"certificate\.json: measured on weights with SHA-256"):
        load_checkpoint(certified_folder)


def test_a_better_grade_written_by_hand_is_refused(certified_folder):
    def cheat(data):
        behaviour = data["behaviour"]
        count = behaviour.pop("count")
        behaviour["rows"] = [["all", count, 5]]
        data["lower_bounds"]["rows"].append([count, 5, round(clopper_pearson_lower(5, count), 6)])
        assert data["grade"] == "path"

    edit(certified_folder / CERTIFICATE_FILE, cheat)
    with pytest.raises(CheckpointError, match="says grade 'path', its entries give 'none'"):
        load_checkpoint(certified_folder)


def test_a_bound_that_does_not_follow_is_refused(certified_folder):
    edit(certified_folder / CERTIFICATE_FILE, lambda data: data["lower_bounds"]["rows"][0].__setitem__(2, 0.5))
    with pytest.raises(CheckpointError, match=r"lower bound 0\.5 does not follow"):
        load_checkpoint(certified_folder)


def test_a_bound_that_is_missing_is_told(certified_folder):
    edit(certified_folder / CERTIFICATE_FILE, lambda data: data["lower_bounds"]["rows"].clear())
    with pytest.raises(CheckpointError, match=r"lower bound None does not follow"):
        load_checkpoint(certified_folder)


def test_a_certificate_by_other_rules_is_refused(certified_folder):
    edit(certified_folder / CERTIFICATE_FILE, lambda data: data.update(threshold=0.5))
    with pytest.raises(CheckpointError, match="threshold"):
        load_checkpoint(certified_folder)


@pytest.mark.parametrize("name", [CONFIG_FILE, CIRCUIT_FILE, CERTIFICATE_FILE])
def test_unknown_and_missing_keys_are_named(certified_folder, name):
    original = (certified_folder / name).read_bytes()
    edit(certified_folder / name, lambda data: data.update(extra=1))
    with pytest.raises(CheckpointError, match=f"{name}: at the top level: unknown key 'extra'"):
        load_checkpoint(certified_folder)
    (certified_folder / name).write_bytes(original)
    edit(certified_folder / name, lambda data: data.pop("case"))
    with pytest.raises(CheckpointError, match=f"{name}: at the top level: missing key 'case'"):
        load_checkpoint(certified_folder)


@pytest.mark.parametrize("name", [CONFIG_FILE, CIRCUIT_FILE, CERTIFICATE_FILE])
def test_another_version_of_the_format_is_refused(certified_folder, name):
    edit(certified_folder / name, lambda data: data.update(schema_version=2))
    with pytest.raises(CheckpointError, match=f"{name}: schema_version is 2; .*update interpbench-hub"):
        load_checkpoint(certified_folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["transformer"].update(n_layer=2), "at transformer: unknown key 'n_layer'; did you mean"),
        (lambda data: data["transformer"].pop("eps"), "at transformer: missing key 'eps'"),
        (lambda data: data["transformer"].update(act_fn="silu"), "at transformer.act_fn"),
        (lambda data: data["transformer"].update(n_layers=2.0), "n_layers is 2.0; it is a whole number"),
        (lambda data: data["transformer"].update(n_ctx=9), "lengths 4 to 10 do not fit"),
        (lambda data: data["output"].update(classes=[1]), r"at output\.classes"),
        (lambda data: data["output"].update(kind="categorical"), "at output: missing key 'classes'"),
        (lambda data: data["vocab"]["tokens"].append([1]), r"at vocab\.tokens\[4\]"),
        (lambda data: data["vocab"]["tokens"].append({"float": "1"}), r"at vocab\.tokens\[4\]"),
        (lambda data: data["provenance"].update(created="today"), r"at provenance\.created"),
        (lambda data: data.update(case="Case 3"), "at case"),
    ],
)
def test_a_wrong_configuration_is_refused(certified_folder, change, message):
    edit(certified_folder / CONFIG_FILE, change)
    with pytest.raises(CheckpointError, match=f"{CONFIG_FILE}: .*{message}"):
        load_config(certified_folder)


def test_a_circuit_of_another_size_is_refused(certified_folder):
    edit(certified_folder / CIRCUIT_FILE, lambda data: data.update(n_layers=3))
    with pytest.raises(CheckpointError, match="the two files are not from one checkpoint"):
        load_checkpoint(certified_folder)


def test_a_circuit_with_an_impossible_edge_is_refused(certified_folder):
    edit(certified_folder / CIRCUIT_FILE, lambda data: data["edges"][0].update(source="m1"))
    with pytest.raises(CheckpointError, match=rf"{CIRCUIT_FILE}: not a circuit: no edge m1->m0"):
        load_circuit_file(certified_folder)


def test_a_pickle_in_place_of_the_weights_is_never_opened(tmp_path, checkpoint):
    folder = save_checkpoint(checkpoint, tmp_path / "model")

    class Trap:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'sprung')!r}, 'w')",))

    for is_zip in (True, False):
        torch.save({"embed.W_E": Trap()}, folder / WEIGHTS_FILE, _use_new_zipfile_serialization=is_zip)
        with pytest.raises(CheckpointError, match=f"{WEIGHTS_FILE}: found a pickle .*no pickle is ever opened"):
            load_checkpoint(folder)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state["embed.W_E"].fill_(math.nan), "parameter embed.W_E holds NaN or infinity"),
        (lambda state: state["unembed.b_U"].fill_(math.inf), "parameter unembed.b_U holds NaN or infinity"),
        (lambda state: state.update({"embed.W_E": torch.zeros(6, 13)}), r"has shape \(6, 13\); .* says \(6, 12\)"),
        (lambda state: state.update({"embed.W_E": torch.zeros(6, 12, dtype=torch.int64)}), "has type torch.int64"),
        (lambda state: state.update({"blocks.0.attn.mask": torch.zeros(1)}), "weights hold blocks.0.attn.mask"),
        (lambda state: state.pop("pos_embed.W_pos"), "weights lack the parameter pos_embed.W_pos"),
    ],
)
def test_wrong_weights_are_refused(tmp_path, checkpoint, change, message):
    folder = save_checkpoint(checkpoint, tmp_path / "model")
    state = load_file(folder / WEIGHTS_FILE)
    change(state)
    save_file(state, folder / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match=f"{WEIGHTS_FILE}: .*{message}"):
        load_checkpoint(folder)


def test_a_file_is_no_folder(tmp_path, checkpoint):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="is a file"):
        save_checkpoint(checkpoint, tmp_path / "file")
    with pytest.raises(CheckpointError, match="no such folder"):
        load_checkpoint(tmp_path / "nowhere")


# -- saves that are cut short ------------------------------------------------------------------------------------------


def test_saving_again_replaces_the_checkpoint_and_keeps_other_files(certified_folder, make_checkpoint):
    (certified_folder / "training_log.jsonl").write_text("{}\n")
    other = make_checkpoint(seed=1)
    save_checkpoint(other, certified_folder)
    # The certificate was about other weights, so it goes.
    assert set(content(certified_folder)) == {CONFIG_FILE, CIRCUIT_FILE, WEIGHTS_FILE, "training_log.jsonl"}
    assert torch.equal(load_checkpoint(certified_folder).weights["embed.W_E"], other.weights["embed.W_E"])
    assert [path.name for path in certified_folder.parent.iterdir()] == [certified_folder.name]


class Stop(BaseException):
    """Stands for Ctrl-C, a full disk, or whatever else stops a save."""


def stop_at(monkeypatch: pytest.MonkeyPatch, method: str, call: int) -> None:
    """Make the `call`-th use of a method of Path raise `Stop`; those after it work again."""
    original, seen = getattr(Path, method), []

    def stopping(self, *arguments, **options):
        seen.append(self)
        if len(seen) == call:
            raise Stop
        return original(self, *arguments, **options)

    monkeypatch.setattr(Path, method, stopping)


@pytest.mark.parametrize(
    ("method", "call"), [("write_bytes", n) for n in (1, 2, 3)] + [("replace", n) for n in range(1, 8)]
)
def test_a_save_that_is_stopped_leaves_the_old_checkpoint(monkeypatch, certified_folder, make_checkpoint, method, call):
    before = content(certified_folder)
    stop_at(monkeypatch, method, call)
    with pytest.raises(Stop):
        save_checkpoint(make_checkpoint(seed=1), certified_folder)
    monkeypatch.undo()
    assert content(certified_folder) == before
    assert [path.name for path in certified_folder.parent.iterdir()] == [certified_folder.name]


def test_a_stopped_save_with_a_certificate_leaves_none_beside_weights_without(
    monkeypatch, tmp_path, checkpoint, certified_folder
):
    folder = save_checkpoint(checkpoint, tmp_path / "plain")
    certified = load_checkpoint(certified_folder)
    before = content(folder)
    for call in range(1, 8):
        stop_at(monkeypatch, "replace", call)
        with pytest.raises(Stop):
            save_checkpoint(certified, folder)
        monkeypatch.undo()
        assert content(folder) == before


@pytest.mark.parametrize(("method", "call"), [("write_bytes", 2), ("replace", 1)])
def test_a_first_save_that_is_stopped_leaves_nothing(monkeypatch, tmp_path, checkpoint, method, call):
    stop_at(monkeypatch, method, call)
    with pytest.raises(Stop):
        save_checkpoint(checkpoint, tmp_path / "model")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_a_killed_save_leaves_nothing_that_looks_whole_but_is_not(tmp_path, certified_folder):
    # A kill runs no clean-up: each child ends before another of the renames that replace the folder's files.
    script = """
        import os, sys
        from dataclasses import replace
        from pathlib import Path
        from interpbench_hub.checkpoint import load_checkpoint, save_checkpoint
        import safetensors.torch, interpbench_hub.transformer  # once, before the children part
        rename = Path.replace
        for place in sys.argv[1:]:
            last, seen = int(Path(place).name), []
            def replacing(self, target):
                seen.append(self)
                if len(seen) == last:
                    os._exit(9)
                return rename(self, target)
            if os.fork() == 0:
                checkpoint = load_checkpoint(place)
                weights = {name: tensor + 1 for name, tensor in checkpoint.weights.items()}
                Path.replace = replacing
                save_checkpoint(replace(checkpoint, weights=weights, certificate=None), place)
            assert os.waitstatus_to_exitcode(os.wait()[1]) == 9
    """
    places = [shutil.copytree(certified_folder, tmp_path / str(call)) for call in range(1, 8)]
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), *map(str, places)], check=True)
    before = content(certified_folder)
    assert content(places[0]) == before
    for place in places[1:]:
        with pytest.raises(CheckpointError, match=f"{CONFIG_FILE}: the file is missing"):
            load_checkpoint(place)


def test_the_module_is_light():
    code = "import interpbench_hub.checkpoint, sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert checkpoint_module.Checkpoint is Checkpoint
