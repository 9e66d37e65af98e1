"""Weights and shape of a model.

Reading order:
    weight_shapes.py     name and shape of every weight of a model
    parameter_count.py   parameters and training FLOPs of a model
    model_shape.py       width, depth and experts of a model for a budget or a number of parameters
    masked_spans.py      masked tokens and spans of a sequence
"""
