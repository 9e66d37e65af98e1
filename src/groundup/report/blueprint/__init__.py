"""Blueprint: the plan of a recipe as a document, for those who pay for it and those who build it.

    blueprint_facts.py     everything it says, computed from a plan
    model_drawing.py       the model with the shapes of its weights
    blueprint_plots.py     scaling, memory, timeline and cost
    design_sections.py     goal, model, data, storage, tokenizer, scaling, training
    resource_sections.py   memory, time, money, interruptions
    decision_sections.py   alternatives, evaluation, deployment, recipe, commands

Deliberately absent: measurements. Every number is of the plan, and names its source.
"""
