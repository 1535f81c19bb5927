"""The tokenizer of a language model: its files, text to ids and back, unknown words, how a model gets it."""

import copy
import json
import pickle
import re
import socket
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interpbench_hub import load_model, manifest
from interpbench_hub import tokenizer as tokenizer_module
from interpbench_hub.cases import get_case
from interpbench_hub.checkpoint import Checkpoint, Output, Vocab, load_checkpoint, save_checkpoint
from interpbench_hub.circuit import Circuit, Edge, Node
from interpbench_hub.constants import BOS, PAD, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, TOKENIZER_FILES
from interpbench_hub.errors import CheckpointError, SettingError
from interpbench_hub.publishing import repositories
from interpbench_hub.tokenizer import CLOSING, load_tokenizer, text_of, tokenizer_files

CASE = get_case("ioi")
VOCAB = Vocab(CASE.vocab, CASE.bos_id, CASE.pad_id)
TEXT = "Then, Mary and John went to the store. John gave a drink to"
WORDS = ["Then", ",", "Mary", "and", "John", "went", "to", "the", "store", ".", "John", "gave", "a", "drink", "to"]


@pytest.fixture
def language(make_checkpoint) -> Checkpoint:
    """A small random language model of the case."""
    checkpoint = make_checkpoint(
        output=Output("categorical", CASE.classes),
        d_vocab=CASE.d_vocab,
        attention_dir="causal",
        normalization_type="LN",
        n_ctx=CASE.max_len,
    )
    config = replace(checkpoint.config, case="ioi", vocab=VOCAB, min_len=CASE.min_len, max_len=CASE.max_len)
    circuit = Circuit(2, 4, [Edge(Node("embed"), Node("m0"), kind="varying")], {}, case="ioi")
    return Checkpoint(config, checkpoint.weights, circuit)


@pytest.fixture
def folder(tmp_path, language):
    return save_checkpoint(language, tmp_path / "ioi")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    for name, content in tokenizer_files(VOCAB, CASE.max_len).items():
        (folder / name).write_bytes(content)
    return load_tokenizer(folder, VOCAB, CASE.max_len)


# -- text and ids ------------------------------------------------------------------------------------------------------


def test_a_loaded_model_reads_text_as_the_case_encodes_its_words(folder, monkeypatch):
    def refuse(*args):
        raise AssertionError("went online")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = load_model(folder)
        ids = model.to_tokens(TEXT)
    assert [str(warning.message) for warning in caught] == []
    assert torch.equal(ids, CASE.encode([WORDS]))
    assert torch.equal(model(TEXT), model(ids))
    assert model.to_str_tokens(TEXT) == [BOS, *WORDS]
    assert model.to_string(ids[0]) == f"{BOS} {TEXT}" and model.to_string(ids) == [f"{BOS} {TEXT}"]
    assert model.to_tokens(TEXT, prepend_bos=False).tolist() == ids[:, 1:].tolist()
    assert model.to_single_token("Mary") == model.to_single_token(" Mary") == CASE.token_ids["Mary"]
    assert model.get_token_position("John", TEXT) == 5


def test_shorter_texts_of_a_batch_are_padded_on_the_right(folder):
    model = load_model(folder)
    both = model.to_tokens([TEXT, "Then, Mary"])
    assert both[1].tolist() == [*CASE.encode([WORDS])[0, :4].tolist(), *[CASE.pad_id] * 12]
    # Right padding is behind every position that counts.
    torch.testing.assert_close(model(both)[1, :4], model(both[1:, :4])[0], atol=1e-5, rtol=0)


def test_a_loaded_model_can_go_on(folder):
    said = load_model(folder).generate(TEXT, max_new_tokens=2, do_sample=False, verbose=False)
    assert isinstance(said, str)
    assert said.startswith(f"{TEXT} ") or said.startswith(f"{TEXT}.") or said.startswith(f"{TEXT},")
    assert len(re.findall(r"\w+|[^\w\s]", said)) == len(WORDS) + 2


@settings(deadline=None, max_examples=200)
@given(words=st.lists(st.sampled_from(CASE.vocab), max_size=18))
def test_any_words_survive_being_written_and_read(tokenizer, words):
    text = text_of(words)
    ids = tokenizer(text)["input_ids"]
    assert ids == [CASE.bos_id, *(CASE.token_ids[word] for word in words)]
    # Punctuation in front of everything stands behind BOS.
    between = "" if not words or words[0] in CLOSING else " "
    assert tokenizer.decode(ids) == f"{BOS}{between}{text}"


