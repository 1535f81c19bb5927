"""What draws the rows of a case's dataset: pairs of inputs, or sentences with several counterfactuals.

The one place that tells the two apart by the case. Needs nothing of the extra `data`.
"""

from typing import TYPE_CHECKING

from dataset_builders.counterfactuals import CounterfactualPairs
from dataset_builders.sentences import CounterfactualSentences
from interpbench_hub.cases.pairs import Split
from interpbench_hub.ioi.case import IoiCase

if TYPE_CHECKING:
    from interpbench_hub.cases.case import Case

Draw = CounterfactualPairs | CounterfactualSentences


def draw_of(case: "Case", split: Split, *, seed: int = 0) -> Draw:
    """The rows of one split of a case's dataset; both kinds of draws have `counts`, `record` and `pairs`."""
    if isinstance(case, IoiCase):
        return CounterfactualSentences(case, split, seed=seed)
    return CounterfactualPairs(case, split, seed=seed)
