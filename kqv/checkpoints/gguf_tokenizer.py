"""The tokenizer in a GGUF file's metadata, rebuilt as one of `tokenizers`.

A file names the kind of its vocabulary, "gpt2" for byte-level BPE and "llama" for SentencePiece's BPE, and for the first how a text
is cut before pairs are merged. How that is done is in no file: here it is done as the published tokenizer.json of each family does.
What llama.cpp takes for granted where a file is silent is taken for granted here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gguf import TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from kqv.checkpoints.fields import Fields
from kqv.errors import CheckpointError

LLAMA_3 = ("llama-bpe", "llama3", "llama-v3")
"""Three names of one cut. These vocabularies begin a text with a token, and a word that is in them is one token, merges or not."""
LLAMA_3_CUT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CUTS = ("gpt-2", "smollm", *LLAMA_3)

SPACE = "▁"
"""SentencePiece's visible space."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Tokens by id, and what each of them is; with SentencePiece, the larger its score the earlier a token is merged."""

    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    scores: tuple[float, ...]

    @property
    def ids(self) -> dict[str, int]:
        """Ids by token."""
        return {token: index for index, token in enumerate(self.tokens)}

    def added(self, kind: TokenType) -> list[AddedToken]:
        """The tokens of a kind, to be looked for in a text before it is cut."""
        special = kind == TokenType.CONTROL
        chosen = (token for token, found in zip(self.tokens, self.kinds, strict=True) if found == kind)
        return [AddedToken(token, normalized=False, special=special) for token in chosen]

    def merges(self) -> list[tuple[str, str]]:
        """Every way to make a token of two others, the best-scored token first."""
        ids = self.ids
        each = zip(self.tokens, self.kinds, self.scores, strict=True)
        normal = ((token, score) for token, kind, score in each if kind == TokenType.NORMAL)
        ways = ((-score, -cut, token[:cut], token[cut:]) for token, score in normal for cut in range(1, len(token)))
        possible = [way for way in ways if way[2] in ids and way[3] in ids]
        return [(left, right) for _, _, left, right in sorted(possible, key=lambda way: way[:2])]


def read_tokenizer(metadata: Mapping[str, Any], place: str) -> Tokenizer | None:
    """The tokenizer that the metadata describes; None where there is none. Raises `CheckpointError` for a kind kqv doesn't know."""
    said = Fields(metadata, place)
    build = said.choice("tokenizer.ggml.model", {"gpt2": byte_level, "llama": sentencepiece, "no_vocab": None}, "no_vocab")
    if build is None:
        return None
    vocabulary = read_vocabulary(metadata, said)
    try:
        tokenizer = build(vocabulary, said)
        tokenizer.add_special_tokens(vocabulary.added(TokenType.CONTROL))
        tokenizer.add_tokens(vocabulary.added(TokenType.USER_DEFINED))
    except CheckpointError:
        raise
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{place} has a tokenizer that contradicts itself: {error}") from error
    return tokenizer


def read_vocabulary(metadata: Mapping[str, Any], said: Fields) -> Vocabulary:
    """The vocabulary; where the file doesn't say what the tokens are, all are parts of text, and none is better than another."""
    tokens = said.words("tokenizer.ggml.tokens")
    kinds = numbers(metadata, "tokenizer.ggml.token_type", TokenType.NORMAL, len(tokens))
    scores = numbers(metadata, "tokenizer.ggml.scores", 0, len(tokens))
    return Vocabulary(tokens, tuple(map(int, kinds)), scores)


def numbers(metadata: Mapping[str, Any], key: str, default: int, count: int) -> tuple[float, ...]:
    """A number for each token."""
    found = metadata.get(key, [default] * count)
    if not isinstance(found, list) or len(found) != count or not all(isinstance(number, int | float) for number in found):
        raise CheckpointError(f"{key} is no array of {count} numbers, one for each token")
    return tuple(found)


def byte_level(vocabulary: Vocabulary, said: Fields) -> Tokenizer:
    """BPE over bytes, each of them written as a visible character (GPT-2, Llama 3, SmolLM)."""
    cut = said.choice("tokenizer.ggml.pre", {name: name for name in CUTS})
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in said.words("tokenizer.ggml.merges"))]
    tokenizer = Tokenizer(BPE(vocabulary.ids, merges, ignore_merges=cut in LLAMA_3))
    tokenizer.pre_tokenizer = pre_tokenizer(cut)
    tokenizer.decoder = decoders.ByteLevel()
    frame(tokenizer, vocabulary, said, begins=cut in LLAMA_3)
    return tokenizer


def pre_tokenizer(cut: str) -> pre_tokenizers.PreTokenizer:
    """How text is cut into the stretches within which pairs are merged."""
    if cut in LLAMA_3:
        words = pre_tokenizers.Split(Regex(LLAMA_3_CUT), behavior="isolated")
        return pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    gpt_2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)  # its own regular expression
    if cut == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt_2])
    return gpt_2


def sentencepiece(vocabulary: Vocabulary, said: Fields) -> Tokenizer:
    """BPE over characters, and over the bytes of those that the vocabulary lacks (Llama 1 and 2, Mistral)."""
    unknown = vocabulary.tokens[token(said, "unknown", vocabulary, 0)]
    model = BPE(vocabulary.ids, vocabulary.merges(), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    prefixed = said.flag("tokenizer.ggml.add_space_prefix", True)
    visible, invisible = normalizers.Replace(" ", SPACE), decoders.Replace(SPACE, " ")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([*[normalizers.Prepend(SPACE)] * prefixed, visible])
    strip = decoders.Strip(" ", left=1, right=0)
    tokenizer.decoder = decoders.Sequence([invisible, decoders.ByteFallback(), decoders.Fuse(), *[strip] * prefixed])
    frame(tokenizer, vocabulary, said, begins=True)
    return tokenizer


def frame(tokenizer: Tokenizer, vocabulary: Vocabulary, said: Fields, *, begins: bool) -> None:
    """Let the tokenizer put the tokens around a text that the file says, or that its family has where the file is silent."""
    wanted = {end: said.flag(f"tokenizer.ggml.add_{end}_token", default) for end, default in (("bos", begins), ("eos", False))}
    ids = {end: token(said, end, vocabulary) for end, is_added in wanted.items() if is_added}
    if ids:
        before, after = ([vocabulary.tokens[ids[end]]] if end in ids else [] for end in ("bos", "eos"))
        special = [(vocabulary.tokens[index], index) for index in {*ids.values()}]
        tokenizer.post_processor = processors.TemplateProcessing([*before, "$A", *after], special_tokens=special)


def token(said: Fields, name: str, vocabulary: Vocabulary, *default: int) -> int:
    """The id of a token that has a task of its own, one that there is."""
    key = f"tokenizer.ggml.{name}_token_id"
    [index, *_] = *said.tokens(key), *default, len(vocabulary.tokens)
    if index >= len(vocabulary.tokens):
        raise CheckpointError(f"{key} names none of the {len(vocabulary.tokens)} tokens")
    return index
