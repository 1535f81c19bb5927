"""Publishing: from the bundled collection to repositories on the Hugging Face Hub.

`repositories` gathers and checks what each repository is to hold, `plan` compares that with what the Hub has,
`account` speaks to the Hub, `publisher` brings it up to date, `hub_collection` lists everything in one Collection.
"""

from interpbench_hub.publishing.publisher import Outcome as Outcome
from interpbench_hub.publishing.publisher import publish as publish
