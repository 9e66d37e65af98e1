"""4. Tokenizer: train BPE and Unigram vocabularies, encode and decode, chat templates, token shards on disk.

    split_patterns.py          pretokenization regexes of GPT-2, GPT-4 and Qwen2
    bytes_to_unicode.py        printable letters for bytes, as in tokenizer.json
    token_bytes.py             the bytes of a vocabulary entry
    byte_level_vocabulary.py   vocabulary and merges as bytes, and back
    bpe.py                     byte-pair encoding in plain Python: the oracle of the faster implementations
    special_tokens.py          end of text, turns, padding, masks
    library_errors.py          panics and endless regexes of foreign tokenizers
    long_texts.py              encoding of one text without holding other threads
    stream_encoding.py         encoding of a text that arrives in pieces
    tokenizer_folder.py        roles, added tokens and templates in a Hugging Face folder
    tokenizer.py               `Tokenizer`: text and conversations to ids and back; load and save
    byte_fallback.py           characters without a token: count them, add the bytes
    special_token_escaping.py  special tokens spelled in messages stay text
    template_code.py           code of chat templates, with charges for work
    template_sandbox.py        Jinja's sandbox with a bound on time and memory
    chat_template.py           Jinja templates of conversations
    assistant_turns.py         which text of a conversation is the assistant's, for any template
    pretokenize.py             pretokenization by array operations, without a regex engine
    bpe_trainer.py             incremental BPE training
    tokenizer_training.py      train or extend a tokenizer
    sentencepiece.py           SentencePiece models
    tiktoken_vocabularies.py   special tokens of published tiktoken files
    vocabulary_files.py        folders with vocab.json, vocab.txt or tekken.json
    sentencepiece_folders.py   folders of T5, XLM-R and Marian
    pretrained.py              load a tokenizer.json, a tiktoken file or a SentencePiece model
    batch_encoder.py           fastest exact encoder of many texts
    parquet_documents.py       documents of a data artifact, and a random sample to train on
    range_cache.py             remote files, cached by byte ranges
    token_shards.py            `TokenShard`: encoded documents on disk, memory-mapped
    encode_corpus.py           documents to token shards
    tokenizer_stats.py         vocabulary and shard statistics for the report
    fertility.py               bytes per token by source and language, beside other tokenizers
    stage.py                   02-tokenizer and 03-tokens

Deliberately absent: torch, and tokenizer classes of model families: the `tokenizers` library runs any `tokenizer.json`.
"""

from groundup.tokenizer.batch_encoder import BatchEncoder
from groundup.tokenizer.byte_fallback import add_byte_fallback, count_lost_characters
from groundup.tokenizer.encode_corpus import write_token_shard
from groundup.tokenizer.pretrained import load_pretrained_tokenizer
from groundup.tokenizer.token_shards import ShardWriter, TokenShard
from groundup.tokenizer.tokenizer import Tokenizer
from groundup.tokenizer.tokenizer_training import extend_tokenizer, train_tokenizer

__all__ = [
    "BatchEncoder",
    "ShardWriter",
    "TokenShard",
    "Tokenizer",
    "add_byte_fallback",
    "count_lost_characters",
    "extend_tokenizer",
    "load_pretrained_tokenizer",
    "train_tokenizer",
    "write_token_shard",
]
