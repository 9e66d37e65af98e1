"""5. The transformer: three architectures from one set of parts.

Reading order: `shapes` (the legend of tensor letters), then the parts: `norm`, `rope`, `relative`, `mask`,
`attention`, `feed_forward`, `moe`, `block`, `embedding`, `loss`, `head`, `cache`, `sight`, and what is made
of them: `decoder`, `encoder`, `encoder_decoder`. Beside them `precision`, `output`, `hiding`, `init` and `storage`.

Deliberately absent: devices, optimizers, dropout (one pass over the data does not overfit), quantizing,
serving and foreign weights. Others transform a model from outside.
"""

from groundup.model.cache import Cache, KeyValueCache
from groundup.model.decoder import Decoder
from groundup.model.encoder import Encoder
from groundup.model.encoder_decoder import CrossCache, EncoderDecoder
from groundup.model.init import init_weights
from groundup.model.loss import IGNORE, linear_cross_entropy
from groundup.model.moe import update_balance
from groundup.model.output import Output
from groundup.model.storage import (
    ARCHITECTURES,
    assign_weights,
    build_model,
    empty_model,
    load_config,
    load_model,
    save_model,
)

__all__ = [
    "ARCHITECTURES",
    "IGNORE",
    "Cache",
    "CrossCache",
    "Decoder",
    "Encoder",
    "EncoderDecoder",
    "KeyValueCache",
    "Output",
    "assign_weights",
    "build_model",
    "empty_model",
    "init_weights",
    "linear_cross_entropy",
    "load_config",
    "load_model",
    "save_model",
    "update_balance",
]
