"""7. Speaking: from a prompt to the tokens, and the text, that follow.

Reading order: `sampling` (logits to a token), `oracle` (the slow obvious loop that everything else must
equal), `loop` (with the key/value cache), `text` (tokens to text while they come), `rows` (the cache of a
running batch), `engine` (many requests in one batch that they join and leave), `chat` (in the terminal).

Deliberately absent: HTTP, threads and queues (chapter 13 has them), and control over what the model may
say. Not yet written: pages in place of rows, shared prefixes, speculative decoding.
"""

from groundup.generate.batching_engine import BatchingEngine, Request, StepOutput, generate_many
from groundup.generate.detokenizer import StreamDetokenizer
from groundup.generate.generation import encode_prompt, generate, stream_text
from groundup.generate.reference_generation import generate_reference
from groundup.generate.sampling import GREEDY, SamplingParams

__all__ = [
    "GREEDY",
    "BatchingEngine",
    "Request",
    "SamplingParams",
    "StepOutput",
    "StreamDetokenizer",
    "encode_prompt",
    "generate",
    "generate_many",
    "generate_reference",
    "stream_text",
]
