"""Cases: programs and vocabularies as data, and the registry that finds them by id.

Importing this package registers the 129 programs of the 2024 benchmark, `case_1` to `case_131`, in the order of
their numbers (16 and 27 never existed), then the cases that are new here, by topic, last those of sentences (`ioi`).
"""

from interpbench_hub.cases import (
    arithmetic,
    brackets,
    comparisons,
    edits,
    frequencies,
    lookups,
    ordering,
    runs,
    tracr_attention,
    tracr_counting,
    tracr_elementwise,
    tracr_lookups,
    tracr_rearranging,
    tracr_sorting,
    tracr_verdicts,
    tracr_words,
)
from interpbench_hub.cases.case import Case as Case
from interpbench_hub.cases.case import Sampler as Sampler
from interpbench_hub.cases.registry import get_case as get_case
from interpbench_hub.cases.registry import list_cases as list_cases
from interpbench_hub.cases.registry import register_case as register_case
from interpbench_hub.cases.registry import unregister_case as unregister_case
from interpbench_hub.ioi.case import CASES as _IOI

_TRACR = (
    *tracr_attention.CASES,
    *tracr_counting.CASES,
    *tracr_elementwise.CASES,
    *tracr_lookups.CASES,
    *tracr_rearranging.CASES,
    *tracr_sorting.CASES,
    *tracr_verdicts.CASES,
    *tracr_words.CASES,
)

_NEW = (
    *lookups.CASES,
    *edits.CASES,
    *frequencies.CASES,
    *ordering.CASES,
    *runs.CASES,
    *comparisons.CASES,
    *brackets.CASES,
    *arithmetic.CASES,
)

for _case in sorted(_TRACR, key=lambda case: int(case.id.removeprefix("case_"))):
    register_case(_case)
for _case in (*_NEW, *_IOI):
    register_case(_case)
