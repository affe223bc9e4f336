"""Tokenizers of many architectures, each built from a vocabulary of a few words, without a download."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<pad>", "<unk>", "<s>", "</s>", "<mask>", "[MASK2]"]
LETTERS = list("abehlorwdĠ|▁")
WORDS = [*SPECIAL, "hello", "world", "he", "ll", "##a", *LETTERS]
NUMBERED = {word: number for number, word in enumerate(WORDS)}
UNIGRAM = [(word, -1.0) for word in WORDS]


def _numbers(folder: Path, name: str) -> str:
    (folder / name).write_text(json.dumps(NUMBERED), encoding="utf-8")
    return str(folder / name)


def _lines(folder: Path, name: str, lines: list[str]) -> str:
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder / name)


def _bpe(name: str) -> Callable[[Path], Any]:
    def build(folder: Path) -> Any:
        merges = _lines(folder, "merges.txt", ["#version: 0.2", "h e", "l l"])
        vocabulary = _numbers(folder, "vocab.json")
        return getattr(transformers, name)(vocabulary, merges)

    return build


def _fast(name: str, vocabulary: Any) -> Callable[[Path], Any]:
    return lambda folder: getattr(transformers, name)(vocab=vocabulary)


def _words(name: str, file: str = "vocab.txt") -> Callable[[Path], Any]:
    return lambda folder: getattr(transformers, name)(_lines(folder, file, WORDS))


def _roc_bert(folder: Path) -> Any:
    shapes, sounds = _numbers(folder, "word_shape.json"), _numbers(folder, "word_pronunciation.json")
    return transformers.RoCBertTokenizer(_lines(folder, "vocab.txt", WORDS), shapes, sounds)


def _luke(folder: Path) -> Any:
    merges = _lines(folder, "merges.txt", ["#version: 0.2", "h e"])
    entities = _numbers(folder, "entity_vocab.json")
    return transformers.LukeTokenizer(_numbers(folder, "vocab.json"), merges, entity_vocab_file=entities)


def _counted_bpe(name: str) -> Callable[[Path], Any]:
    def build(folder: Path) -> Any:
        vocabulary = _lines(folder, "vocab.txt", [f"{word} 1" for word in WORDS[10:]])
        return getattr(transformers, name)(vocabulary, _lines(folder, "bpe.codes", ["h e 5", "l l 4"]))

    return build


def _japanese(folder: Path) -> Any:
    emoji = folder / "emoji.json"
    emoji.write_text(json.dumps({"emoji": {}, "emoji_inv": {}}), encoding="utf-8")
    words = _lines(folder, "vocab.txt", [*WORDS, "<|startoftext|>", "<|endoftext|>", "<SP>", "<BR>"])
    return transformers.GPTNeoXJapaneseTokenizer(words, str(emoji))


BUILDERS: dict[str, Callable[[Path], Any]] = {
    "BertTokenizer": _fast("BertTokenizer", NUMBERED),
    "DistilBertTokenizer": _fast("DistilBertTokenizer", NUMBERED),
    "MPNetTokenizer": _fast("MPNetTokenizer", NUMBERED),
    "AlbertTokenizer": _fast("AlbertTokenizer", UNIGRAM),
    "CamembertTokenizer": _fast("CamembertTokenizer", UNIGRAM),
    "DebertaV2Tokenizer": _fast("DebertaV2Tokenizer", UNIGRAM),
    "T5Tokenizer": _fast("T5Tokenizer", UNIGRAM),
    "XLMRobertaTokenizer": _fast("XLMRobertaTokenizer", UNIGRAM),
    "RobertaTokenizer": _bpe("RobertaTokenizer"),
    "GPT2Tokenizer": _bpe("GPT2Tokenizer"),
    "DebertaTokenizer": _bpe("DebertaTokenizer"),
    "CTRLTokenizer": _bpe("CTRLTokenizer"),
    "BertJapaneseTokenizer": _words("BertJapaneseTokenizer"),
    "EsmTokenizer": _words("EsmTokenizer"),
    "TapasTokenizer": _words("TapasTokenizer"),
    "ProphetNetTokenizer": _words("ProphetNetTokenizer", "prophetnet.tokenizer"),
    "RoCBertTokenizer": _roc_bert,
    "LukeTokenizer": _luke,
    "PhobertTokenizer": _counted_bpe("PhobertTokenizer"),
    "BertweetTokenizer": _counted_bpe("BertweetTokenizer"),
    "GPTNeoXJapaneseTokenizer": _japanese,
    "CanineTokenizer": lambda folder: transformers.CanineTokenizer(),
    "ByT5Tokenizer": lambda folder: transformers.ByT5Tokenizer(),
    "PerceiverTokenizer": lambda folder: transformers.PerceiverTokenizer(),
    "Wav2Vec2CTCTokenizer": lambda folder: transformers.Wav2Vec2CTCTokenizer(_numbers(folder, "vocab.json")),
}
