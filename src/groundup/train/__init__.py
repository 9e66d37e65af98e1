"""10. Learning: one loop that can be read, and that can be killed at any moment.

Reading order: `order` and `sequences` (what is seen when), `batches` (tokens from the shards, a pure function of the
step), `schedule` (the learning rate),
`optimizer` (which weights move how), `checkpoint` (what a killed run continues from), `loop` (the only one), `stage`.

Deliberately absent: a second loop. Fine-tuning brings a loss and its batches.
"""

from groundup.train.loop import Result, next_token_loss, train

__all__ = ["Result", "next_token_loss", "train"]
