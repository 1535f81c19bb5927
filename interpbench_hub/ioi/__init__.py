"""Indirect Object Identification: sentences, their causal models, and the cases `ioi` and `ioi_full`."""

# The cases are registered with all others, and build on them: whichever package is asked for first, this order works.
import interpbench_hub.cases  # noqa: F401
