"""The checkpoint folder: one function that saves it, one that loads it, and the format of `config.json`.

A folder holds `config.json` (`CheckpointConfig`), `model.safetensors` (parameters only, TransformerLens names),
`circuit.json` (`Circuit`) and, once measured, `certificate.json` (`Certificate`); that of a language model its
tokenizer, too. Nothing is ever unpickled.
"""

import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from interpbench_hub.certificate import Certificate
from interpbench_hub.circuit import Circuit
from interpbench_hub.constants import (
    CERTIFICATE_FILE,
    CIRCUIT_FILE,
    CONFIG_FILE,
    SCHEMA_VERSION,
    TOKENIZER_FILE,
    TOKENIZER_FILES,
    WEIGHTS_FILE,
)
from interpbench_hub.errors import CheckpointError, InterpBenchError, SettingError
from interpbench_hub.validation import read_bytes, read_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from interpbench_hub.transformer import TransformerConfig

Value = Any
"""A token or a class: text, number, truth value, a tuple of these, or None (undefined)."""


@dataclass(frozen=True)
class Vocab:
    """The tokens of a model; a token's id is its place in `tokens`."""

    tokens: tuple[Value, ...]
    bos_id: int
    pad_id: int


@dataclass(frozen=True)
class Output:
    """What the outputs of a position mean: one a class, or one number."""

    kind: Literal["categorical", "regression"]
    classes: tuple[Value, ...] = ()
    """The value each output stands for, None for undefined; empty for regression."""


@dataclass(frozen=True)
class Provenance:
    """How, when and on what a model was trained."""

    recipe: str
    seed: int
    steps: int
    package_version: str
    commit: str | None
    """Commit of the repository, None if it was not known."""
    wall_seconds: float
    cpu_seconds: float
    hardware: str
    torch_version: str
    python_version: str
    created: str
    """The day, YYYY-MM-DD."""
    earlier_ends: tuple[int, ...] = ()
    """Numbers of steps after which training ended short of its goal and was given more."""
    started_from: str | None = None
    """SHA-256 of the weights that the last of `earlier_ends` left, if training went on from these alone and not from
    its saved state. Steps and seconds count both."""
    started_from_case: str | None = None
    """Id of the case of these weights' model, if it was another one."""

    def to_dict(self) -> dict[str, Any]:
        """The `provenance` of `config.json`; a run that was never given more steps does not mention it."""
        data = asdict(self)
        rare = {name: data.pop(name) for name in ("earlier_ends", "started_from", "started_from_case")}
        return data | {name: list(value) if name == "earlier_ends" else value for name, value in rare.items() if value}


