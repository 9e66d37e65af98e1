"""Values of knobs that a recipe leaves out.

Reading order:
    training_knobs.py        tokens, steps, batch and learning rate of training
    finetune_defaults.py     rank, passes, batch and learning rate of fine-tuning
    preference_defaults.py   the same of preference tuning
"""
