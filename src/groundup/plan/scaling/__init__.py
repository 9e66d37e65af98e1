"""Scaling laws: size, tokens and loss of a budget.

Reading order:
    compute_optimal.py   model size, tokens, batch size, learning rate, vocabulary and experts of a compute budget
    scaling_law.py       fit of loss against model size
    loss_law.py          loss of a model size and number of tokens, as published
    scaling_plan.py      from one of money, hours, compute, size or tokens to the others
    expected_loss.py     loss to expect of a plan of any size
    scaling_summary.py   what scaling laws say of a plan
    prediction.py        loss prediction for a recipe
"""
