"""Server process of a model that writes a script: python tests/serve/scripted_server.py KEY."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from scripted_model import scripted_model

from groundup.serve.server import serve

CALL = '\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n'

if __name__ == "__main__":
    torch.set_num_threads(1)
    model, tokenizer = scripted_model(["I add.", "<tool_call>", CALL, "</tool_call>"], ["It ", "is ", "5."])
    serve(model, tokenizer, name="m", port=0, api_key=sys.argv[1] or None)
