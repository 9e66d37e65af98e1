"""Speculative decoding beside the plain loop: equal texts, share of accepted proposals, processor seconds.

    python benchmarks/speculative_decoding.py MODEL TEXT_FILE [DRAFT] [--tokens 100] [--save]

The prompt asks to repeat a text, as edits and summaries do. One thread, float32 (in bfloat16 the rounding of passes over several
tokens differs, and so may texts), greedy and sampled.
"""

import argparse
import time
from pathlib import Path

import torch
from dated_results import saved_output

from groundup.generate import (
    GREEDY,
    DraftModel,
    PromptLookup,
    SamplingParams,
    check_draft,
    complete_texts,
    generate_text,
)
from groundup.quantize import open_model


def main() -> None:
    parser = argparse.ArgumentParser(description="Speculative decoding beside the plain loop.")
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("draft", type=Path, nargs="?")
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--save", action="store_true", help="write the results to benchmarks/results")
    options = parser.parse_args()
    with saved_output("speculative-decoding", "Speculative decoding beside the plain loop", save=options.save):
        run(options)


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    model, tokenizer = open_model(options.model, device="cpu", dtype="float32")
    proposers = {"prompt lookup": PromptLookup}
    if options.draft:
        draft, of_draft = open_model(options.draft, device="cpu", dtype="float32")
        check_draft(model, tokenizer, draft, of_draft)
        proposers["draft"] = lambda: DraftModel(draft, model.config.vocab_size)
    text = options.text.read_text(encoding="utf-8")[:700]
    prompt = f"Text: {text}\n\nThe same text again, word for word: {text[:120]}"
    for name, sampling in (("greedy", GREEDY), ("temperature 0.7", SamplingParams(temperature=0.7, seed=1))):
        begin = time.process_time()
        plain = generate_text(model, tokenizer, prompt, sampling=sampling, max_tokens=options.tokens)
        print(f"{name:16} plain         {time.process_time() - begin:6.2f} s")
        for kind, new in proposers.items():
            begin, proposer = time.process_time(), new()
            settings = {"sampling": sampling, "max_tokens": options.tokens, "proposer": proposer}
            ((answer,),) = complete_texts(model, tokenizer, [prompt], **settings)
            equal = "equal" if answer.text == plain else "DIFFERENT"
            seconds, counts = time.process_time() - begin, proposer.counts
            share = f"{counts.acceptance_rate:.0%} of {counts.proposed} accepted, {counts.passes} passes"
            print(f"{name:16} {kind:13} {seconds:6.2f} s  {equal}, {share}", flush=True)


if __name__ == "__main__":
    main()
