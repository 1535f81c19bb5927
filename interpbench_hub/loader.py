"""Loading by name: a model as a TransformerLens HookedTransformer, its circuit, its certificate, its case.

Names lead to folders in `hub`, folders to their content in `checkpoint`; here both meet TransformerLens.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from interpbench_hub.certificate import Certificate
from interpbench_hub.checkpoint import (
    check_certificate,
    check_circuit,
    load_certificate_file,
    load_circuit_file,
    load_config,
    load_weights,
    weights_sha256,
)
from interpbench_hub.circuit import Circuit
from interpbench_hub.constants import CERTIFICATE_FILE, CIRCUIT_FILE, CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from interpbench_hub.errors import CheckpointError, SettingError, UnknownNameError
from interpbench_hub.hub import HubOptions, resolve
from interpbench_hub.validation import read_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformer_lens import HookedTransformer

    from interpbench_hub.cases import Case
    from interpbench_hub.transformer import TransformerConfig

BUFFERS = (".mask", ".IGNORE")
"""Last parts of the names in a HookedTransformer's state that are no parameters."""


def load_model(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    device: "torch.device | str" = "cpu",
    dtype: "torch.dtype | str | None" = None,
) -> "HookedTransformer":
    """A model as a HookedTransformer of TransformerLens, ready for edge-level work.

    Hooks for each head's output (`hook_result`), for each head's q, k and v inputs and for MLP inputs are on. Token ids
    [batch, pos] (BOS first; see `Case.encode`) give logits [batch, pos, d_vocab_out]. A language model has its
    tokenizer and takes text as well; a word it does not know is a `SettingError`.

    Args:
        name_or_path: Id of a bundled model (`case_3`, `interpbench/case_3`), `namespace/name` of a repository on the
            Hugging Face Hub, or the path of a checkpoint folder.
        revision: Branch, tag or commit on the Hub; with it, bundled models are not looked at.
        cache_dir: Where downloads are kept; the Hub's own cache if None.
        token: Access token for private repositories; the one of `hf auth login` if None.
        force_download: Fetch from the Hub even what is bundled or cached.
        local_files_only: Make no request.
        device: Where the model lives; a device of torch that this machine has.
        dtype: Floating-point type of the weights, as a torch dtype or its name; float32 if None.

    Raises:
        SettingError: `device` or `dtype` cannot be; found out before anything is fetched.
        UnknownNameError: No such name.
        CheckpointError: The folder is damaged.
        DownloadError: The Hub cannot be reached or refuses.

    >>> from interpbench_hub import get_case, load_model
    >>> model = load_model("case_3")
    >>> logits, cache = model.run_with_cache(get_case("case_3").encode([["a", "x", "c"]]))
    >>> cache["blocks.1.attn.hook_result"].shape[:3]  # [batch, pos, head, d_model]: what each head writes
    torch.Size([1, 4, 4])
    """
    device = checked_device(device)
    dtype = _checked_dtype(dtype)
    options: HubOptions = {
        "revision": revision,
        "cache_dir": cache_dir,
        "token": token,
        "force_download": force_download,
        "local_files_only": local_files_only,
    }
    folder = resolve(name_or_path, files=(CONFIG_FILE, WEIGHTS_FILE), **options)
    config = load_config(folder)
    model = to_hooked_transformer(config.transformer, load_weights(folder, config), device=device, dtype=dtype)
    if config.is_language:
        from interpbench_hub.tokenizer import load_tokenizer

        # Asked for by itself, because no other model has one.
        folder = resolve(name_or_path, files=(TOKENIZER_FILE,), **options)
        model.set_tokenizer(load_tokenizer(folder, config.vocab, config.transformer.n_ctx))
        # Ids carry their BOS; of text, the tokenizer puts it first, which TransformerLens would take away again.
        model.cfg.default_prepend_bos = True
    return model


