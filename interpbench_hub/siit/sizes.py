"""The size of the transformer a case is trained in: one rule for all cases."""

from interpbench_hub.cases.case import Case
from interpbench_hub.transformer import TransformerConfig

MIN_D_HEAD = 8
MIN_D_HEAD_DEEP = 16
MAX_D_HEAD = 32
MIN_D_MODEL = 32
MAX_D_MODEL = 64
_VALUES_PER_DIMENSION = 2
"""A head learns to compare about this many key or query values a dimension exactly."""


def transformer_config(case: Case) -> TransformerConfig:
    """Layers and heads by the case's alignment; widths by its depth and the most values one head must tell apart.

    `d_head` is the power of two from 8 (16 if there are more than two layers) to 32 that gives every two key or query
    values a dimension, `d_model` is `n_heads * d_head` (from 32 to 64), `d_mlp` four times that. Wide residual
    streams pay in deep cases: with 32 dimensions case 21 learns at a third of the speed, step for step.
    """
    alignment = case.alignment
    compared = [1]
    for variable in case.graph.variables:
        if variable.kind in ("fraction", "aggregate"):
            compared += [len(case.graph[read.variable].classes) for read in variable.reads if read.slot != "v"]
    d_head = MIN_D_HEAD if alignment.n_layers == 2 else MIN_D_HEAD_DEEP
    while d_head < MAX_D_HEAD and d_head * _VALUES_PER_DIMENSION < max(compared):
        d_head *= 2
    d_model = min(max(alignment.n_heads * d_head, MIN_D_MODEL), MAX_D_MODEL)
    return TransformerConfig(
        n_layers=alignment.n_layers,
        n_heads=alignment.n_heads,
        d_model=d_model,
        d_head=d_head,
        d_mlp=4 * d_model,
        d_vocab=case.d_vocab,
        d_vocab_out=case.d_vocab_out,
        n_ctx=case.max_len,
        attention_dir="causal" if case.causal else "bidirectional",
    )
