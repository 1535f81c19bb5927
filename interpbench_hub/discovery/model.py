"""From the HookedTransformer that users have to the package's own transformer, which methods run."""

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from interpbench_hub.errors import SettingError
from interpbench_hub.loader import BUFFERS

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from interpbench_hub.transformer import Transformer

_ONLY: dict[str, tuple[Any, ...]] = {
    "positional_embedding_type": ("standard",),
    "normalization_type": (None, "LN"),
    "attn_only": (False, None),
    "gated_mlp": (False, None),
    "parallel_attn_mlp": (False, None),
    "use_attn_scale": (True,),
    "scale_attn_by_inverse_layer_idx": (False, None),
    "n_key_value_heads": (None,),
    "use_local_attn": (False, None),
    "attn_scores_soft_cap": (-1.0, 0.0, None),
    "output_logits_soft_cap": (-1.0, 0.0, None),
    "use_normalization_before_and_after": (False, None),
    "post_embedding_ln": (False, None),
    "num_experts": (None,),
}
"""Fields of a HookedTransformer's configuration and the values with which ours computes the same."""


def to_transformer(model: "HookedTransformer | Transformer") -> "Transformer":
    """The package's own transformer with a model's weights, in float32 and where the model lives.

    What `load_model` returns can always be had; a model that is one already is returned as it is. Raises
    `SettingError` for a HookedTransformer of another architecture (rotary positions, gated MLPs, attention alone, ...).

    >>> from interpbench_hub import load_model
    >>> to_transformer(load_model("case_3")).config.n_layers
    2
    """
    from interpbench_hub.transformer import Transformer, TransformerConfig

    if isinstance(model, Transformer):
        return model
    shape = getattr(model, "cfg", None)
    if shape is None:
        raise SettingError(f"model is a {type(model).__name__}; give the HookedTransformer that load_model returns")
    for name, values in _ONLY.items():
        value = getattr(shape, name, values[0])
        if value not in values:
            raise SettingError(
                f"the model has {name}={value!r}; discovery runs transformers with {name}={values[0]!r}, as load_model "
                "returns them"
            )
    if abs(shape.attn_scale**2 - shape.d_head) > 1e-3:
        raise SettingError(f"the model scales attention by {shape.attn_scale}; it is the square root of d_head")
    config = TransformerConfig(**{field.name: getattr(shape, field.name) for field in fields(TransformerConfig)})
    transformer = Transformer(config, device=str(shape.device))
    state = model.state_dict()
    transformer.load_state_dict({name: value for name, value in state.items() if not name.endswith(BUFFERS)})
    return transformer
