"""4. Tokens: from text to the numbers a model reads, and back.

Reading order. Vocabularies: `patterns` (where text is cut), `byte_letters` (how bytes are spelt), `bpe` (byte-pair
encoding, written to be read), `special` (what no text can spell), `corpus` and `sample` (the documents to learn from),
`train` (learning with the `tokenizers` library).

Tokenizers: `control` and `chat_template` (conversations), `tokenizer` (what the rest of the house uses), and those of
others: `foreign` (a tokenizer.json, a tiktoken file), `sentencepiece`, `protobuf`.

Much text: `pieces` (cutting without a regex engine), `learn` (merges of a large corpus), `bulk` (the fastest exact
encoder), `ranges` (a file on an object store) and `shards` (tokens on disk), `encode` (from documents to shards),
`facts` and `compare` (what the report tells), `stage`.

Deliberately absent: torch, and tokenizer classes for each model family: what a foreign `tokenizer.json` says is done
by the `tokenizers` library.
"""

from groundup.tokenizer.token_shards import TokenShard
from groundup.tokenizer.tokenizer import Tokenizer

__all__ = ["TokenShard", "Tokenizer"]
