"""The RASP language, its evaluator and its compilers.

>>> from interpbench_hub.rasp import Comparison, Select, SelectorWidth, tokens
>>> SelectorWidth(Select(tokens, tokens, Comparison.EQ))(["a", "b", "a"])
[2, 1, 2]
"""

from interpbench_hub.rasp.language import Aggregate as Aggregate
from interpbench_hub.rasp.language import Comparison as Comparison
from interpbench_hub.rasp.language import Full as Full
from interpbench_hub.rasp.language import LinearSequenceMap as LinearSequenceMap
from interpbench_hub.rasp.language import Map as Map
from interpbench_hub.rasp.language import Select as Select
from interpbench_hub.rasp.language import SelectorWidth as SelectorWidth
from interpbench_hub.rasp.language import SequenceMap as SequenceMap
from interpbench_hub.rasp.language import SOp as SOp
from interpbench_hub.rasp.language import categorical as categorical
from interpbench_hub.rasp.language import indices as indices
from interpbench_hub.rasp.language import numerical as numerical
from interpbench_hub.rasp.language import tokens as tokens
