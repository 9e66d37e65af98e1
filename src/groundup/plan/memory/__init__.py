"""Memory: of training, on disk, and in use.

Reading order:
    saved_activations.py     what blocks keep for the backward pass
    state_memory.py          weights, gradients and optimizer state of a device
    memory_estimate.py       memory of training per device
    memory_fit.py            micro-batch and checkpointing that fit into memory
    storage_estimate.py      bytes on disk of a run
    deployment_estimate.py   size, speed and price of serving
"""
