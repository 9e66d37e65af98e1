"""5. The transformer: three architectures from one set of parts.

Reading order: `shapes` (the legend of tensor letters), then the parts: `norm`, `rope`, `relative`, `mask`,
`attention`, `feed_forward`, `moe`, `block`, `embedding`, `loss`, `head`, `cache`, `sight`, and what is made
of them: `decoder`, `encoder`, `encoder_decoder`. Beside them `precision`, `output`, `hiding`, `init` and `storage`.

Deliberately absent: devices, optimizers, dropout (one pass over the data does not overfit), quantizing,
serving and foreign weights. Others transform a model from outside.
"""

from groundup.model.decoder import Decoder
from groundup.model.encoder import Encoder
from groundup.model.encoder_decoder import EncoderDecoder, EncoderDecoderCache
from groundup.model.kv_cache import KVCache, StaticKVCache
from groundup.model.loss import IGNORE_INDEX, linear_cross_entropy
from groundup.model.model_output import ModelOutput
from groundup.model.moe import update_expert_bias
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
    "save_model",
    "save_tensors",
    "update_expert_bias",
]