@dataclass(frozen=True)
class CheckpointConfig:
    """The content of `config.json`."""

    case: str
    """Id of the case in the registry."""
    transformer: "TransformerConfig"
    vocab: Vocab
    output: Output
    min_len: int
    """Shortest input the model was trained on, BOS counted."""
    max_len: int
    """Longest input the model was trained on, BOS counted."""
    provenance: Provenance

    def __post_init__(self) -> None:
        n_tokens, size = len(self.vocab.tokens), self.transformer.d_vocab
        special = (self.vocab.bos_id, self.vocab.pad_id)
        if len(set(special)) < 2 or not all(n_tokens <= place < size for place in special):
            raise SettingError(
                f"bos_id {special[0]} and pad_id {special[1]} do not fit: they are two ids after those of the "
                f"{n_tokens} tokens and below d_vocab {size}"
            )
        if (self.output.kind == "categorical") != bool(self.output.classes):
            raise SettingError(
                f"{self.output.kind} output with {len(self.output.classes)} classes; only classes have some"
            )
        n_outputs = len(self.output.classes) or 1
        if n_outputs != self.transformer.d_vocab_out:
            raise SettingError(f"d_vocab_out is {self.transformer.d_vocab_out}; the output needs {n_outputs}")
        if not 1 <= self.min_len <= self.max_len <= self.transformer.n_ctx:
            raise SettingError(
                f"lengths {self.min_len} to {self.max_len} do not fit: they count BOS and end at n_ctx "
                f"{self.transformer.n_ctx} at most"
            )

    @property
    def is_language(self) -> bool:
        """Whether this is a small GPT-2: causal, with layer normalisation, each of its outputs the token of that id.

        Such a model's folder holds a tokenizer; no program's model has layer normalisation.
        """
        shape, tokens = self.transformer, self.vocab.tokens
        is_text = all(isinstance(token, str) for token in tokens) and self.output.classes == tokens
        return is_text and (shape.attention_dir, shape.normalization_type) == ("causal", "LN")

    def to_dict(self) -> dict[str, Any]:
        """The content of `config.json`."""
        output: dict[str, Any] = {"kind": self.output.kind}
        if self.output.kind == "categorical":
            output["classes"] = [encode_value(value) for value in self.output.classes]
        return {
            "schema_version": SCHEMA_VERSION,
            "case": self.case,
            "transformer": self.transformer.to_dict(),
            "vocab": {
                "tokens": [encode_value(token) for token in self.vocab.tokens],
                "bos_id": self.vocab.bos_id,
                "pad_id": self.vocab.pad_id,
            },
            "output": output,
            "min_len": self.min_len,
            "max_len": self.max_len,
            "provenance": self.provenance.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "CheckpointConfig":
        """The configuration `to_dict` wrote, of data that `validation.validate` has passed."""
        from interpbench_hub.transformer import TransformerConfig

        vocab, output = data["vocab"], data["output"]
        return cls(
            case=data["case"],
            transformer=TransformerConfig(**data["transformer"]),
            vocab=Vocab(tuple(map(decode_value, vocab["tokens"])), vocab["bos_id"], vocab["pad_id"]),
            output=Output(output["kind"], tuple(map(decode_value, output.get("classes", [])))),
            min_len=data["min_len"],
            max_len=data["max_len"],
            provenance=Provenance(
                **{**data["provenance"], "earlier_ends": tuple(data["provenance"].get("earlier_ends", ()))}
            ),
        )


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """All that a checkpoint folder holds."""

    config: CheckpointConfig
    weights: "dict[str, Tensor]"
    """Every parameter under its TransformerLens name."""
    circuit: Circuit
    certificate: Certificate | None = None
    """None until the model has been measured."""


# -- save and load -----------------------------------------------------------------------------------------------------


def save_checkpoint(checkpoint: Checkpoint, folder: str | Path) -> Path:
    """Write a checkpoint folder and return its path; the same checkpoint gives the same bytes.

    The parts must fit together (`CheckpointError` else, before anything is written). A folder that exists gets its
    checkpoint files replaced and keeps all others; whatever stops the writing leaves no half-written checkpoint.
    """
    folder = Path(folder)
    content = _content(checkpoint)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder}: is a file; give the path of a folder, existing or new")
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.saving-{os.getpid()}-{secrets.token_hex(4)}")
    staging.mkdir()
    try:
        for name, data in content.items():
            (staging / name).write_bytes(data)
        if folder.exists():
            _replace_files(staging, folder)
        else:
            staging.replace(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def load_checkpoint(folder: str | Path, *, device: "torch.device | str" = "cpu") -> Checkpoint:
    """Read what `save_checkpoint` wrote; raises `CheckpointError` for any folder that is not whole and consistent."""
    folder = Path(folder)
    config = load_config(folder)
    circuit = load_circuit_file(folder)
    check_circuit(circuit, config.transformer.n_layers, config.transformer.n_heads, config.case, file=folder)
    certificate = load_certificate_file(folder) if (folder / CERTIFICATE_FILE).exists() else None
    if certificate is not None:
        check_certificate(certificate, weights_sha256(folder), file=folder / CERTIFICATE_FILE)
    if config.is_language and (folder / TOKENIZER_FILE).exists():
        from interpbench_hub.tokenizer import check_tokenizer_file

        check_tokenizer_file(folder, config.vocab)
    return Checkpoint(config, load_weights(folder, config, device=device), circuit, certificate)


def load_config(folder: str | Path) -> CheckpointConfig:
    """The content of a folder's `config.json`."""
    path = Path(folder) / CONFIG_FILE
    data = read_json(path, "config")
    with _naming(path):
        return CheckpointConfig.from_dict(data)


def load_circuit_file(folder: str | Path) -> Circuit:
    """The content of a folder's `circuit.json`."""
    path = Path(folder) / CIRCUIT_FILE
    data = read_json(path, "circuit")
    with _naming(path):
        return Circuit.from_dict(data)


def load_certificate_file(folder: str | Path) -> Certificate:
    """The content of a folder's `certificate.json`."""
    path = Path(folder) / CERTIFICATE_FILE
    data = read_json(path, "certificate")
    with _naming(path):
        return Certificate.from_dict(data)


def load_weights(
    folder: str | Path, config: CheckpointConfig, *, device: "torch.device | str" = "cpu"
) -> "dict[str, Tensor]":
    """The parameters in a folder's `model.safetensors`, checked against the configuration.

    Those saved in half precision come back in single precision, the same numbers.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    from interpbench_hub.transformer import check_state

    path = Path(folder) / WEIGHTS_FILE
    data = read_bytes(path)
    try:
        state = load(data)
    except SafetensorError as error:
        if data[:4] == b"PK\x03\x04" or data[:1] == b"\x80":
            raise CheckpointError(
                f"{path}: found a pickle (what torch.save writes); weights are safetensors and no pickle is ever "
                "opened, because opening one runs the code in it; convert it where you trust it"
            ) from error
        raise CheckpointError(
            f"{path}: not a whole safetensors file ({error}); it may be cut off; save or fetch it again"
        ) from error
    with _naming(path):
        check_state(state, config.transformer)
    single = {torch.float16: torch.float32}
    return {name: tensor.to(device, single.get(tensor.dtype)) for name, tensor in state.items()}


def weights_sha256(folder: str | Path) -> str:
    """SHA-256 of a folder's weights file, as its certificate names it."""
    return hashlib.sha256(read_bytes(Path(folder) / WEIGHTS_FILE)).hexdigest()


# -- what must agree ---------------------------------------------------------------------------------------------------


def check_circuit(circuit: Circuit, n_layers: int, n_heads: int, case: str, *, file: str | Path) -> None:
    """Raise `CheckpointError` unless a circuit belongs to a transformer of this size and to this case."""
    if (circuit.n_layers, circuit.n_heads) != (n_layers, n_heads):
        raise CheckpointError(
            f"{file}: the circuit is one of {circuit.n_layers} layers of {circuit.n_heads} heads, the transformer has "
            f"{n_layers} layers of {n_heads}; the two files are not from one checkpoint"
        )
    if circuit.case is not None and circuit.case != case:
        raise CheckpointError(
            f"{file}: the circuit belongs to {circuit.case!r}, the configuration to {case!r}; the two files are not "
            "from one checkpoint"
        )


def check_certificate(certificate: Certificate, sha256: str, *, file: str | Path) -> None:
    """Raise `CheckpointError` unless a certificate was measured on the weights with this checksum."""
    if certificate.weights_sha256 != sha256:
        raise CheckpointError(
            f"{file}: measured on weights with SHA-256 {certificate.weights_sha256[:12]}..., {WEIGHTS_FILE} has "
            f"{sha256[:12]}...; fetch the folder again, or certify the model anew if the weights are meant to differ"
        )


# -- bytes -------------------------------------------------------------------------------------------------------------


def _weights_bytes(weights: "Mapping[str, Tensor]") -> bytes:
    import torch
    from safetensors.torch import save

    state = {name: weights[name].detach().to("cpu", copy=True).contiguous() for name in sorted(weights)}
    if all(tensor.dtype == torch.float32 and torch.equal(tensor, tensor.half().float()) for tensor in state.values()):
        # Nothing is lost, and the file is half as large.
        state = {name: tensor.half() for name, tensor in state.items()}
    # Files say "format: pt" by custom; some readers refuse those that do not.
    return save(state, metadata={"format": "pt"})


def weights_digest(weights: "Mapping[str, Tensor]") -> str:
    """SHA-256 of the weights file these parameters are saved as."""
    return hashlib.sha256(_weights_bytes(weights)).hexdigest()


def _content(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The files of a checkpoint, by name, after checking that its parts fit together."""
    from interpbench_hub.transformer import check_state

    config, shape = checkpoint.config, checkpoint.config.transformer
    check_state(checkpoint.weights, shape)
    check_circuit(checkpoint.circuit, shape.n_layers, shape.n_heads, config.case, file="cannot save")
    content = {
        WEIGHTS_FILE: _weights_bytes(checkpoint.weights),
        CIRCUIT_FILE: checkpoint.circuit.to_json().encode(),
        CONFIG_FILE: format_json(config.to_dict()).encode(),
    }
    if checkpoint.certificate is not None:
        sha256 = hashlib.sha256(content[WEIGHTS_FILE]).hexdigest()
        check_certificate(checkpoint.certificate, sha256, file="cannot save")
        content[CERTIFICATE_FILE] = format_json(checkpoint.certificate.to_dict()).encode()
    if config.is_language:
        from interpbench_hub.tokenizer import tokenizer_files

        content |= tokenizer_files(config.vocab, shape.n_ctx)
    return content


def _replace_files(staging: Path, folder: Path) -> None:
    """Put the staged files in place of the folder's, all or none.

    `config.json` goes first and comes last: without it a folder is no checkpoint, so a process killed between two
    steps leaves nothing that looks whole. Anything short of a kill puts the old files back.
    """
    names = (CONFIG_FILE, WEIGHTS_FILE, CIRCUIT_FILE, CERTIFICATE_FILE, *TOKENIZER_FILES)
    old = staging / "old"
    old.mkdir()
    placed = []
    try:
        for name in names:
            if (folder / name).exists():
                (folder / name).replace(old / name)
        for name in reversed(names):
            if (staging / name).exists():
                (staging / name).replace(folder / name)
                placed.append(name)
    except BaseException:
        for name in placed:
            (folder / name).unlink()
        for name in reversed(names):
            if (old / name).exists():
                (old / name).replace(folder / name)
        raise


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before the message of any error of ours."""
    try:
        yield
    except InterpBenchError as error:
        raise CheckpointError(f"{path}: {error}") from error


def encode_value(value: Value) -> Any:
    """A token or class as JSON: None, non-finite floats and tuples become objects, the rest stays what it is.

    >>> encode_value((1, None, float("inf")))
    {'tuple': [1, {'undefined': True}, {'float': 'inf'}]}
    """
    if value is None:
        return {"undefined": True}
    if isinstance(value, tuple):
        return {"tuple": [encode_value(item) for item in value]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    # Exact types: a subclass (numpy's float64, an enum) would come back as something else.
    if type(value) not in (str, int, float, bool):
        raise SettingError(
            f"{value!r} cannot be a token or class: it has type {type(value).__name__}; allowed are str, int, float, "
            "bool, None and tuples of these"
        )
    return value


def decode_value(data: Any) -> Value:
    """The value `encode_value` made into JSON."""
    if not isinstance(data, dict):
        return data
    if "tuple" in data:
        return tuple(decode_value(item) for item in data["tuple"])
    return float(data["float"]) if "float" in data else None


def format_json(data: Any) -> str:
    """Text of JSON data, one item a line, with lists of plain values on one line: small files, readable diffs.

    Lists of such lists are tables, whose rows take most of a file: no space in them or before them.
    """
    return _format(data, "\n") + "\n"


def _format(data: Any, newline: str) -> str:
    inner = newline + " "
    if isinstance(data, dict) and data:
        items = [f"{_plain(str(key))}: {_format(value, inner)}" for key, value in data.items()]
        return "{" + inner + ("," + inner).join(items) + newline + "}"
    if isinstance(data, list) and not _is_row(data):
        if all(isinstance(item, list) and _is_row(item) for item in data):
            return "[\n" + ",\n".join(_plain(item, (",", ":")) for item in data) + newline + "]"
        return "[" + inner + ("," + inner).join(_format(item, inner) for item in data) + newline + "]"
    return _plain(data)


def _is_row(data: list[Any]) -> bool:
    """Whether a list holds plain values only."""
    return not any(isinstance(item, (dict, list)) for item in data)


def _plain(data: Any, separators: tuple[str, str] | None = None) -> str:
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=separators)
