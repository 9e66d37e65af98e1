"""Server process of a tiny random model: python tests/serve/tiny_server.py [PORT [KEY]].

GROUNDUP_TEST_CERTIFICATE = "CHAIN KEY" serves HTTPS.
GROUNDUP_TEST_LIMITS = "HEADER_SECONDS WRITE_SECONDS CONNECTIONS_PER_CLIENT" replaces the limits of connections.
GROUNDUP_TEST_PROXY = "ADDRESS" trusts a reverse proxy and logs requests.
"""

import os
import sys
import time
from pathlib import Path

import torch

from groundup.model import Decoder
from groundup.recipe import ModelConfig
from groundup.serve import connection
from groundup.serve.request_log import RequestLog
from groundup.serve.server import serve
from groundup.tokenizer.tokenizer_training import train_bpe


class SlowDecoder(Decoder):
    """A decoder with slow steps, so that clients can disconnect before the end."""

    def hidden_states(self, tokens, **knobs):
        time.sleep(0.01)
        return super().hidden_states(tokens, **knobs)


if __name__ == "__main__":
    port, key = [*sys.argv[1:], None, None][:2]
    if limits := os.environ.get("GROUNDUP_TEST_LIMITS"):
        connection.HEADER_SECONDS, connection.WRITE_SECONDS, connection.MAX_CONNECTIONS_PER_CLIENT = map(
            float, limits.split()
        )
    proxy = os.environ.get("GROUNDUP_TEST_PROXY")
    certificate = os.environ.get("GROUNDUP_TEST_CERTIFICATE", "").split()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    config = ModelConfig(vocab_size=260, hidden_size=32, num_layers=1, num_heads=2, context_length=128)
    serve(
        SlowDecoder(config),
        train_bpe([], 260),
        name="tiny",
        port=int(port or 0),
        api_key=key,
        certificate=(Path(certificate[0]), Path(certificate[1])) if certificate else None,
        trusted_proxies=[proxy] if proxy else (),
        log=RequestLog("json") if proxy else None,
    )
