"""What a card says of a model of sentences: how to give it text, what it answers, and each kind of counterfactual.

Answers are measured when a card is made, on sentences of the split `test` (templates and pairs of names that training
never sees). `benchmarks/ioi.py` measures the same on more of them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from interpbench_hub.cases.pairs import real_positions, seeded
from interpbench_hub.certificate import ABLATIONS, THRESHOLD, Ablation, Certificate, Counterfactual, Entry, Section
from interpbench_hub.checkpoint import load_weights
from interpbench_hub.ioi.case import IoiCase
from interpbench_hub.ioi.sentences import Sentences, SentenceSampler
from interpbench_hub.ioi.words import NOBODY
from interpbench_hub.siit.machine import torch_threads
from interpbench_hub.siit.pair_run import OutputReader, to_ids
from interpbench_hub.siit.trainer import next_token_loss
from interpbench_hub.tokenizer import text_of
from interpbench_hub.transformer import Transformer
from model_cards.rendering import code
from model_cards.results import cut

if TYPE_CHECKING:
    from model_cards.subject import Subject

N_SENTENCES = 1_000
"""Sentences behind the figures of a card."""
EXAMPLE = ("Then", ",", "Mary", "and", "John", "went", "to", "the", "store", ".", "John", "gave", "a", "drink", "to")
_CHUNK = 500

KINDS: dict[Ablation, str] = {
    "name_swap": "IO and S exchanged, in both clauses",
    "s2_to_io": "the second mention of S replaced by the IO",
    "abc": "the second mention of S replaced by a third name",
    "resample": "any other, at least as long",
    "zero": "none: zero",
    "mean": "none: the mean at that position",
}
"""What replaces, as entries of certificates name it."""
KIND_HEADER = (
    "replaced by",
    "the other sentence",
    "its answers right",
    "entries",
    f"below {THRESHOLD}",
    "worst entry",
    "share right",
)


@dataclass(frozen=True)
class SentenceFigures:
    """What a model does with held-out sentences and with their counterfactuals of every kind."""

    n_sentences: int
    right: int
    """Sentences whose answer has the highest logit of all words at the last position."""
    right_of_kind: dict[Counterfactual, int]
    """The same of their counterfactuals, taken as sentences of their own."""
    differences: Tensor
    """Logit of the IO less that of S at the last position: [sentence]."""
    cross_entropy: float
    """Mean over all words (BOS no word, the answer not counted) of minus the log of their probability, in nats."""

    @property
    def mean_difference(self) -> float:
        return float(self.differences.mean())

    @property
    def n_above(self) -> int:
        """Sentences with a higher logit for the IO than for S."""
        return int((self.differences > 0).sum())


def held_out(case: IoiCase, n_sentences: int, seed: int = 0) -> tuple[Sentences, dict[Counterfactual, Sentences]]:
    """Sentences of the split `test` and, by kind, the counterfactual of each; the same for the same seed."""
    sampler = SentenceSampler("test", torch.Generator().manual_seed(seeded("figures", case.id, seed)))
    clean = sampler.draw(n_sentences)
    return clean, {kind: sampler.counterfactual(clean, kind) for kind in case.counterfactuals}


@torch.no_grad()
def measure_sentences(case: IoiCase, model: Transformer, n_sentences: int, *, seed: int = 0) -> SentenceFigures:
    """The figures of a model on `n_sentences` held-out sentences."""
    clean, others = held_out(case, n_sentences, seed)
    with torch_threads(1):
        right, differences, losses = 0, [], []
        for sentences, logits, ids in _runs(case, model, clean):
            right += _n_right(case, sentences, logits)
            end = logits[torch.arange(len(sentences)), sentences.lengths]
            differences.append(end.gather(1, sentences.io[:, None]) - end.gather(1, sentences.again[:, None]))
            losses.append(next_token_loss(logits, ids, sentences.lengths + 1).double() * sentences.lengths.sum())
        right_of_kind: dict[Counterfactual, int] = {
            kind: sum(_n_right(case, sentences, logits) for sentences, logits, _ in _runs(case, model, other))
            for kind, other in others.items()
        }
    return SentenceFigures(
        n_sentences=n_sentences,
        right=right,
        right_of_kind=right_of_kind,
        differences=torch.cat(differences)[:, 0],
        cross_entropy=float(sum(losses) / clean.lengths.sum()),
    )


def _runs(case: IoiCase, model: Transformer, sentences: Sentences) -> Iterator[tuple[Sentences, Tensor, Tensor]]:
    """Some sentences at a time with their logits [sentence, 1 + pos, out] and token ids."""
    for start in range(0, len(sentences), _CHUNK):
        some = sentences.rows(slice(start, start + _CHUNK))
        ids = to_ids(case, some.tokens(), some.lengths)
        yield some, model(ids, some.lengths + 1), ids


def _n_right(case: IoiCase, sentences: Sentences, logits: Tensor) -> int:
    tokens, lengths = sentences.tokens(), sentences.lengths
    codes = case.high_level.run(tokens, lengths)[case.graph.output.name]
    there = real_positions(tokens, lengths)
    return int(OutputReader(case).correct(logits, codes, there)[0].sum())


# -- what a certificate says of each kind ------------------------------------------------------------------------------


def entries_of_kind(certificate: Certificate, kind: Ablation) -> list[tuple[Section, Entry]]:
    """Entries that replace by this kind, with their sections, worst first; those without any pair say nothing."""
    found = [item for item in certificate.entries() if item[1].ablation == kind and item[1].count]
    return sorted(found, key=lambda item: (item[1].accuracy, item[1].lower_bound))


def kind_rows(certificate: Certificate, kinds: Iterable[Ablation], figures: SentenceFigures) -> list[tuple[str, ...]]:
    """A row a kind under `KIND_HEADER`: answers to its sentences, and the certificate's entries that replace by it."""
    rows = []
    for kind in kinds:
        entries = entries_of_kind(certificate, kind)
        right = figures.right_of_kind.get(cast(Counterfactual, kind))
        section, worst = entries[0] if entries else (None, None)
        rows.append(
            (
                code(kind),
                KINDS[kind],
                "" if right is None else cut(right, figures.n_sentences),
                f"{len(entries):,}",
                f"{sum(not entry.passes for _, entry in entries):,}",
                f"{code(section)} {code(worst.name)}" if worst is not None and worst.accuracy < 1 else "–",
                "–" if worst is None else cut(worst.correct, worst.count),
            )
        )
    return rows


# -- the section -------------------------------------------------------------------------------------------------------


def sentence_section(subject: "Subject") -> dict[str, object]:
    """What the template needs to know of a model of sentences."""
    case = cast(IoiCase, subject.case)
    model = Transformer(subject.config.transformer)
    model.load_state_dict(load_weights(subject.folder, subject.config))
    figures = measure_sentences(case, model, N_SENTENCES)
    with torch.no_grad():
        answer = case.vocab[int(model(case.encode([EXAMPLE]))[0, -1].argmax())]
    kinds: tuple[Ablation, ...] = (
        *case.counterfactuals,
        *(ablation for ablation in ABLATIONS if ablation != "resample"),
    )
    return {
        "figures": figures,
        "right": cut(figures.right, figures.n_sentences),
        "above": cut(figures.n_above, figures.n_sentences),
        "difference": f"{figures.mean_difference:.1f}",
        "example_text": text_of(EXAMPLE),
        "example_answer": answer,
        "kind_rows": kind_rows(subject.certificate, kinds, figures),
        "kind_header": KIND_HEADER,
        "nobody": NOBODY,
    }
