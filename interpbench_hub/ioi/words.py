"""The words of Indirect Object Identification: names, places and objects, each a single token."""

from interpbench_hub.certificate import Counterfactual

_NAMES = """
    Aaron Adam Alan Alex Alice Amy Andrew Anna Anthony Arthur Ashley Barbara Ben Beth Bill Bob Brandon Brian Carl Carol
    Charles Chris Christina Claire Clark Crystal Daniel David Dean Diana Donald Edward Elena Elizabeth Emily Emma Eric
    Erin Ethan Eva Fiona Frank Fred Gary George Grace Greg Hannah Harry Helen Henry Ian Jack Jacob Jake James Jamie Jane
    Jason Jennifer Jessica Jim Joe John Jordan Joseph Josh Julia Justin Karen Kate Keith Kelly Kevin Laura Leo Lisa Lucy
    Luke Marcus Maria Mark Martin Mary Matthew Max Megan Michael Nancy Nick Olivia Oscar Paul Peter Rachel Richard
    Robert Rose Ruby Ryan
"""
NAMES = tuple(_NAMES.split())
"""First names. Token ids start with them, in this order, so an id below their number is a name."""

PLACES = ("school", "store", "garden", "station", "hospital", "office", "restaurant", "beach")
OBJECTS = ("drink", "book", "ring", "basket", "kiwi", "bone", "computer", "snack")

NOBODY = "them"
"""What a sentence goes on with when no name, or more than one, is left to go on with."""

COUNTERFACTUALS: tuple[Counterfactual, ...] = ("name_swap", "s2_to_io", "abc", "resample")
"""What differs in the other sentence of a pair: IO and S exchanged everywhere; the second mention of S replaced by IO,
or by a third name; everything (an unrelated sentence, at least as long)."""
