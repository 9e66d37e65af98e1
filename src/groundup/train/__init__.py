"""10. Training: one resumable loop over engines and batches.

    sequence_order.py         shuffling and source mixing without state
    sequence_packing.py       documents to sequences of one length
    token_batches.py          batches from token shards, a pure function of the step
    masked_batches.py         the same with masked tokens
    prefetch.py               batches made ahead in threads
    objectives.py             losses
    lr_schedule.py            learning rate
    optimizer.py              AdamW and Muon by kind of parameter
    low_memory_adamw.py       AdamW with float8 state or bfloat16 weights, stochastic rounding
    weight_average.py         EMA and tail averages of the weights
    mixed_precision.py        autocast, bfloat16 weights, float8 matrix products
    compilation.py            torch.compile by block
    device.py                 device setup, glibc settings, deterministic algorithms
    micro_batch.py            micro-batch size from free memory
    engines/                  one training step, on one device or many
    checkpoints.py            saving, rotation, resuming
    jsonl_log.py              append-only record files
    throughput.py             tokens/s, MFU, memory
    layer_stats.py            gradient and activation norms by layer
    profiler.py               Chrome traces
    trackers.py               TensorBoard, W&B, MLflow, Trackio
    metrics_logger.py         all of these for one run
    loss_spike.py             loss-spike detection
    signals.py                SIGINT and SIGTERM
    training_loop.py          the loop, and `train`, which needs no recipe
    speed_calibration.py      speed of this machine beside the planner's table
    machine_support.py        checks of this machine before the first stage
    simulation.py             memory and traffic of one rank on fake devices
    stage.py                  the stage 04-base

Not here: a second loop. Fine-tuning calls this one with its own loss and batches.
"""

from groundup.parallel.gradients import clip_grad_norm
from groundup.recipe.train_config import TrainConfig
from groundup.train.engines import Engine, NativeEngine, build_engine
from groundup.train.lr_schedule import lr_multiplier
from groundup.train.objectives import NEXT_TOKEN, UNSHIFTED, Batch, Objective
from groundup.train.optimizer import build_optimizers
from groundup.train.prefetch import BatchSource
from groundup.train.token_batches import TokenBatches, make_batches
from groundup.train.training_loop import EvalFn, TrainResult, run_training_loop, train

__all__ = [
    "NEXT_TOKEN",
    "UNSHIFTED",
    "Batch",
    "BatchSource",
    "Engine",
    "EvalFn",
    "NativeEngine",
    "Objective",
    "TokenBatches",
    "TrainConfig",
    "TrainResult",
    "build_engine",
    "build_optimizers",
    "clip_grad_norm",
    "lr_multiplier",
    "make_batches",
    "run_training_loop",
    "train",
]
