"""The vocabulary of byT5 (Xue et al., 2022): three special tokens, a token a byte, and 125 sentinels. No file holds it."""

from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

SPECIAL = ("<pad>", "</s>", "<unk>")
SENTINELS = tuple(f"<extra_id_{index}>" for index in range(125))


def byte_tokenizer() -> Tokenizer:
    """Every byte of the text by itself, and the end token after them. BPE that merges nothing does just that."""
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *letters(), *SENTINELS))}
    tokenizer = Tokenizer(BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*SPECIAL, *SENTINELS])
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def letters() -> list[str]:
    """What stands for each byte where tokens are shown: itself where it is a visible character, else one from U+0100 on, as in
    GPT-2."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) if byte in visible else chr(256 + hidden.index(byte)) for byte in range(256)]