@settings(deadline=None, max_examples=200)
@given(
    pieces=st.lists(st.tuples(st.sampled_from(CASE.vocab), st.sampled_from([" ", "  ", "\n", "\t "])), max_size=15),
)
def test_white_space_is_of_no_account(tokenizer, pieces):
    text = "".join(word + space for word, space in pieces)
    slow = [CASE.token_ids[word] for word in re.findall(r"[^\W_]+|[^\w\s]|_", text)]
    assert tokenizer(text)["input_ids"] == [CASE.bos_id, *slow]


def test_several_texts_are_a_batch(tokenizer):
    first, second = "Then, Mary", "and John"
    assert tokenizer([first, second])["input_ids"] == [tokenizer(first)["input_ids"], tokenizer(second)["input_ids"]]


# -- unknown words -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Then, Zaphod and John", "'Zaphod'"),
        ("then, Mary", "'then'"),
        ("Mary's", "\"'\", 's'"),
        ("Then (Mary", r"'\('"),
        (["Then, Mary", "Then, Zoë and Zoë"], "'Zoë'"),
        ("<unk>", "'<', 'unk', '>'"),
    ],
)
def test_words_that_are_not_known_are_named(folder, text, named):
    model = load_model(folder)
    with pytest.raises(
        SettingError, match=rf"^{named} cannot be given to this model: it knows 177 words \(Aaron, Adam"
    ):
        model.to_tokens(text)
    with pytest.raises(SettingError, match="upper and lower case matter"):
        model(text)


def test_the_library_by_itself_gives_no_wrong_ids_either(folder):
    from transformers import AutoTokenizer

    plain = AutoTokenizer.from_pretrained(folder)
    assert plain(TEXT)["input_ids"] == CASE.encode([WORDS])[0].tolist()
    assert (plain.bos_token_id, plain.pad_token_id, plain.unk_token_id) == (CASE.bos_id, CASE.pad_id, None)
    assert plain.padding_side == "right" and plain.model_max_length == CASE.max_len
    with pytest.raises(Exception, match=r"Missing \[UNK\] token"):
        plain("Then, Zaphod")


# -- files -------------------------------------------------------------------------------------------------------------


def test_the_files_are_what_the_library_itself_would_write(tokenizer):
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    ids = {word: place for place, word in enumerate((*CASE.vocab, BOS, PAD))}
    built = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    built.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    built.add_special_tokens([AddedToken(BOS, special=True), AddedToken(PAD, special=True)])
    built.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, CASE.bos_id)]
    )
    closing = decoders.Replace(Regex(f"^ (?=[{CLOSING}])"), "")
    built.decoder = decoders.Sequence([decoders.WordPiece(prefix="##", cleanup=False), closing])
    written = tokenizer_files(VOCAB, CASE.max_len)[TOKENIZER_FILE]
    assert json.loads(written) == json.loads(built.to_str())
    # Nor does anything change it on its way into a model.
    assert json.loads(tokenizer.backend_tokenizer.to_str()) == json.loads(written)


def test_a_language_model_is_saved_with_its_tokenizer_and_no_other_model_is(tmp_path, folder, language, checkpoint):
    assert {path.name for path in folder.iterdir()} >= set(TOKENIZER_FILES)
    again = save_checkpoint(language, tmp_path / "again")
    for name, content in tokenizer_files(VOCAB, CASE.max_len).items():
        assert (again / name).read_bytes() == (folder / name).read_bytes() == content
        assert repositories._MODEL_FILES.fullmatch(name)
    assert load_checkpoint(folder).config == language.config
    # Another model takes the folder over, without what is no longer its own.
    save_checkpoint(checkpoint, folder)
    assert not {path.name for path in folder.iterdir()} & set(TOKENIZER_FILES)
    model = load_model(folder)
    assert model.tokenizer is None and not model.cfg.default_prepend_bos


@pytest.mark.parametrize(
    "change",
    [
        {"attention_dir": "bidirectional"},
        {"normalization_type": None},
        {"tokens": (*CASE.vocab[:-1], 7)},
        {"classes": CASE.vocab[::-1]},
    ],
)
def test_what_is_no_language_model(language, change):
    shape = {name: value for name, value in change.items() if name in language.config.transformer.to_dict()}
    config = replace(
        language.config,
        transformer=replace(language.config.transformer, **shape),
        vocab=replace(VOCAB, tokens=change.get("tokens", VOCAB.tokens)),
        output=Output("categorical", change.get("classes", CASE.classes)),
    )
    assert language.config.is_language and not config.is_language


