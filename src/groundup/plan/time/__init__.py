"""Time: of a training step, a training, and all stages.

Reading order:
    step_work.py          work of a training step by kind of operation
    training_speed.py     seconds of a training step on one kind of device
    step_time.py          time of a training step on many devices
    size_warmup.py        batch size and sequence length warmup
    run_time.py           loader, evaluation, checkpoints and restarts of a training
    restart_estimate.py   interruptions of a long run, and checkpoints
    stage_time.py         seconds of each stage of a run on CPUs
    stage_timeline.py     the same on accelerators
"""
