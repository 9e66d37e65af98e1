"""5. Model: decoder, encoder and encoder-decoder transformers from one set of modules.

Files, in reading order:

    shapes.py             letters of tensor dimensions in annotations
    norm.py               RMSNorm, zero-centered RMSNorm, LayerNorm
    rope.py               rotary position embedding (RoPE) and its context extensions
    attention_mask.py     causal, sliding-window and document masks for each backend
    kv_cache.py           key/value cache
    attention.py          self-attention, cross-attention, their kernels
    latent_attention.py   latent attention of DeepSeek: compressed keys and values
    causal_convolution.py the convolution before a state
    state_space.py        state-space layers of Mamba-2
    gated_delta.py        linear attention of Qwen3-Next
    position_encoding.py  mask and positions of each layer type; relative position bias of T5
    matmul_precision.py   dtype of matrix products under autocast
    frozen_linear.py      products with a frozen matrix, and packed linear layers
    feed_forward.py       plain and gated feed-forward
    moe.py                mixture of experts: router, experts, load balancing
    block.py              pre-norm, post-norm and sandwich-norm blocks
    token_rows.py         token matrices of which a few rows are trained
    embedding.py          token, position and token-type embeddings; validation of ids
    loss.py               chunked cross-entropy
    head.py               language-model heads, outputs, shifted labels
    classification_head.py  labels of texts and tokens
    weight_init.py        weight initialization, muP
    decoder.py            decoder-only model (GPT, Llama, ...)
    encoder.py            encoder (BERT, ModernBERT)
    encoder_decoder.py    encoder-decoder (T5)
    token_masking.py      masked-language modelling and span corruption
    token_weights.py      weights of tokens in a text embedding
    serialization.py      save, load and build models

Deliberately absent: devices, optimizers, dropout (one pass over the data does not overfit), quantization, serving and
foreign weights. Other chapters transform a model from outside.

    >>> model = build_model(ModelConfig(vocab_size=256, hidden_size=64, num_layers=2, num_heads=4, context_length=128))
    >>> tokens = torch.randint(256, (4, 16))
    >>> model(tokens, labels=tokens).loss.backward()
    >>> save_model(model, Path("tiny"))
"""

from groundup.model.decoder import Decoder
from groundup.model.encoder import Encoder
from groundup.model.encoder_decoder import EncoderDecoder, EncoderDecoderCache
from groundup.model.head import ModelOutput
from groundup.model.kv_cache import KVCache, StaticKVCache
from groundup.model.loss import IGNORE_INDEX, linear_cross_entropy
from groundup.model.moe import pop_aux_loss, update_expert_bias
from groundup.model.serialization import (
    ARCHITECTURES,
    assign_weights,
    build_meta_model,
    build_model,
    load_config,
    load_model,
    save_model,
    save_tensors,
)
from groundup.model.token_masking import mask_random_tokens, span_corruption
from groundup.model.weight_init import init_weights

__all__ = [
    "ARCHITECTURES",
    "IGNORE_INDEX",
    "Decoder",
    "Encoder",
    "EncoderDecoder",
    "EncoderDecoderCache",
    "KVCache",
    "ModelOutput",
    "StaticKVCache",
    "assign_weights",
    "build_meta_model",
    "build_model",
    "init_weights",
    "linear_cross_entropy",
    "load_config",
    "load_model",
    "mask_random_tokens",
    "pop_aux_loss",
    "save_model",
    "save_tensors",
    "span_corruption",
    "update_expert_bias",
]