@pytest.mark.parametrize("token", ["two words", "don't", "_x", "<a", ""])
def test_tokens_that_no_text_can_hold_are_refused(token):
    with pytest.raises(SettingError, match="cannot be found in text; the tokens of a language model are words"):
        tokenizer_files(Vocab(("a", token), 2, 3), 5)


def test_punctuation_letters_and_digits_are_words(tmp_path):
    vocab = Vocab(("Zoë", "2", ".", "'", "s", "_", "#", "漢"), 8, 9)
    for name, content in tokenizer_files(vocab, 9).items():
        (tmp_path / name).write_bytes(content)
    assert load_tokenizer(tmp_path, vocab, 9)("Zoë's 2. _#漢")["input_ids"] == [8, 0, 3, 4, 1, 2, 5, 6, 7]


def test_a_damaged_tokenizer_is_an_error_that_names_the_file(folder, language):
    path = folder / TOKENIZER_FILE
    whole = path.read_bytes()
    data = json.loads(whole)
    for content, message in (
        (whole[:-50], "not a tokenizer's file"),
        (b"[]", "not a tokenizer's file"),
        (whole.replace(b'"Mary": 83', b'"Mary": 84'), "its words and ids are not those of the configuration"),
        (json.dumps(data | {"decoder": {"type": "None"}}).encode(), "the tokenizers library cannot read it"),
        (
            json.dumps(data | {"post_processor": None}).encode(),
            r"an empty text becomes ids \[\] instead of BOS, \[177\]",
        ),
    ):
        assert content != whole
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"tokenizer\.json: .*{message}"):
            load_model(folder)
    path.write_bytes(whole[:-50])
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a tokenizer's file"):
        load_checkpoint(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: the file is missing"):
        load_model(folder)
    # Models that were saved before there were tokenizers are whole when they are saved again.
    save_checkpoint(load_checkpoint(folder), folder)
    assert path.read_bytes() == whole


# -- where models come from --------------------------------------------------------------------------------------------


def test_a_bundled_tokenizer_is_checked_against_the_manifest(tmp_path, monkeypatch, folder):
    manifest.write_manifest(tmp_path)
    monkeypatch.setattr(manifest, "COLLECTION", tmp_path)
    monkeypatch.chdir("/")
    assert set(manifest.load_manifest()["models"]["ioi"]["files"]) >= set(TOKENIZER_FILES)
    assert load_model("ioi").to_tokens(TEXT).tolist() == CASE.encode([WORDS]).tolist()
    path = folder / TOKENIZER_FILE
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: SHA-256 is"):
        load_model("ioi")


def test_the_tokenizer_is_fetched_from_the_hub_and_asked_for_by_language_models_alone(
    tmp_path, hub_of_the_library, folder, certified_folder
):
    fake = hub_of_the_library
    fake.files = {path.name: path.read_bytes() for path in certified_folder.iterdir()}
    assert load_model("someone/model", cache_dir=tmp_path / "one").tokenizer is None
    assert not any("tokenizer" in request for request in fake.requests)
    fake.files = {path.name: path.read_bytes() for path in folder.iterdir()}
    model = load_model("someone/model", cache_dir=tmp_path / "two")
    assert model.to_tokens(TEXT).tolist() == CASE.encode([WORDS]).tolist()
    offline = load_model("someone/model", cache_dir=tmp_path / "two", local_files_only=True)
    assert torch.equal(offline(TEXT), model(TEXT))
    assert not any(TOKENIZER_CONFIG_FILE in request for request in fake.requests)


def test_models_with_tokenizers_can_be_copied_and_tokenizers_pickled(folder):
    model = load_model(folder)
    assert torch.equal(copy.deepcopy(model).to_tokens(TEXT), model.to_tokens(TEXT))
    again = pickle.loads(pickle.dumps(model.tokenizer))
    assert type(again) is tokenizer_module.WordTokenizer
    with pytest.raises(SettingError, match="'Zaphod' cannot be given"):
        again("Zaphod")
    with pytest.raises(AttributeError, match="no attribute 'LetterTokenizer'"):
        _ = tokenizer_module.LetterTokenizer
