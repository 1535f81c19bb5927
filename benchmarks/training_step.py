"""One training step of ours against the same step made with TransformerLens' hooks.

    python benchmarks/training_step.py [--cases case_3 case_21] [--repetitions 15] [--json result.json]

A step of the default recipe has 112 rows: 16 sources, 16 bases, 48 bases with a circuit node or edge interchanged, 32
with something outside the circuit replaced; each of the 80 intervened rows has an intervention of its own. `Trainer`
takes one stacked pass for all. With hooks on a HookedTransformer, sources and bases are one pass that notes what every
node writes (gradients kept, so not `run_with_cache`), and the intervened rows are run in one of three ways:

- "masks in hooks": one pass for all 80 rows; the hook of each receiver mixes base and source by a mask of its own for
  each row. The same rows and the same losses as ours, by the strongest use of hooks we know.
- "a pass an intervention": 80 passes of one row, each cut to its length and with hooks only where it needs them. The
  same rows and losses again, by hooks that know one intervention, as they are mostly written.
- "a pass a group": five passes of 16 rows which share one intervention. As many rows, but 5 interventions a step
  instead of 80: not the same step, the one that is usual.

Where there is a doubt it is given to the hooks. They are timed for forward, backward and update alone, on rows drawn
beforehand; `Trainer.step` is timed whole, draws and high-level targets included. They use torch's fused Adam. Their
ratios are to our step without probes, whose loss they do not compute either; what the whole default recipe takes is
listed beside it. Before any timing, the losses of each way are checked against those of the package's own transformer
on the same rows and weights. All on one thread, in seconds of processor time; ways take turns, and a ratio is the
median over turns. `use_attn_result`, which edges from heads need, is a good part of what hooks cost.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interpbench_hub.cases import Case, get_case
from interpbench_hub.cases.pairs import PairSampler, real_positions
from interpbench_hub.loader import to_hooked_transformer
from interpbench_hub.siit.interventions import OUTSIDE_SHAPES, EdgeSpace, InterventionDraw
from interpbench_hub.siit.machine import hardware
from interpbench_hub.siit.pair_run import OutputReader, to_ids
from interpbench_hub.siit.recipe import EDGE_SIIT, Recipe
from interpbench_hub.siit.sizes import transformer_config
from interpbench_hub.siit.trainer import Trainer
from interpbench_hub.transformer import Transformer, TransformerConfig

OURS, WITH_PROBES = "stacked pass (ours)", "stacked pass and probes (the default recipe)"
MASKS, PASSES, GROUPS = "masks in hooks", "a pass an intervention", "a pass a group"
WAYS = (MASKS, PASSES, GROUPS)
WARM_UP = 3
# Ours draws for 16 steps at once: every turn holds one such draw.
STEPS_A_TURN = {OURS: 16, WITH_PROBES: 16, MASKS: 5, GROUPS: 5, PASSES: 1}
N_DRAWN = 8
"""Steps whose rows are drawn beforehand; they are gone through again and again."""


@dataclass
class Rows:
    """All that a step's rows are, before any transformer has seen them."""

    ids: Tensor
    """Sources, then bases: [row, pos]."""
    lengths: Tensor
    there: Tensor
    codes: Tensor
    masks: Tensor
    """What each intervened row exchanges: [row, receiver, sender]."""
    kinds: Tensor
    """Place in the recipe's ablations of what replaces in each row outside the circuit."""
    targets: Tensor


