"""The tokenizer of a model whose tokens are words: its files, and the object that TransformerLens takes.

A word is letters and digits, or a single punctuation mark; text is split at white space and around punctuation marks.
The files are those of Hugging Face's libraries, which load them without this package, too
(`transformers.AutoTokenizer.from_pretrained(folder)`). Their bytes follow from the vocabulary and the longest input
alone. Knows nothing of any task.
"""

import json
import string
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interpbench_hub.constants import BOS, PAD, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from interpbench_hub.errors import CheckpointError, SettingError
from interpbench_hub.validation import read_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from interpbench_hub.checkpoint import Vocab

CLOSING = ".,;:!?"
"""Punctuation marks that stand right behind the word before them."""
_SHOWN = 5
"""Words of the vocabulary that an error names."""


def text_of(words: Sequence[str]) -> str:
    """Words as people write them.

    >>> text_of(["Then", ",", "Mary", "left", "."])
    'Then, Mary left.'
    """
    return "".join(word if word in CLOSING or not place else f" {word}" for place, word in enumerate(words))


def tokenizer_files(vocab: "Vocab", n_ctx: int) -> dict[str, bytes]:
    """Content of `tokenizer.json` and `tokenizer_config.json`, by name.

    Ids are those of the vocabulary, BOS and PAD among them; `n_ctx` is the longest input, BOS counted. A text becomes
    BOS and its words. A word that is not in the vocabulary is an error of the library: there is no token for unknown
    words, which the model would never have seen. Raises `SettingError` for tokens that are no words.
    """
    special = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    first, second = (
        [{"SpecialToken": {"id": BOS, "type_id": place}}, {"Sequence": {"id": name, "type_id": place}}]
        for place, name in enumerate("AB")
    )
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": place, "content": content, **special}
            for place, content in sorted(((vocab.bos_id, BOS), (vocab.pad_id, PAD)))
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Punctuation", "behavior": "Isolated"}],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": first,
            "pair": [*first, *second],
            "special_tokens": {BOS: {"id": BOS, "ids": [vocab.bos_id], "tokens": [BOS]}},
        },
        # A space before every word but the first, then none before closing punctuation: the inverse of splitting.
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "WordPiece", "prefix": "##", "cleanup": False},
                {"type": "Replace", "pattern": {"Regex": f"^ (?=[{CLOSING}])"}, "content": ""},
            ],
        },
        "model": {"type": "WordLevel", "vocab": _ids(vocab), "unk_token": "<unk>"},
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": n_ctx, **_SETTINGS}
    files = {TOKENIZER_FILE: tokenizer, TOKENIZER_CONFIG_FILE: config}
    return {name: f"{json.dumps(data, ensure_ascii=False, indent=1)}\n".encode() for name, data in files.items()}


_SETTINGS = {
    "bos_token": BOS,
    # Generating needs one. As in GPT-2, what begins a text ends the one before; no model here ever says it.
    "eos_token": BOS,
    "pad_token": PAD,
    "add_bos_token": True,
    "padding_side": "right",
    "clean_up_tokenization_spaces": False,
}


def check_tokenizer_file(folder: str | Path, vocab: "Vocab") -> str:
    """The content of a folder's `tokenizer.json`; raises `CheckpointError` unless its ids are the vocabulary's."""
    path = Path(folder) / TOKENIZER_FILE
    content = read_bytes(path)
    try:
        text = content.decode()
        ids = json.loads(text)["model"]["vocab"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: not a tokenizer's file ({type(error).__name__}: {error}); it may be cut off; save it again or "
            "fetch it again"
        ) from error
    if ids != _ids(vocab):
        raise CheckpointError(
            f"{path}: its words and ids are not those of the configuration, as they must be; the two files are not "
            "from one checkpoint; save or fetch them again"
        )
    return text


def load_tokenizer(folder: str | Path, vocab: "Vocab", n_ctx: int) -> "PreTrainedTokenizerFast":
    """The tokenizer in a folder, for `HookedTransformer.set_tokenizer`.

    Raises `CheckpointError` if its file is missing, is damaged or has other ids than the vocabulary. The tokenizer
    raises `SettingError` for text with a word that is not in the vocabulary.
    """
    from tokenizers import Tokenizer

    text = check_tokenizer_file(folder, vocab)
    try:
        tokenizer = Tokenizer.from_str(text)
        begins = tokenizer.encode("").ids
    except Exception as error:  # the library raises nothing more special
        raise CheckpointError(
            f"{Path(folder) / TOKENIZER_FILE}: the tokenizers library cannot read it ({error}); save or fetch it again"
        ) from error
    if begins != [vocab.bos_id]:
        raise CheckpointError(
            f"{Path(folder) / TOKENIZER_FILE}: an empty text becomes ids {begins} instead of BOS, [{vocab.bos_id}]; "
            "save or fetch it again"
        )
    return _tokenizer_class()(tokenizer_object=tokenizer, name_or_path="", model_max_length=n_ctx, **_SETTINGS)


def _ids(vocab: "Vocab") -> dict[str, int]:
    """Id of every word, then of BOS and PAD."""
    wrong = [token for token in vocab.tokens if not _is_word(token)]
    if wrong:
        raise SettingError(
            f"token {wrong[0]!r} cannot be found in text; the tokens of a language model are words of letters and "
            "digits, or single punctuation marks; rename it"
        )
    return {word: place for place, word in enumerate(vocab.tokens)} | {BOS: vocab.bos_id, PAD: vocab.pad_id}


def _is_word(token: object) -> bool:
    return isinstance(token, str) and (token.isalnum() or (len(token) == 1 and token in string.punctuation))


# -- the class ---------------------------------------------------------------------------------------------------------


def __getattr__(name: str) -> Any:
    # transformers takes seconds to import; pickled tokenizers find their class here all the same.
    if name == "WordTokenizer":
        return _tokenizer_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _tokenizer_class() -> "type[PreTrainedTokenizerFast]":
    from transformers import PreTrainedTokenizerFast

    class WordTokenizer(PreTrainedTokenizerFast):
        """A tokenizer that names the words it does not know."""

        def _encode_plus(self, text: Any, *args: Any, **kwargs: Any) -> Any:
            unknown = self._unknown(text)
            if unknown:
                known = [word for word in self.get_vocab() if _is_word(word)]
                first = sorted(known, key=self.convert_tokens_to_ids)[:_SHOWN]
                raise SettingError(
                    f"{', '.join(map(repr, unknown))} cannot be given to this model: it knows {len(known)} words "
                    f"({', '.join(first)}, ...), upper and lower case matter; use those that its tokenizer's "
                    "get_vocab() lists"
                )
            return super()._encode_plus(text, *args, **kwargs)

        def _unknown(self, text: Any) -> list[str]:
            """Words that have no id, each once."""
            split = self.backend_tokenizer.pre_tokenizer.pre_tokenize_str
            found: dict[str, None] = {}
            for piece in _texts(text):
                for special in (BOS, PAD):
                    piece = piece.replace(special, " ")
                found |= {word: None for word, _ in split(piece) if self.backend_tokenizer.token_to_id(word) is None}
            return list(found)

    WordTokenizer.__qualname__ = WordTokenizer.__name__
    return WordTokenizer


def _texts(given: Any) -> Iterator[str]:
    """The strings in a text, or in lists of texts."""
    if isinstance(given, str):
        yield given
    elif isinstance(given, (list, tuple)):
        for item in given:
            yield from _texts(item)
