"""Train a small language model in memory: texts, tokenizer, batches, transformer, score, continuation. No recipe, no files.

python examples/train_and_generate.py [TEXT_FILE ...]      default: Python's language reference
"""

import sys
from pathlib import Path
from pydoc_data.topics import topics

import groundup
from groundup.generate import GREEDY
from groundup.train import train


def main(paths: list[str], steps: int = 150) -> float:
    """Train on the paragraphs of `paths`, print a continuation, and return the bits per byte of held-out text."""
    documents = [Path(path).read_text(encoding="utf-8") for path in paths] or list(topics.values())
    texts = groundup.deduplicate([paragraph for text in documents for paragraph in text.split("\n\n")])
    split = max(1, len(texts) // 10)
    held_out, training = "\n\n".join(texts[:split]), texts[split:]

    tokenizer = groundup.train_tokenizer(training, vocab_size=512)
    tokens = [token for text in training for token in [*tokenizer.encode(text), tokenizer.eos_id]]
    batches = groundup.make_batches(tokens, sequence_length=64, batch_size=8)

    config = groundup.ModelConfig(vocab_size=512, hidden_size=64, num_layers=2, num_heads=4, context_length=64)
    model = groundup.build_model(config)
    result = train(model, batches, steps=steps, learning_rate=3e-3, optimizer="muon", device="cpu")

    score = groundup.bits_per_byte(model, tokenizer, held_out)
    print(f"loss {result.records[-1]['loss']:.3f} after {steps} steps; {score:.3f} bits per byte of held-out text")
    print("The" + groundup.generate_text(model, tokenizer, "The", max_tokens=40, sampling=GREEDY))
    return score


if __name__ == "__main__":
    main(sys.argv[1:])
