"""Sections of a report, from run data to elements. Each returns None for a run without its data.

cover_page.py             title page
plan_vs_actual_section.py plan and outcome
data_section.py           sources and filtering
corpus_section.py         lengths, languages, duplicates, mixture
tokenization_section.py   vocabulary and tokens
pretraining_section.py    model, losses
scores_section.py         evaluation of the base model
samples_section.py        continuations and chat answers
preference_section.py     scores and curves of preference tuning
reinforcement_section.py  learning from rewards: the curve, held-out problems before and after
quantization_section.py   quantized model and its loss
usage_section.py          commands
provenance_section.py     fingerprints, packages, machine
recipe_section.py         recipe
"""
