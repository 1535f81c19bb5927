"""Indirect Object Identification: what its models answer, what is certified of them, and whether patching finds it all.

python benchmarks/ioi.py [--models ioi ioi_full runs/ioi/edge-siit_0] [--sentences 10000] [--pairs 256] [--write]

Models are bundled ones or checkpoint folders; without `--models`, whichever of `ioi` and `ioi_full` are bundled.
Answers are those at the last position of sentences whose templates and pairs of names training never sees, and of their
counterfactuals of each kind, taken as sentences of their own. Nats a word stand next to those of the grammar itself
(all templates, train and test alike, each as likely as any other) and of counts of pairs of words in training
sentences. The AUROC is that of exhaustive patching with the names exchanged: varying edges of the
circuit against all edges outside. `--write` puts the table between the markers of README.md and benchmarks/README.md.
"""

import argparse
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from interpbench_hub.certificate import ABLATIONS, Ablation
from interpbench_hub.checkpoint import Checkpoint, load_checkpoint
from interpbench_hub.constants import CERTIFICATE_FILE, MODEL_FILES
from interpbench_hub.discovery.data import PairData
from interpbench_hub.discovery.exhaustive import exhaustive_patching
from interpbench_hub.discovery.labels import labels_of
from interpbench_hub.discovery.metrics import auroc
from interpbench_hub.hub import resolve
from interpbench_hub.ioi.case import CASES, IoiCase
from interpbench_hub.ioi.sentences import SentenceSampler
from interpbench_hub.ioi.templates import AGAIN, FIRST, OBJECT, PLACE, SECOND, TEMPLATES
from interpbench_hub.ioi.words import NAMES, OBJECTS, PLACES
from interpbench_hub.loader import load_case
from interpbench_hub.manifest import load_manifest
from interpbench_hub.siit.machine import torch_threads
from interpbench_hub.transformer import Transformer
from model_cards.rendering import code, table
from model_cards.results import cut
from model_cards.sentences import entries_of_kind, held_out, measure_sentences

ROOT = Path(__file__).resolve().parent.parent
READMES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")
BEGIN = "<!-- begin: the table of benchmarks/ioi.py -->"
END = "<!-- end: the table of benchmarks/ioi.py -->"
TRAINING_SENTENCES = 20_000
"""Sentences of the split `train` behind the counts of pairs of words."""


# -- the language without a model --------------------------------------------------------------------------------------


def sentence_probability(words: Sequence[str], templates: Iterable[Sequence[str]] = TEMPLATES) -> float:
    """Probability that a sentence begins with these words, by the grammar.

    Templates are as likely as one another, and so are the two orders and the fillings of each slot.
    """
    templates = list(templates)
    return sum(_probability(words, template) for template in templates) / len(templates)


def _probability(words: Sequence[str], template: Sequence[str]) -> float:
    if len(words) > len(template):
        return 0.0
    filled: dict[str, str] = {}
    probability = 1.0
    for word, slot in zip(words, template, strict=False):
        # A slot that comes twice holds the same word again.
        choices = (filled[slot],) if slot in filled else _choices(slot, filled)
        if word not in choices:
            return 0.0
        filled[slot] = word
        probability /= len(choices)
    return probability


def _choices(slot: str, filled: dict[str, str]) -> Sequence[str]:
    """Words that a slot may hold, each as likely; a word of the template itself is the only one."""
    if slot == SECOND:
        return [name for name in NAMES if name != filled[FIRST]]
    if slot == AGAIN:
        return filled[FIRST], filled[SECOND]
    return {FIRST: NAMES, PLACE: PLACES, OBJECT: OBJECTS}.get(slot, (slot,))


def grammar_cross_entropy(sentences: Sequence[Sequence[str]]) -> float:
    """Mean over all words of minus the log of a word's probability by the grammar, given those before it: nats."""
    # Probabilities of a sentence's words multiply to that of the sentence.
    return -sum(math.log(sentence_probability(words)) for words in sentences) / sum(map(len, sentences))


def bigram_cross_entropy(ids: Tensor, lengths: Tensor, training_ids: Tensor, training_lengths: Tensor) -> float:
    """The same by how often a word follows the one before it in training sentences, every pair once more than seen.

    Token ids [sentence, 1 + pos] begin with BOS; lengths [sentence] count it.
    """
    size = int(max(ids.max(), training_ids.max())) + 1
    counts = torch.ones(size, size, dtype=torch.float64)
    first, second = _pairs(training_ids, training_lengths)
    counts.index_put_((first, second), torch.ones(len(first), dtype=torch.float64), accumulate=True)
    first, second = _pairs(ids, lengths)
    return -float((counts / counts.sum(1, keepdim=True))[first, second].log().mean())


