"""4. Tokens: from text to the numbers a model reads, and back.

Reading order: `patterns` (where text is cut), `special` (what no text can spell), `corpus` (the documents of a data
artifact), `train` (learning a vocabulary), `control` and `chat_template` (conversations), `tokenizer` (what the rest of
the house uses), `shards` (tokens on disk), `facts` (what the report tells), `stage`.

Deliberately absent: torch, and tokenizer classes for each model family: what a foreign `tokenizer.json` says is done by
the `tokenizers` library.
"""

from groundup.tokenizer.shards import TokenShard
from groundup.tokenizer.tokenizer import Tokenizer

__all__ = ["TokenShard", "Tokenizer"]
