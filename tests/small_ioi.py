"""Models of IOI so small that measuring them takes no time, and certificates with an entry for every kind."""

from dataclasses import replace

from interpbench_hub.cases import get_case
from interpbench_hub.certificate import Certificate, Effect, Entry
from interpbench_hub.checkpoint import Checkpoint, CheckpointConfig, Output, Provenance, Vocab, weights_digest
from interpbench_hub.ioi.words import COUNTERFACTUALS
from interpbench_hub.siit.runs import measured_circuit
from interpbench_hub.siit.sizes import transformer_config
from interpbench_hub.transformer import Transformer, TransformerConfig

KINDS = (*COUNTERFACTUALS, "zero", "mean")


def small_config(case_id: str = "ioi") -> TransformerConfig:
    """Layers and heads as the circuit needs them, and hardly any width."""
    return replace(transformer_config(get_case(case_id)), d_model=8, d_head=2, d_mlp=8)


def always_saying(word: str, case_id: str = "ioi") -> Transformer:
    """A model that gives one word the highest logit everywhere, whatever is exchanged."""
    model = Transformer(small_config(case_id))
    model.flat.data.zero_()
    model.parameters["unembed.b_U"].data[get_case(case_id).token_ids[word]] = 1.0
    return model


def certificate_of(model: Transformer, case_id: str = "ioi") -> Certificate:
    """Made up: all is right, one entry a section and kind."""
    case = get_case(case_id)
    edge, outside = str(case.circuit.of_kind("varying")[0]), str(case.circuit.negatives[0])
    return Certificate(
        case=case_id,
        weights_sha256=weights_digest(model.state_dict()),
        seed=0,
        n_pairs=10_000,
        n_pairs_single=2048,
        is_exhaustive=False,
        is_held_out=True,
        package_version="0.1.0",
        behaviour=(Entry("all", None, 40_000, 40_000),),
        node_interchange=tuple(Entry("embed", kind, 512, 512) for kind in COUNTERFACTUALS),
        edge_interchange=tuple(Entry(edge, kind, 512, 512) for kind in COUNTERFACTUALS),
        node_strict=tuple(Entry("m0", kind, 512, 512) for kind in KINDS),  # type: ignore[arg-type]
        edge_strict=tuple(Entry(outside, kind, 512, 512) for kind in KINDS),  # type: ignore[arg-type]
        complement=tuple(Entry("all", kind, 10_000, 10_000) for kind in KINDS),  # type: ignore[arg-type]
        effect=tuple(Effect(str(edge), 2048, 900, 905) for edge in case.circuit.of_kind("varying")),
    )


def checkpoint_of(
    model: Transformer, provenance: Provenance, case_id: str = "ioi", certificate: Certificate | None = None
) -> Checkpoint:
    """A whole checkpoint of a model, with the made-up certificate if no other is given."""
    case = get_case(case_id)
    config = CheckpointConfig(
        case=case_id,
        transformer=model.config,
        vocab=Vocab(case.vocab, case.bos_id, case.pad_id),
        output=Output("categorical", case.classes),
        min_len=case.min_len,
        max_len=case.max_len,
        provenance=replace(provenance, recipe="edge-siit"),
    )
    certificate = certificate or certificate_of(model, case_id)
    return Checkpoint(config, model.state_dict(), measured_circuit(case, certificate), certificate)
