"""5. The transformer: three architectures from one set of parts.

Reading order: `shapes` (the legend of tensor letters), the parts `norm`, `rope`, `relative`, `mask`, `attention`,
`feed_forward`, `moe`, `block`, `embedding`, `cache`, `sight`, `loss`; then what is made of them: `decoder`, `encoder`,
`encoder_decoder`; then `init` and `storage`.

Deliberately absent: devices, optimizers, dropout (one pass over the data does not overfit), quantizing, serving and
foreign weights. Others transform a model from outside.
"""

from groundup.model.cache import Cache, KeyValueCache
from groundup.model.decoder import Decoder, Output
from groundup.model.loss import IGNORE, linear_cross_entropy
from groundup.model.storage import assign_weights, build_model, load_config, load_model, save_model

ARCHITECTURES = {"decoder": Decoder}

__all__ = [
    "ARCHITECTURES",
    "IGNORE",
    "Cache",
    "Decoder",
    "KeyValueCache",
    "Output",
    "assign_weights",
    "build_model",
    "linear_cross_entropy",
    "load_config",
    "load_model",
    "save_model",
]
