"""The model card: what a checkpoint folder and the program of its case say, as the README.md of a Hub repository.

The text is `templates/model_card.md.jinja`; here is what goes into it. Figures come from the checkpoint's own files
and, for what led to a bundled model, from the collection's manifest.
"""

import json
import random
import re
from pathlib import Path

from interpbench_hub import manifest
from interpbench_hub.certificate import THRESHOLD, TOLERANCE
from interpbench_hub.checkpoint import Provenance
from interpbench_hub.constants import CARD_FILE, LIBRARY_NAME, NAMESPACE, UNDEFINED, WEIGHTS_FILE
from model_cards.methods import METHODS_HEADER, method_rows
from model_cards.pictures import png_of
from model_cards.rendering import code, listing, plain, render
from model_cards.results import (
    EDGE_HEADER,
    FAILURE_HEADER,
    MOST_FAILURES,
    SECTION_HEADER,
    edge_rows,
    eval_results_file,
    failure_rows,
    section_rows,
)
from model_cards.subject import Subject

PNG_FILE, SVG_FILE = "circuit.png", "circuit.svg"
RESULTS_FILE = ".eval_results/certificate.yaml"

MOST_VALUES = 24
"""Tokens or classes that a card lists."""
_MOST_EXAMPLE_TOKENS = 6
_RECIPES = {
    "edge-siit": "`edge-siit`: interchange of single nodes and single edges of the circuit, and replacement of sets of "
    "edges outside it, from one edge to all",
    "siit": "`siit`: Strict Interchange Intervention Training of whole nodes, as in the InterpBench paper",
    "behaviour": "`behaviour`: supervised training on the program's outputs, no interventions",
}
_CASE_2024 = re.compile(r"case_\d+")
"""Ids of the programs of the 2024 benchmark."""


def card_files(
    model_id: str, folder: Path | None = None, *, namespace: str = NAMESPACE, picture: bool = True
) -> dict[str, bytes]:
    """The files that a model's repository gets beside its checkpoint, by their paths in it.

    They are the card, the drawing of the circuit as SVG and (unless `picture` is False) as PNG, and the results. The
    same checkpoint gives the same bytes.

    Args:
        model_id: The model's name within the namespace.
        folder: Its checkpoint folder; that of the bundled model by default.
        namespace: Where on the Hub it is to lie; names and links in the card say so.
        picture: Whether to draw the PNG, which needs the extra `publish`. The card shows the SVG otherwise, which a
            Hub page does not display.
    """
    subject = Subject.load(model_id, folder, namespace)
    svg = subject.circuit.to_svg()
    text = card_text(subject, picture=PNG_FILE if picture else SVG_FILE, drawing=SVG_FILE, beside="")
    files = {CARD_FILE: text.encode(), SVG_FILE: svg.encode()}
    if picture:
        files[PNG_FILE] = png_of(svg)
    files[RESULTS_FILE] = eval_results_file(subject.certificate, subject.repository, subject.dataset).encode()
    return files


def model_card(
    model_id: str,
    folder: Path | None = None,
    namespace: str = NAMESPACE,
    *,
    picture: str = PNG_FILE,
    drawing: str = SVG_FILE,
    beside: str = "",
) -> str:
    """The text of a model's card, metadata included.

    `picture` and `drawing` are where the card finds the circuit to show and the one to link to, `beside` what stands
    before the names of the checkpoint's files in its links; all three as in a repository on the Hub by default.
    """
    return card_text(Subject.load(model_id, folder, namespace), picture=picture, drawing=drawing, beside=beside)


def card_text(subject: Subject, *, picture: str, drawing: str, beside: str) -> str:
    """The text of a card; see `model_card` for the three places."""
    from huggingface_hub import ModelCard

    text = render(
        "model_card.md.jinja",
        metadata=subject.data.to_yaml(),
        picture=picture,
        drawing=drawing,
        beside=beside,
        **_identity(subject),
        **_circuit(subject),
        **_certificate(subject),
        **_methods(subject),
        **_inputs(subject),
        sentences=_sentences(subject),
        **_provenance(subject, beside),
    )
    return str(ModelCard(text))


# -- what goes into the template ---------------------------------------------------------------------------------------


def _identity(subject: Subject) -> dict[str, object]:
    from interpbench_hub import __version__

    case = subject.case
    return {
        "model_id": subject.model_id,
        "repository": subject.repository,
        "namespace": subject.namespace,
        "dataset": subject.dataset,
        "case": case,
        "is_case_2024": _CASE_2024.fullmatch(case.id) is not None,
        "is_own_namespace": subject.namespace == NAMESPACE,
        "is_bundled": subject.is_bundled,
        "is_certified": subject.is_certified,
        "counterpart": None if subject.model_id == case.id else f"{subject.namespace}/{case.id}",
        "version": __version__,
        "tag": manifest.version_tag(),
        "library": LIBRARY_NAME,
    }


def _circuit(subject: Subject) -> dict[str, object]:
    circuit = subject.circuit
    return {
        "circuit": circuit,
        "counts": {kind: len(circuit.of_kind(kind)) for kind in ("varying", "constant", "inert")},
        "n_heads_inside": sum(node.is_head for node in circuit.nodes),
        "node_rows": [
            (code(node), ", ".join(map(code, role.variables)), plain(role.meaning))
            for node, role in circuit.roles.items()
        ],
        "node_header": ("node", "variables", "meaning"),
        "edge_rows": edge_rows(circuit, subject.certificate),
        "edge_header": EDGE_HEADER,
    }


