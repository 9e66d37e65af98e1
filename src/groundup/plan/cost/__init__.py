"""Money, energy, and what other plans would cost.

Reading order:
    run_cost.py            money, energy and emissions; prices.toml: the table
    plan_alternatives.py   half, double, and other hardware
"""
