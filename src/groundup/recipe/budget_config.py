"""[budget]: hardware, time and price of a run, from which the plan derives what the recipe leaves open."""

from groundup.recipe.base_config import BaseConfig, knob


class BudgetConfig(BaseConfig):
    hardware: str = knob("cpu-2", "device that the plan is made for: a name from its table, such as cpu-2 or h100")
    devices: int = knob(1, "number of such devices, over all machines", ge=1)
    hours: float | None = knob(
        None,
        "hours of pretraining; sets the compute from which model size and tokens are derived",
        unset="model.hidden_size and train.tokens set the compute",
        gt=0,
    )
    tokens_per_parameter: float = knob(
        20.0,
        "training tokens per parameter; 20 is compute-optimal (Hoffmann et al. 2022), more gives a smaller model",
        gt=0,
    )
    price_per_hour: float | None = knob(
        None, "price of one device for one hour, in any currency", unset="no cost is shown", ge=0
    )