def _certificate(subject: Subject) -> dict[str, object]:
    from interpbench_hub.cases.pairs import MIN_SPACE_TO_SPLIT, is_split

    case, certificate = subject.case, subject.certificate
    lengths = range(case.min_len, case.max_len + 1)
    divided = [length for length in lengths if is_split(case, length - 1)]
    undivided = [length for length in lengths if length not in divided]
    return {
        "certificate": certificate,
        "section_rows": section_rows(certificate),
        "section_header": SECTION_HEADER,
        "n_entries": sum(1 for _ in certificate.entries()),
        "n_failures": len(certificate.failures()),
        "n_more_failures": max(0, len(certificate.failures()) - MOST_FAILURES),
        "failure_rows": failure_rows(certificate),
        "failure_header": FAILURE_HEADER,
        "without_effect": [effect.name for effect in certificate.effect if effect.changed == 0],
        "threshold": THRESHOLD,
        "tolerance": TOLERANCE,
        "divided": _lengths(divided),
        "undivided": _lengths(undivided),
        "min_space": MIN_SPACE_TO_SPLIT,
    }


def _methods(subject: Subject) -> dict[str, object]:
    """How methods do, where the circuit that they are scored against is the model's own."""
    rows = method_rows(subject.model_id, subject.sha256) if subject.is_certified else []
    return {"method_rows": rows, "method_header": METHODS_HEADER}


def _inputs(subject: Subject) -> dict[str, object]:
    case, vocab, output = subject.case, subject.config.vocab, subject.config.output
    n_tokens = max(case.min_len - 1, min(case.max_len - 1, _MOST_EXAMPLE_TOKENS))
    example = case.sample(random.Random(case.id), n_tokens)
    tokens = [f"{place} {code(repr(token))}" for place, token in enumerate(vocab.tokens)]
    classes = [
        f"{place} {code(UNDEFINED if value is None else repr(value))}" for place, value in enumerate(output.classes)
    ]
    return {
        "config": subject.config,
        "tokens": listing(tokens, MOST_VALUES),
        "classes": listing(classes, MOST_VALUES),
        "example": f"[{', '.join(map(_literal, example))}]",
        "example_outputs": f"[{', '.join(map(_rounded, case.program(example)))}]",
    }


def _sentences(subject: Subject) -> dict[str, object] | None:
    """What is said of a model of sentences alone."""
    if not subject.is_of_sentences:
        return None
    from model_cards.sentences import sentence_section

    return sentence_section(subject)


def _provenance(subject: Subject, beside: str) -> dict[str, object]:
    provenance, attempts = subject.config.provenance, subject.attempts
    chosen = next((attempt for attempt in attempts if attempt["chosen"]), None)
    software = (provenance.package_version, provenance.torch_version, provenance.python_version)
    seconds = f"{provenance.wall_seconds:,.1f} by the clock, {provenance.cpu_seconds:,.1f} of processor time"
    if chosen is not None:
        seconds += (
            f", of which {chosen['training_cpu_seconds']:,.1f} for training and "
            f"{chosen['certificate_cpu_seconds']:,.1f} for certificates"
        )
    rows = [
        ("recipe", _RECIPES.get(provenance.recipe, code(provenance.recipe))),
        ("seed", provenance.seed),
        ("steps", _steps(provenance)),
        ("seconds", seconds if chosen is not None else f"{seconds}, certificates included"),
        ("hardware", plain(provenance.hardware)),
        ("package, torch, Python", plain(", ".join(software))),
        ("commit", "not known" if provenance.commit is None else code(provenance.commit)),
        ("date", plain(provenance.created)),
        (f"SHA-256 of [{WEIGHTS_FILE}]({beside}{WEIGHTS_FILE})", code(subject.sha256)),
    ]
    if attempts:
        tried = [
            f"seed {attempt['seed']}: {attempt['steps']:,} steps, grade {attempt['grade']}"
            + (", this model" if attempt["chosen"] else "")
            for attempt in attempts
        ]
        rows.insert(3, ("attempts", f"{len(tried)} ({'; '.join(tried)})"))
    return {"provenance": provenance, "provenance_header": ("what", "value"), "provenance_rows": rows}


def _steps(provenance: Provenance) -> str:
    steps = f"{provenance.steps:,}"
    if provenance.earlier_ends:
        ends = ", then ".join(f"{step:,}" for step in provenance.earlier_ends)
        case = f" of {provenance.started_from_case}" if provenance.started_from_case else ""
        weights = f", with the weights {provenance.started_from[:12]}...{case} alone" if provenance.started_from else ""
        steps += f" (it was to end after {ends}, and was given more{weights})"
    return steps


def _lengths(lengths: list[int]) -> str:
    """Lengths in words; more tokens, more inputs, so the divided and the others are a range each."""
    if not lengths:
        return ""
    return f"length {lengths[0]}" if len(lengths) == 1 else f"lengths {lengths[0]} to {lengths[-1]}"


def _literal(value: object) -> str:
    """A value in Python, text in double quotes as formatters of code have it."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) and value.isprintable() else repr(value)


def _rounded(value: object) -> str:
    return repr(round(value, 4)) if isinstance(value, float) else _literal(value)