def _pairs(ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Every two neighbouring ids: [pair] each."""
    there = torch.arange(1, ids.shape[1]) < lengths[:, None]
    return ids[:, :-1][there], ids[:, 1:][there]


# -- a model -----------------------------------------------------------------------------------------------------------


def figures_of(name: str, *, n_sentences: int, n_pairs: int) -> dict[str, str]:
    """Everything that is measured of a model, or known from its files: text by what it is."""
    folder = resolve(name, files=(*MODEL_FILES, CERTIFICATE_FILE))
    checkpoint, case = load_checkpoint(folder), load_case(folder)
    if not isinstance(case, IoiCase):
        raise SystemExit(f"{name} is a model of {case.id}; give models of {', '.join(case.id for case in CASES)}")
    model = Transformer(checkpoint.config.transformer)
    model.load_state_dict(checkpoint.weights)
    circuit, varying = checkpoint.circuit, len(checkpoint.circuit.of_kind("varying"))
    return {
        "edges: varying, of the circuit, of the model": f"{varying}, {len(circuit)}, {len(circuit.universe)}",
        **answers(case, model, n_sentences),
        **certified(checkpoint, case),
        **patched(checkpoint, case, model, n_pairs),
        "training": _training(checkpoint),
    }


def answers(case: IoiCase, model: Transformer, n_sentences: int) -> dict[str, str]:
    found = measure_sentences(case, model, n_sentences)
    clean, _ = held_out(case, n_sentences)
    words = [
        [case.vocab[token] for token in row[:length]]
        for row, length in zip(clean.tokens().tolist(), clean.lengths.tolist(), strict=True)
    ]
    seen = SentenceSampler("train", torch.Generator().manual_seed(0)).draw(TRAINING_SENTENCES)
    ids, training_ids = (
        torch.nn.functional.pad(sentences.tokens(), (1, 0), value=case.bos_id) for sentences in (clean, seen)
    )
    nats = (
        found.cross_entropy,
        grammar_cross_entropy(cast(list[list[str]], words)),
        bigram_cross_entropy(ids, clean.lengths + 1, training_ids, seen.lengths + 1),
    )
    return {
        f"right answers, of {n_sentences:,} held-out sentences": cut(found.right, n_sentences),
        **{
            f"right answers to their {code(kind)}": cut(right, n_sentences)
            for kind, right in found.right_of_kind.items()
        },
        "logit of IO above that of S": cut(found.n_above, n_sentences),
        "logit of IO less that of S, mean": f"{found.mean_difference:.2f}",
        "nats a word: model, grammar, pairs of words": ", ".join(f"{each:.3f}" for each in nats),
    }


def certified(checkpoint: Checkpoint, case: IoiCase) -> dict[str, str]:
    certificate = checkpoint.certificate
    assert certificate is not None, "resolve has found the file"
    rows = {"grade": certificate.grade}
    kinds: tuple[Ablation, ...] = (*case.counterfactuals, *(kind for kind in ABLATIONS if kind != "resample"))
    for kind in kinds:
        section, worst = entries_of_kind(certificate, kind)[0]
        share = cut(worst.correct, worst.count)
        rows[f"worst entry, {code(kind)}"] = share + (f" ({section} {code(worst.name)})" if worst.accuracy < 1 else "")
    return rows


def patched(checkpoint: Checkpoint, case: IoiCase, model: Transformer, n_pairs: int) -> dict[str, str]:
    data = PairData.of(case, n_pairs=n_pairs, counterfactual="name_swap")
    start = time.process_time()
    scores = exhaustive_patching(model, checkpoint.circuit.universe, data)
    seconds = time.process_time() - start
    edges, is_positive = labels_of(checkpoint.circuit)
    area = auroc([scores[edge] for edge in edges], is_positive)
    assert area is not None, "circuits of IOI have edges of both kinds"
    # Cut off: 1.0000 is said of nothing that is below 1.
    what = f"AUROC of exhaustive patching, {code('name_swap')}, {n_pairs} pairs"
    return {what: f"{math.floor(area * 10_000) / 10_000:.4f}, {seconds:.0f} s"}


def _training(checkpoint: Checkpoint) -> str:
    made = checkpoint.config.provenance
    minutes = f"{made.cpu_seconds / 60:.0f} min of processor time ({made.wall_seconds / 60:.0f} by the clock)"
    return f"{made.steps:,} steps, {minutes}, certificates included; {made.hardware}"


# -- the table ---------------------------------------------------------------------------------------------------------


def markdown_table(models: dict[str, dict[str, str]]) -> str:
    """A column a model, a row a figure."""
    names = list(dict.fromkeys(what for figures in models.values() for what in figures))
    return table(["", *models], [[what, *(figures.get(what, "") for figures in models.values())] for what in names])


def replaced(path: Path, content: str) -> str:
    """The text of a file with `content` between the two markers."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path}: lacks the lines {BEGIN!r} and {END!r}; put them where the table belongs")
    return f"{before}{BEGIN}\n\n{content}\n\n{END}{after}"


@torch_threads(1)
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", help="bundled models, or checkpoint folders")
    parser.add_argument("--sentences", type=int, default=10_000)
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--write", action="store_true", help="put the table into README.md and benchmarks/README.md")
    given = parser.parse_args(arguments)
    bundled = load_manifest()["models"]
    names = given.models or [case.id for case in CASES if case.id in bundled]
    if not names:
        raise SystemExit("no model of IOI is bundled; give --models a checkpoint folder")
    models = {name: figures_of(name, n_sentences=given.sentences, n_pairs=given.pairs) for name in names}
    content = markdown_table(models)
    print(content)
    if given.write:
        for path, text in [(path, replaced(path, content)) for path in READMES]:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
