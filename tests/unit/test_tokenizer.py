"""Loading, saving and training of tokenizers: limits and errors, without a peer."""

import json

import pytest

from danqing.conditioning import tokenizer as module
from danqing.conditioning.tokenizer import ADDED_TOKENS, Tokenizer
from danqing.conditioning.tokenizer_training import byte_alphabet, train_tokenizer
from danqing.errors import CheckpointError, ConfigError, RequestError


@pytest.fixture(scope="module")
def trained():
    return train_tokenizer(["a red apple", "two red apples, a green apple"], 900)


@pytest.fixture
def folder(trained, tmp_path):
    trained.save(tmp_path)
    return tmp_path


def change(path, edit):
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_empty_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"expected tokenizer\.json, or vocab\.json and merges\.txt"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "[" * 100_000, '{"model": 1}', '{"model": {"type": "WordPiece"}}']
)
def test_other_content(folder, text):
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"^(?=.*expected )[^\n]*tokenizer\.json[^\n]*$"):
        Tokenizer.load(folder)


def test_bytes_that_are_no_text(folder):
    (folder / "tokenizer.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="UTF-8"):
        Tokenizer.load(folder)


def test_size_limit(folder, monkeypatch):
    monkeypatch.setattr("danqing.files.MAX_TEXT_BYTES", 1000)
    with pytest.raises(CheckpointError, match="at most 1000 bytes"):
        Tokenizer.load(folder)
    monkeypatch.undo()
    monkeypatch.setattr(module, "MAX_VOCAB", 300)
    with pytest.raises(CheckpointError, match="at most 300 tokens"):
        Tokenizer.load(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["model"]["vocab"].pop("a"), "ids from 0"),
        (lambda c: c["model"]["vocab"].update(a="x"), "ids from 0"),
        (lambda c: c["model"]["merges"].append(["a", "\u4e00"]), "merges of known tokens"),
        (lambda c: c["model"]["merges"].append("a b c"), "merges of two tokens"),
        (lambda c: c["model"]["merges"].append(7), "merges of two tokens"),
        (lambda c: c["added_tokens"].pop(3), "added tokens numbered from"),
        (lambda c: c["added_tokens"][2].update(id="3"), "added tokens numbered from"),
        (lambda c: c["added_tokens"][2].update(content="a"), "added tokens numbered from"),
        (lambda c: c["added_tokens"][2].update(content="<|im_start|>"), "each added token once"),
        (lambda c: c.update(added_tokens=[1]), "list of added tokens"),
        (lambda c: c.update(pre_tokenizer=None), "word pattern of Qwen2"),
        (lambda c: c["added_tokens"].clear(), r"token <\|endoftext\|>"),
    ],
)
def test_damaged_tokenizer_json(folder, edit, message):
    change(folder / "tokenizer.json", edit)
    with pytest.raises(CheckpointError, match=message) as caught:
        Tokenizer.load(folder)
    assert "\n" not in str(caught.value)


def test_missing_merges(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"merges\.txt"):
        Tokenizer.load(folder)


def test_lone_surrogates_are_a_users_mistake(trained):
    with pytest.raises(RequestError, match="valid Unicode"):
        trained.encode("a \ud800 b")


def test_round_trip(trained, folder):
    again = Tokenizer.load(folder)
    assert again.vocabulary == trained.vocabulary
    text = "A red apple, 3 green ones\n<|im_end|> 苹果 🍎"
    assert again.decode(again.encode(text), skip_special=False) == text
    assert again.decode(again.encode(text)) == text.replace("<|im_end|>", "")


def test_alphabet_is_complete():
    assert len(set(byte_alphabet())) == 256


def test_training_without_texts_covers_everything():
    tokenizer = train_tokenizer([], 900)
    text = "any text: ünï 漢字 \x00"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer) == len(tokenizer.vocabulary.tokens) + len(ADDED_TOKENS)


def test_training_order_does_not_matter():
    texts = ["a red apple", "a green pear", "two red pears"] * 3
    assert train_tokenizer(texts, 900).vocabulary == train_tokenizer(texts[::-1], 900).vocabulary


def test_too_small_a_vocabulary():
    with pytest.raises(ConfigError, match="vocabulary of at least"):
        train_tokenizer([], 300)