class RowDraw:
    """Draws the rows of steps as training does."""

    def __init__(self, case: Case, config: TransformerConfig, recipe: Recipe) -> None:
        assert recipe.outside_level == "edge"
        self.case, self.recipe = case, recipe
        self.space = EdgeSpace(case, config)
        self.interventions = InterventionDraw(self.space)
        self.sampler = PairSampler(case, seed="benchmark", split="train", related=recipe.related_share)

    def step(self, number: int, *, shared: bool = False) -> Rows:
        """The rows of a step; `shared` gives all rows of a group the intervention of its first."""
        recipe, space, n = self.recipe, self.space, self.recipe.n_pairs
        pairs = self.sampler.draw(n, number)
        generator = torch.Generator().manual_seed(number)
        n_outside, n_ablations = n * recipe.outside_groups, len(recipe.ablations)
        groups, even = recipe.circuit_groups, torch.ones(space.n_exchanges)
        exchanges = self.interventions.circuit(n * groups, even, recipe.node_share, generator)
        circuit = self.interventions.exchanged_edges(exchanges)
        weights = torch.ones(len(OUTSIDE_SHAPES) * n_ablations)
        drawn = self.interventions.outside_kinds(n_outside, weights, generator)
        single = self.interventions.outside_edge(n_outside, torch.ones(space.n_edges), generator)
        outside, kinds = self.interventions.outside(drawn // n_ablations, single, generator), drawn % n_ablations
        if shared:
            circuit, outside = (edges[::n].repeat_interleave(n, 0) for edges in (circuit, outside))
            kinds = kinds[::n].repeat_interleave(n)
        tokens, lengths = torch.cat([pairs.source, pairs.base]), torch.cat([pairs.source_lengths, pairs.base_lengths])
        high_level = self.case.high_level
        values = high_level.run(tokens, lengths)
        codes = values[self.case.graph.output.name]
        source_values = {name: value[:n].repeat(groups, 1) for name, value in values.items()}
        base, base_lengths = pairs.base.repeat(groups, 1), pairs.base_lengths.repeat(groups)
        exchanged = high_level.interchange(base, base_lengths, source_values, space.to_circuit(circuit))
        return Rows(
            to_ids(self.case, tokens, lengths),
            lengths + 1,
            real_positions(tokens, lengths),
            codes,
            space.to_mask(torch.cat([circuit, outside])),
            kinds,
            torch.cat([exchanged, codes[n:].repeat(recipe.outside_groups, 1)]),
        )


class Losses:
    """From what a transformer gives on a step's rows to the losses: behaviour, circuit, outside."""

    def __init__(self, case: Case, recipe: Recipe) -> None:
        self.recipe, self.reader = recipe, OutputReader(case)

    def replacement(self, rows: Rows, written: Tensor) -> Tensor:
        """What replaces in each intervened row [sender, row, pos, d_model], from what sources and bases wrote."""
        n = self.recipe.n_pairs
        values = written[:, :n].repeat(1, self.recipe.outside_groups, 1, 1)
        for place, ablation in enumerate(self.recipe.ablations):
            chosen = (rows.kinds == place)[None, :, None, None]
            if ablation == "zero":
                values = values.masked_fill(chosen, 0.0)
            elif ablation == "mean":
                real = F.pad(rows.there, (1, 0), value=True)[None, :, :, None]
                mean = (written * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
                values = torch.where(chosen, mean, values)
        return torch.cat([written[:, :n].repeat(1, self.recipe.circuit_groups, 1, 1), values], dim=1)

    def __call__(self, rows: Rows, plain: Tensor, intervened: Tensor) -> list[Tensor]:
        n, split = self.recipe.n_pairs, self.recipe.n_pairs * self.recipe.circuit_groups
        behaviour = self.reader.loss(plain, rows.codes, rows.there)
        each = self.reader.loss(intervened, rows.targets, rows.there[n:].repeat(len(rows.masks) // n, 1))
        return [behaviour.sum() / n, each[:split].sum() / n, each[split:].sum() / n]


@torch.no_grad()
def losses_of_transformer(model: Transformer, rows: Rows, losses: Losses) -> list[Tensor]:
    """The losses by the package's own transformer."""
    n = losses.recipe.n_pairs
    run, groups = model.run(rows.ids, rows.lengths), len(rows.masks) // n
    base, lengths = run.senders[:2, n:].repeat(1, groups, 1, 1), rows.lengths[n:].repeat(groups)
    return losses(rows, run.logits, model.interchange(base, losses.replacement(rows, run.senders), rows.masks, lengths))


class HookedStep:
    """The same step on a HookedTransformer; `way` is one of `WAYS`."""

    def __init__(self, model: Transformer, case: Case, recipe: Recipe, way: str) -> None:
        self.way, self.config, self.recipe, self.n_steps = way, model.config, recipe, 0
        self.of_outputs = Losses(case, recipe)
        self.model = to_hooked_transformer(model.config, model.state_dict())
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=1e-3, betas=recipe.betas, fused=True)
        draw = RowDraw(case, model.config, recipe)
        self.rows = [draw.step(number, shared=way == GROUPS) for number in range(N_DRAWN)]

    def step(self) -> None:
        """Forward, backward, update."""
        losses = self.losses(self.rows[self.n_steps % N_DRAWN])
        self.optimiser.zero_grad()
        torch.stack(losses).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate(self.n_steps)
        self.optimiser.step()
        self.n_steps += 1

    def losses(self, rows: Rows) -> list[Tensor]:
        n = self.recipe.n_pairs
        written: list[Tensor] = []
        hooks = [*self._padding(rows.lengths, rows.ids.shape[1]), *self._noting(written)]
        plain = self.model.run_with_hooks(rows.ids, fwd_hooks=hooks)
        replacement = self.of_outputs.replacement(rows, torch.stack(written))
        groups = len(rows.masks) // n
        ids, lengths = rows.ids[n:].repeat(groups, 1), rows.lengths[n:].repeat(groups)
        return self.of_outputs(rows, plain, self._run_intervened(ids, lengths, rows.masks, replacement))

    def _run_intervened(self, ids: Tensor, lengths: Tensor, mask: Tensor, replacement: Tensor) -> Tensor:
        if self.way == MASKS:
            return self._pass(ids, lengths, mask, replacement)
        n = self.recipe.n_pairs
        if self.way == GROUPS:
            parts = [slice(start, start + n) for start in range(0, len(ids), n)]
            return torch.cat([self._pass(ids[p], lengths[p], mask[p][:1], replacement[:, p]) for p in parts])
        logits = []
        for row, length in enumerate(lengths.tolist()):
            own = slice(row, row + 1)
            alone = self._pass(ids[own, :length], None, mask[own], replacement[:, own, :length])
            logits.append(F.pad(alone, (0, 0, 0, ids.shape[1] - length)))
        return torch.cat(logits)

    def _pass(self, ids: Tensor, lengths: Tensor | None, mask: Tensor, replacement: Tensor) -> Tensor:
        """Logits when the edges of `mask` [row or 1, receiver, sender] carry `replacement`; hooks where needed."""
        config, written = self.config, []
        deltas: dict[int, Tensor] = {}

        def delta(count: int) -> Tensor:
            """What exchanging each of the first senders adds: once for the q, k and v of a layer."""
            if count not in deltas:
                deltas[count] = replacement[:count] - torch.stack(written[:count])
            return deltas[count]

        def exchanging(part: Tensor, count: int):
            part = part[:, :, :count].to(replacement.dtype)

            def hook(activation: Tensor, hook: object) -> Tensor:
                added = torch.einsum("rhs,srpd->rphd", part.expand(len(activation), -1, -1), delta(count))
                return activation + (added if activation.ndim == 4 else added[:, :, 0])

            return hook

        hooks: list[Any] = self._noting(written)
        if lengths is not None:
            hooks += self._padding(lengths, ids.shape[1])
        names = [
            (f"blocks.{layer}.{name}", size, config.senders_before(layer, mlp=name == "hook_mlp_in"))
            for layer in range(config.n_layers)
            for name, size in [*((f"hook_{slot}_input", config.n_heads) for slot in "qkv"), ("hook_mlp_in", 1)]
        ]
        names.append((f"blocks.{config.n_layers - 1}.hook_resid_post", 1, len(config.senders)))
        start = 0
        for name, size, count in names:
            part = mask[:, start : start + size]
            if bool(part.any()):
                hooks.append((name, exchanging(part, count)))
            start += size
        return self.model.run_with_hooks(ids, fwd_hooks=hooks)

    def _noting(self, written: list[Tensor]) -> list[Any]:
        """Hooks that append what every sender writes to a list, in the order of a mask's senders."""

        def note(activation: Tensor, hook: object) -> None:
            written.extend(activation.unbind(2) if activation.ndim == 4 else [activation])

        names = ["hook_embed", "hook_pos_embed"]
        for layer in range(self.config.n_layers):
            names += [f"blocks.{layer}.attn.hook_result", f"blocks.{layer}.hook_mlp_out"]
        return [(name, note) for name in names]

    def _padding(self, lengths: Tensor, width: int) -> list[Any]:
        """Hooks that keep padding from being attended to: TransformerLens masks it in causal models only."""
        padding = (torch.arange(width) >= lengths[:, None])[:, None, None, :]

        def hide(scores: Tensor, hook: object) -> Tensor:
            return scores.masked_fill(padding, -torch.inf)

        return [(f"blocks.{layer}.attn.hook_attn_scores", hide) for layer in range(self.config.n_layers)]


# -- timing ------------------------------------------------------------------------------------------------------------


def cpu_seconds(work: Callable[[], object], times: int) -> float:
    """Processor time of one call, over `times` calls."""
    start = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - start) / times


def compare(case_id: str, repetitions: int) -> dict[str, Any]:
    """Seconds a step of every way and their ratios to ours."""
    case, recipe = get_case(case_id), EDGE_SIIT.changed(probe_weight=0.0)
    config = transformer_config(case)
    trainer = Trainer(case, config, recipe, seed=0)
    hooked = {way: HookedStep(trainer.model, case, recipe, way) for way in WAYS}
    for way, step in hooked.items():
        rows = step.rows[0]
        theirs, ours = step.losses(rows), losses_of_transformer(trainer.model, rows, step.of_outputs)
        if not torch.allclose(torch.stack(theirs), torch.stack(ours), rtol=1e-4):
            raise SystemExit(f"{case_id}, {way}: losses {theirs} by hooks, {ours} by the package: not the same step")
    work: dict[str, Callable[[], object]] = {
        OURS: trainer.step,
        **{way: hooked[way].step for way in WAYS},
        WITH_PROBES: Trainer(case, config, EDGE_SIIT, seed=0).step,
    }
    for way, step in work.items():
        cpu_seconds(step, min(WARM_UP, STEPS_A_TURN[way]))
    turns: dict[str, list[float]] = {way: [] for way in work}
    for _ in range(repetitions):
        for way, step in work.items():
            turns[way].append(cpu_seconds(step, STEPS_A_TURN[way]))
    n_rows = recipe.n_pairs * (2 + recipe.circuit_groups + recipe.outside_groups)
    ways = {}
    for way, seconds in turns.items():
        ratios = [taken / ours for taken, ours in zip(seconds, turns[OURS], strict=True)]
        ways[way] = {
            "ms_per_step": 1e3 * statistics.median(seconds),
            "rows_per_second": n_rows / statistics.median(seconds),
            "ratio": statistics.median(ratios),
            "ratio_least": min(ratios),
            "ratio_most": max(ratios),
        }
    return {"case": case_id, "config": config.to_dict(), "rows": n_rows, "repetitions": repetitions, "ways": ways}


def table(result: dict[str, Any]) -> str:
    shape = result["config"]
    lines = [
        f"{result['case']}: {shape['n_layers']} layers of {shape['n_heads']} heads, d_model {shape['d_model']}, "
        f"{shape['n_ctx']} positions; {result['rows']} rows a step",
        "",
        "| way | ms a step | rows a second | times ours | least to most |",
        "|---|---|---|---|---|",
    ]
    for way, found in result["ways"].items():
        lines.append(
            f"| {way} | {found['ms_per_step']:.1f} | {found['rows_per_second']:.0f} | {found['ratio']:.2f} | "
            f"{found['ratio_least']:.2f} to {found['ratio_most']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=["case_3", "case_21"])
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for case_id in given.cases:
        results.append(compare(case_id, given.repetitions))
        print(table(results[-1]) + "\n", flush=True)
    print(f"{hardware()}, 1 thread, torch {torch.__version__}")
    if given.json:
        content = {"hardware": hardware(), "torch_version": torch.__version__, "results": results}
        given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
