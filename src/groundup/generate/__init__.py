"""7. Generation: sampling with a key/value cache, one prompt at a time or many in one batch; embeddings and labels.

    native              products of a few rows compiled for the machine
    sampling.py         logits to a token: temperature, top-k, top-p, min-p, repetition penalty
    constrained_decoding.py  only texts of a JSON schema, a regular expression or a grammar
    sequence_sampler.py the tokens of one sequence: random generator, tokens so far, place in a grammar
    fixed_shape_products.py  matrix products whose rows do not depend on each other, bit for bit
    chunked_attention.py  attention, likewise
    batch_invariance.py deterministic generation: the same bits under any load
    generation.py       generation with a key/value cache, and without; from tokens or from text
    prompt_logprobs.py  log-probabilities of the tokens of a prompt
    target_language.py  the language of a translation
    beam_search.py      the most likely text: translations, summaries
    detokenizer.py      tokens to text, incrementally; stop strings
    quantized_kv_cache.py  keys and values in 8 bits
    page_pool.py        pages of a key/value cache: whose they are, and what they hold
    page_memory.py      their memory
    paged_kv_cache.py   key/value cache of many sequences in pages
    kv_cache_budget.py  number of pages
    request.py          requests of the engine and their outputs
    ragged_batch.py     one pass over texts with a number of new tokens each
    speculative_decoding.py  several proposed tokens in one pass; prompt lookup
    draft_model.py      tokens proposed by a smaller model
    engine_rows.py      what the engine keeps of a request
    batching_engine.py  continuous batching of many requests
    text_completions.py completions of many texts, with samples, stop strings and log-probabilities
    chat_session.py     a conversation
    terminal_chat.py    a conversation in the terminal
    text_embedding.py   texts to vectors, nearest texts
    reward_model.py     one number for an answer
    text_classification.py  texts and tokens to labels

Deliberately absent: HTTP, threads and queues (chapter 13).
"""

from groundup.generate.batch_invariance import make_deterministic
from groundup.generate.batching_engine import BatchingEngine
from groundup.generate.beam_search import beam_search, beam_search_text, best_beams
from groundup.generate.chat_session import ChatSession
from groundup.generate.constrained_decoding import Grammar, GrammarCompiler
from groundup.generate.detokenizer import StreamDetokenizer, decode_output
from groundup.generate.draft_model import DraftModel, check_draft
from groundup.generate.generation import (
    encode_prompt,
    generate,
    generate_reference,
    generate_text,
    next_token_logits,
    stream_text,
    stream_tokens,
)
from groundup.generate.prompt_logprobs import score_prompt
from groundup.generate.quantized_kv_cache import use_kv_bits
from groundup.generate.request import Request, StepOutput
from groundup.generate.reward_model import RewardModel, score_answers
from groundup.generate.sampling import GREEDY, SamplingParams, sample_token
from groundup.generate.sequence_sampler import SequenceSampler
from groundup.generate.speculative_decoding import PromptLookup, SpeculationCounts
from groundup.generate.target_language import set_target_language
from groundup.generate.text_classification import Entity, TextClassifier, classify_texts, find_entities
from groundup.generate.text_completions import TextCompletion, complete_texts, generate_many, generate_texts
from groundup.generate.text_embedding import embed_texts, nearest_texts

__all__ = [
    "GREEDY",
    "BatchingEngine",
    "ChatSession",
    "DraftModel",
    "Entity",
    "Grammar",
    "GrammarCompiler",
    "PromptLookup",
    "Request",
    "RewardModel",
    "SamplingParams",
    "SequenceSampler",
    "SpeculationCounts",
    "StepOutput",
    "StreamDetokenizer",
    "TextClassifier",
    "TextCompletion",
    "beam_search",
    "beam_search_text",
    "best_beams",
    "check_draft",
    "classify_texts",
    "complete_texts",
    "decode_output",
    "embed_texts",
    "encode_prompt",
    "find_entities",
    "generate",
    "generate_many",
    "generate_reference",
    "generate_text",
    "generate_texts",
    "make_deterministic",
    "nearest_texts",
    "next_token_logits",
    "sample_token",
    "score_answers",
    "score_prompt",
    "set_target_language",
    "stream_text",
    "stream_tokens",
    "use_kv_bits",
]
