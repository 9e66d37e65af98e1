"""Run by the python of an environment with llama.cpp: ids, logits or embeddings, and greedy text of GGUF files.

Standard input: {"texts", "tokens", "decoder_tokens", "outputs": logits | embeddings | none, "new", "quantize"}, where quantize
has a file for each number of a type (llama_ftype) as which llama.cpp writes the first file before. The environment has
llama-cpp-python or cyllama. Standard output: a list with an answer for each file.
"""

import json
import sys
from typing import Any


def answer_llama_cpp_python(file: str, asked: dict[str, Any]) -> dict[str, Any]:
    import ctypes

    import llama_cpp
    import numpy as np

    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    kept = {"n_ctx": 512, "n_batch": 512, "verbose": False, "type_k": 0, "type_v": 0, "n_threads": 2}
    llm = llama_cpp.Llama(file, logits_all=True, embedding=asked["outputs"] == "embeddings", pooling_type=0, **kept)
    answer = {"ids": [llm.tokenize(text.encode(), add_bos=False, special=False) for text in asked["texts"]]}
    answer["chat_template"] = llm.metadata.get("tokenizer.chat_template")
    if asked["outputs"] == "embeddings":
        raise SystemExit("embeddings of each token need cyllama")
    llm.eval(asked["tokens"])
    if asked["outputs"] == "logits":
        answer["outputs"] = np.array(llm.scores[: len(asked["tokens"])]).tolist()
    answer["said"] = []
    for _ in range(asked["new"]):
        answer["said"].append(int(np.argmax(llm.scores[llm.n_tokens - 1])))
        llm.eval(answer["said"][-1:])
    return answer


def answer_cyllama(file: str, asked: dict[str, Any]) -> dict[str, Any]:
    from cyllama.llama import llama_cpp

    class Model(llama_cpp.LlamaModel):
        """With the attribute that cyllama 0.2 reads logits by, and lacks."""

        @property
        def n_vocab(self) -> int:
            return self.get_vocab().n_vocab

    llama_cpp.disable_logging()
    llama_cpp.ggml_backend_load_all()
    model = Model(file)
    metadata, vocab, parameters = model.metadata(), model.get_vocab(), llama_cpp.LlamaContextParams()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 512
    parameters.type_k = parameters.type_v = 0
    parameters.flash_attn_type = 0
    parameters.swa_full = True
    if asked["outputs"] == "embeddings":
        parameters.embeddings, parameters.pooling_type = True, 0
    context = llama_cpp.LlamaContext(model, parameters)
    answer: dict[str, Any] = {
        "ids": [list(vocab.tokenize(text, False, False)) for text in asked["texts"]],
        "with_special": [list(vocab.tokenize(text, True, False)) for text in asked["texts"]],
        "chat_template": metadata.get("tokenizer.chat_template"),
    }

    def evaluate(tokens: list[int], past: int, call: Any) -> None:
        batch = llama_cpp.LlamaBatch(n_tokens=max(len(tokens), 1), embd=0, n_seq_max=1)
        for index, token in enumerate(tokens):
            batch.add(token, past + index, [0], True)
        call(batch)

    tokens = asked["tokens"]
    if asked["outputs"] == "embeddings":
        evaluate(tokens, 0, context.encode if model.has_encoder() else context.decode)
        answer["outputs"] = [list(context.get_embeddings_ith(index)) for index in range(len(tokens))]
        return answer
    if model.has_encoder():
        evaluate(tokens, 0, context.encode)
        tokens = asked["decoder_tokens"]
    answer["outputs"], answer["said"] = [], []
    for past in range(len(tokens) + asked["new"]):  # cyllama reads the logits of a batch's first token only
        token = tokens[past] if past < len(tokens) else answer["said"][-1]
        evaluate([token], past, context.decode)
        scores = list(context.get_logits())
        if asked["outputs"] == "logits":
            answer["outputs"].append(scores)
        if past >= len(tokens) - 1:
            answer["said"].append(scores.index(max(scores)))
    answer["said"] = answer["said"][: asked["new"]]
    return answer


def quantize_cyllama(file: str, number: int, out: str) -> None:
    from cyllama.llama import llama_cpp

    llama_cpp.disable_logging()
    parameters = llama_cpp.LlamaModelQuantizeParams()
    parameters.ftype, parameters.nthread = number, 1
    llama_cpp.model_quantize(file, out, parameters)


def quantize_llama_cpp_python(file: str, number: int, out: str) -> None:
    import ctypes

    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = number, 1
    if llama_cpp.llama_model_quantize(file.encode(), out.encode(), ctypes.byref(parameters)):
        raise SystemExit(f"llama.cpp cannot write {file} as type {number}")


if __name__ == "__main__":
    try:
        import cyllama  # noqa: F401

        answer, quantize = answer_cyllama, quantize_cyllama
    except ModuleNotFoundError:
        answer, quantize = answer_llama_cpp_python, quantize_llama_cpp_python
    asked = json.loads(sys.stdin.read())
    for number, out in asked.get("quantize", {}).items():
        quantize(sys.argv[1], int(number), out)
    sys.stdout.write(json.dumps([answer(file, asked) for file in (*sys.argv[1:], *asked.get("quantize", {}).values())]))
