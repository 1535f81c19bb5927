"""A Hugging Face Hub on this machine, for tests: the Hub's HTTP API on loopback, with faults on request.

It was written from the client's source and the requests it was seen to make. What passes here shows that our calls fit
together, not that huggingface.co takes them. It has no xet (set HF_HUB_DISABLE_XET=1), no pull requests, no gated
repositories, no rate limits and no git.
"""

from tests.local_hub.hub import LocalHub
from tests.local_hub.journal import Request

__all__ = ["LocalHub", "Request"]