def load_circuit(name_or_path: str | Path, **options: Unpack[HubOptions]) -> Circuit:
    """The circuit of a model: its edges, their kinds, and what each node is for.

    Takes the names and options of `load_model`, but for `device` and `dtype`, and raises the same errors.

    >>> [str(edge) for edge in load_circuit("case_3").of_kind("varying")][:1]
    ['embed->m0']
    """
    folder = resolve(name_or_path, files=(CONFIG_FILE, CIRCUIT_FILE), **options)
    # The plain data: building a TransformerConfig would import torch, which a circuit has no need of.
    config = read_json(folder / CONFIG_FILE, "config")
    circuit = load_circuit_file(folder)
    shape = config["transformer"]
    check_circuit(circuit, shape["n_layers"], shape["n_heads"], config["case"], file=folder / CIRCUIT_FILE)
    return circuit


def load_certificate(name_or_path: str | Path, **options: Unpack[HubOptions]) -> Certificate:
    """The certificate of a model: what was measured of it, and the grade that follows.

    Takes the names and options of `load_model`, but for `device` and `dtype`, and raises the same errors. Where the
    weights lie beside it, they must be those it was measured on.
    """
    folder = resolve(name_or_path, files=(CERTIFICATE_FILE,), **options)
    certificate = load_certificate_file(folder)
    if (folder / WEIGHTS_FILE).exists():
        check_certificate(certificate, weights_sha256(folder), file=folder / CERTIFICATE_FILE)
    return certificate


def load_case(name_or_path: str | Path, **options: Unpack[HubOptions]) -> "Case":
    """The case a model was trained for, from the registry: its program, its encoding, its sampler.

    Takes the names and options of `load_model`, but for `device` and `dtype`, and raises the same errors.
    """
    from interpbench_hub.cases import get_case

    folder = resolve(name_or_path, files=(CONFIG_FILE,), **options)
    config = load_config(folder)
    try:
        case = get_case(config.case)
    except UnknownNameError as error:
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: the model was trained for case {config.case!r}, which is not registered here; "
            "register it (interpbench_hub.cases.register_case) or update the package"
        ) from error
    vocab = (*case.vocab, case.bos_id, case.pad_id)
    if vocab != (*config.vocab.tokens, config.vocab.bos_id, config.vocab.pad_id):
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: the model's tokens {config.vocab.tokens!r} are not those of case {case.id} "
            f"{case.vocab!r}; the case was changed since; load the model with the package version "
            f"{config.provenance.package_version} or train it anew"
        )
    return case


def to_hooked_transformer(
    shape: "TransformerConfig",
    weights: "dict[str, Tensor]",
    *,
    device: "torch.device | str" = "cpu",
    dtype: "torch.dtype | None" = None,
) -> "HookedTransformer":
    """A HookedTransformer of this shape with these weights, hooks of single edges on."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        **shape.to_dict(),
        positional_embedding_type="standard",
        use_attn_result=True,
        use_split_qkv_input=True,
        use_hook_mlp_in=True,
        default_prepend_bos=False,
        init_weights=False,
        device=str(device),
        dtype=dtype or next(iter(weights.values())).dtype,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore",
            message=r"HookedTransformer is deprecated and will be removed in 4\.0",
            category=DeprecationWarning,
        )
        model = HookedTransformer(config)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    lacking = [name for name in missing if not name.endswith(BUFFERS)]
    if lacking or unexpected:
        raise CheckpointError(
            f"weights do not fit TransformerLens: missing {lacking}, unexpected {unexpected}; transformer-lens 3.9 or "
            "a later 3.x is needed"
        )
    return model.eval()


def checked_device(device: "torch.device | str") -> "torch.device":
    """The device, if this machine has it."""
    import torch

    try:
        place = torch.device(device)
        if place.type not in ("cpu", "cuda", "mps", "xpu"):
            raise SettingError(f"device is {device!r}; a model lives on cpu, cuda, mps or xpu")
        torch.empty(0, device=place)
    # What torch raises for a device that is not there depends on the device and on how torch was built.
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            there.append("mps")
        reason = next(iter(str(error).splitlines()), "")
        raise SettingError(
            f"device {str(device)!r} cannot be used ({reason}); this machine has {', '.join(there)}"
        ) from error
    return place


def _checked_dtype(dtype: "torch.dtype | str | None") -> "torch.dtype | None":
    """The dtype, by name or as it is, if a model can have it."""
    import torch

    known = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16")}
    found = known.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if dtype is not None and found not in known.values():
        raise SettingError(
            f"dtype is {dtype!r}; it is None (float32) or one of {', '.join(known)}, by name or from torch"
        )
    return found
