"""The sentences' templates, and which of them belong to which split.

A template is a list of words, five of which are slots: the two names of the first clause (`FIRST`, `SECOND`), the
name of the second clause (`AGAIN`), a place and an object. All end alike, with the name, a verb, an article, the
object and "to": the name of the second clause stands `TAIL` positions before the end.
"""

from interpbench_hub.cases.pairs import Split
from interpbench_hub.ioi.words import NAMES, NOBODY, OBJECTS, PLACES

FIRST, SECOND, AGAIN, PLACE, OBJECT = "[first]", "[second]", "[again]", "[place]", "[object]"
SLOTS = (FIRST, SECOND, AGAIN, PLACE, OBJECT)
TAIL = 4
"""Positions from the name of the second clause to the end."""

_SENTENCES = """
Then , [first] and [second] went to the [place] . [again] gave a [object] to
Then , [first] and [second] met at the [place] . [again] handed the [object] to
Then , [first] and [second] were working at the [place] . [again] passed a [object] to
Then , [first] and [second] had lunch at the [place] . [again] offered a [object] to
Then , [first] and [second] came to the [place] and [again] brought the [object] to
Then , [first] and [second] were thinking about the [place] . [again] showed a [object] to
Then , [first] and [second] had a long argument at the [place] . [again] gave the [object] to
Then , [first] and [second] left the [place] and [again] threw a [object] to
When [first] and [second] went to the [place] , [again] gave a [object] to
When [first] and [second] got a [object] at the [place] , [again] gave the [object] to
When [first] and [second] met at the [place] , [again] lent a [object] to
When [first] and [second] were at the [place] , [again] sold the [object] to
When [first] and [second] came back from the [place] , [again] showed the [object] to
When [first] and [second] had lunch near the [place] , [again] passed a [object] to
When [first] and [second] left the [place] , [again] handed a [object] to
When [first] and [second] found the [place] closed , [again] offered the [object] to
While [first] and [second] were working at the [place] , [again] gave a [object] to
While [first] and [second] were walking to the [place] , [again] threw the [object] to
While [first] and [second] were at the [place] , [again] sent a [object] to
While [first] and [second] waited near the [place] , [again] showed a [object] to
While [first] and [second] had a break at the [place] , [again] brought a [object] to
While [first] and [second] looked at the [place] , [again] lent the [object] to
While [first] and [second] were thinking , [again] handed the [object] to
While [first] and [second] talked about the [place] , [again] passed the [object] to
After [first] and [second] went to the [place] , [again] gave the [object] to
After [first] and [second] met near the [place] , [again] sold a [object] to
After [first] and [second] left the [place] , [again] sent the [object] to
After [first] and [second] had lunch at the [place] , [again] offered a [object] to
After [first] and [second] came home from the [place] , [again] brought the [object] to
After work , [first] and [second] had a break at the [place] . [again] gave a [object] to
After work , [first] and [second] met at the [place] . [again] threw the [object] to
After lunch , [first] and [second] walked to the [place] . [again] showed the [object] to
Before [first] and [second] went to the [place] , [again] handed a [object] to
Before [first] and [second] left the [place] , [again] gave a [object] to
Before lunch , [first] and [second] were at the [place] . [again] lent a [object] to
Before work , [first] and [second] talked at the [place] and [again] passed the [object] to
Today , [first] and [second] went to the [place] . [again] sent a [object] to
Today , [first] and [second] were near the [place] and [again] sold a [object] to
Today [first] and [second] walked to the [place] . [again] offered the [object] to
Today , [first] and [second] had a long argument at the [place] . [again] brought a [object] to
Last week , [first] and [second] met at the [place] . [again] gave the [object] to
Last week , [first] and [second] found a [object] near the [place] . [again] showed the [object] to
Last week [first] and [second] came to the [place] and [again] handed the [object] to
Last week [first] and [second] worked at the [place] . [again] threw a [object] to
One day , [first] and [second] went to the [place] . [again] lent the [object] to
One day , [first] and [second] waited at the [place] and [again] passed a [object] to
One day [first] and [second] were walking near the [place] . [again] sold the [object] to
One day [first] and [second] had a break . [again] sent the [object] to
[first] and [second] went to the [place] . [again] gave a [object] to
[first] and [second] met at the [place] and [again] offered the [object] to
[first] and [second] were working at the [place] . [again] brought a [object] to
[first] and [second] had lunch at the [place] . [again] handed a [object] to
[first] and [second] looked for the [place] and [again] showed a [object] to
[first] and [second] talked about the [place] . [again] lent a [object] to
[first] and [second] came home from the [place] and [again] threw the [object] to
[first] and [second] walked back to the [place] . [again] passed the [object] to
The [place] was closed , so [first] and [second] waited and [again] gave the [object] to
The [place] was near , so [first] and [second] walked and [again] sent a [object] to
At the [place] , [first] and [second] had lunch and [again] sold a [object] to
At the [place] , [first] and [second] met . [again] offered a [object] to
Near the [place] , [first] and [second] talked . [again] brought the [object] to
Near the [place] , [first] and [second] found a [object] and [again] handed the [object] to
At work , [first] and [second] talked about the [place] and [again] gave a [object] to
At work , [first] and [second] were thinking about lunch . [again] lent the [object] to
"""

TEMPLATES: tuple[tuple[str, ...], ...] = tuple(tuple(line.split()) for line in _SENTENCES.strip().splitlines())
"""Every template as its words, in the order of their numbers."""

VOCAB: tuple[str, ...] = (
    *NAMES,
    *PLACES,
    *OBJECTS,
    NOBODY,
    *sorted({word for template in TEMPLATES for word in template} - set(SLOTS)),
)
"""Every word, names first; a word's place is its token id."""

_SPLIT_OF: tuple[Split, ...] = ("train",) * 5 + ("test", "train", "validation")
"""Splits of eight templates in a row: of each way to begin, some sentences are never seen in training."""


def templates_of(split: Split | None) -> tuple[int, ...]:
    """Numbers of a split's templates, shortest template first; None for all.

    >>> len(templates_of("test")), len(templates_of("validation")), len(templates_of(None))
    (8, 8, 64)
    """
    numbers = [n for n in range(len(TEMPLATES)) if split is None or _SPLIT_OF[n % len(_SPLIT_OF)] == split]
    return tuple(sorted(numbers, key=lambda number: (len(TEMPLATES[number]), number)))
