"""Money, energy and emissions of device hours, from a dated table of prices that users can copy and change (prices.toml)."""

import datetime
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from groundup.artifacts.errors import UserError
from groundup.plan.hardware import DEVICES, device_spec
from groundup.recipe.recipe import BudgetConfig

BUILT_IN_PRICES = Path(__file__).with_name("prices.toml")
DATA_CENTRE_KINDS = ("gpu", "tpu")
"""Kinds of devices whose energy is multiplied by the PUE of a data centre."""

_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class DevicePrice(TypedDict):
    """Price of one device for one hour, and where and when it was read."""

    price: _Amount
    source: str


class ElectricityPrice(TypedDict):
    """Price and emissions of electricity, and what the machine and its building add to the power of a device."""

    per_kwh: _Amount
    grams_co2_per_kwh: _Amount
    pue: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    host_fraction: _Amount


class PriceTable(TypedDict):
    """The content of a file of prices."""

    currency: Annotated[str, Field(pattern=r"^\S{1,12}$")]
    date: datetime.date
    per_hour: dict[str, DevicePrice]
    electricity: ElectricityPrice


@dataclass(frozen=True)
class RunCost:
    """Cost of a run.

    Attributes:
        total, currency: price; of the electricity alone where the device has none (`is_owned`).
        per_device_hour: price of one device for an hour.
        source: where the price is from.
        energy_kwh, co2_kg: at the device's power, with its host and the building.
        energy_cost: price of that energy, part of a rented device's price.
    """

    total: float
    currency: str
    per_device_hour: float
    source: str
    energy_kwh: float
    co2_kg: float
    energy_cost: float
    is_owned: bool


@cache
def load_prices(path: str | None = None) -> PriceTable:
    """The table in `path`, or the built-in one. Raises UserError for a file that is missing or no such table."""
    file = BUILT_IN_PRICES if path is None else Path(path).expanduser()
    try:
        values: Any = tomllib.loads(file.read_text(encoding="utf-8"))
        table = TypeAdapter(PriceTable).validate_python(values)
    except OSError as error:
        raise UserError(
            f"budget.prices = {path!r}: {error.strerror}", hint=f"a copy of {BUILT_IN_PRICES}, changed"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: no TOML: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{file}: {name}: {first['msg']}", hint=f"expected the tables of {BUILT_IN_PRICES}") from None
    if unknown := [name for name in table["per_hour"] if name not in DEVICES]:
        raise UserError(f"{file}: per_hour.{unknown[0]}: unknown device", hint=f"one of {', '.join(DEVICES)}")
    return table


def run_cost(
    hours: float, hardware: str, devices: int, prices: PriceTable | None = None, price_per_hour: float | None = None
) -> RunCost:
    """Cost of `hours` on `devices`; `price_per_hour`, of one device, comes before that of the table.

    >>> cost = run_cost(10, "h100", 8, price_per_hour=2.5)
    >>> cost.total, cost.currency, round(cost.energy_kwh), round(cost.co2_kg)
    (200.0, 'USD', 101, 48)
    """
    prices = load_prices() if prices is None else prices
    device, electricity = device_spec(hardware), prices["electricity"]
    in_data_centre = device.kind in DATA_CENTRE_KINDS
    watts = device.watts * (1 + electricity["host_fraction"]) if device.kind not in ("cpu", "apple") else device.watts
    kwh = watts / 1000 * hours * devices * (electricity["pue"] if in_data_centre else 1.0)
    energy_cost = kwh * electricity["per_kwh"]
    listed = prices["per_hour"].get(hardware)
    source = "budget.price_per_hour"
    if price_per_hour is None and listed is not None:
        price_per_hour, source = listed["price"], listed["source"]
    is_owned = price_per_hour is None
    if price_per_hour is None:
        per_hour = energy_cost / (hours * devices) if hours else 0.0
        price_per_hour, source = per_hour, f"electricity at {electricity['per_kwh']:g} {prices['currency']} per kWh"
    return RunCost(
        total=price_per_hour * hours * devices, currency=prices["currency"], per_device_hour=price_per_hour,
        source=source, energy_kwh=kwh, co2_kg=kwh * electricity["grams_co2_per_kwh"] / 1000, energy_cost=energy_cost,
        is_owned=is_owned,
    )  # fmt: skip


def budget_cost(hours: float, budget: BudgetConfig) -> RunCost:
    """Cost of `hours` on the devices of a budget, at its price or the prices that it names."""
    return run_cost(hours, budget.hardware, budget.devices, load_prices(budget.prices), budget.price_per_hour)
