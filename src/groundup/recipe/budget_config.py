"""[budget]: what the whole run may cost. From it the plan derives what the recipe leaves open."""

from groundup.recipe.base_config import BaseConfig, knob


class BudgetConfig(BaseConfig):
    hardware: str = knob(
        "cpu-2", "what the run is planned for: a name from the plan's table of devices, such as cpu-2, h100"
    )
    devices: int = knob(1, "how many of them", ge=1)
    hours: float | None = knob(
        None, "time for pretraining; fixes the compute from which size and tokens follow", gt=0
    )
    tokens_per_parameter: float = knob(
        20.0, "tokens for each parameter: 20 spends compute best (Hoffmann et al. 2022); more gives a smaller model", gt=0
    )  # fmt: skip
    price_per_hour: float | None = knob(
        None, "price of one device for an hour, in your currency; none: your own machine", ge=0
    )
