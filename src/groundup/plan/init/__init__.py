"""Recipes from answers: `groundup init`.

Reading order:
    init_recipe.py         a recipe from a few answers
    init_offers.py         plans side by side for money, hardware and time
    init_model_recipe.py   a recipe for a model that exists
    init_examples.py       examples for the goals search and classify
    init_pairs.py          pairs for the goals translate and summarize
"""
