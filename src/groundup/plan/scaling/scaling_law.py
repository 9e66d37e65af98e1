"""Scaling law: fit of loss against model size, with uncertainty, and extrapolation.

At a fixed number of tokens per parameter L(N) = E + A N^-a (Kaplan et al. 2020, section 3; Hoffmann et al. 2022,
equation 2, with equal exponents), where N is the number of parameters and E the irreducible loss.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from groundup.artifacts.errors import UserError

MIN_POINTS = 4
"""The fit has three parameters; fewer points leave no residual."""

SAME_SIZE, SAME_LOSS = 1e-3, 1e-9
"""Relative differences below which two sizes, or all losses, count as equal: the regression would divide by them."""

EXPONENT_GRID = (0.02, 1.2, 400)
"""Lowest, highest and number of exponents tried; published ones lie between 0.05 and 0.5."""

NUM_SAMPLES = 1000


@dataclass(frozen=True)
class ScalingLaw:
    """Posterior samples of L(N) = floor + scale * (N / unit) ** -exponent."""

    unit: float
    floors: list[float]
    scales: list[float]
    exponents: list[float]

    def predict(self, parameters: float) -> dict[str, float]:
        """Loss at a number of parameters: median, and the bounds of the 90% interval."""
        import numpy as np

        if not 0 < parameters < math.inf:
            raise UserError(
                f"parameters = {parameters}, expected a finite number above 0", hint="pass the model's size"
            )
        losses = np.array(self.floors) + np.array(self.scales) * (parameters / self.unit) ** -np.array(self.exponents)
        low, median, high = np.quantile(losses, (0.05, 0.5, 0.95))
        return {"loss": float(median), "low": float(low), "high": float(high)}

    def medians(self) -> dict[str, float]:
        """Medians of floor, scale and exponent, and the unit of N."""
        import numpy as np

        medians = {name: float(np.median(values)) for name, values in asdict(self).items() if name != "unit"}
        return {"unit": self.unit, **medians}


def fit_scaling_law(parameters: list[float], losses: list[float], seed: int = 0) -> ScalingLaw:
    """Bayesian fit with flat priors on floor, scale, exponent and log noise.

    Given the exponent, the rest is linear regression (Gelman et al., Bayesian Data Analysis, section 14.2), so its
    likelihood is exact on a grid. Samples with a negative floor or scale are rejected.
    Raises UserError for fewer than four distinct sizes, for values that are not finite and positive, or if the loss does
    not fall with size.

    >>> law = fit_scaling_law([1e6, 2e6, 4e6, 8e6], [1.71, 1.54, 1.40, 1.29])
    >>> round(law.predict(64e6)["loss"], 1)
    1.1
    """
    import numpy as np

    _check_points(parameters, losses)
    sizes, values = np.array(parameters, float), np.array(losses, float)
    rng = np.random.default_rng(seed)
    unit = float(np.exp(np.log(sizes).mean()))
    grid = np.linspace(*EXPONENT_GRID)
    design = np.stack([np.ones((len(grid), len(sizes))), (sizes / unit) ** -grid[:, None]], axis=-1)  # grid N 2
    normal = np.swapaxes(design, 1, 2) @ design
    inverse = np.linalg.inv(normal)
    mean = (inverse @ np.swapaxes(design, 1, 2) @ values[:, None])[..., 0]
    squares = ((values - (design @ mean[..., None])[..., 0]) ** 2).sum(axis=1)
    freedom = len(sizes) - 2
    squares = np.maximum(squares, 1e-12 * values.var() * len(sizes))  # noise > 0
    likelihood = -0.5 * np.linalg.slogdet(normal)[1] - freedom / 2 * np.log(squares)
    weight = np.exp(likelihood - likelihood.max())
    index = rng.choice(len(grid), size=4 * NUM_SAMPLES, p=weight / weight.sum())
    noise = squares[index] / rng.chisquare(freedom, len(index))
    deviation = np.linalg.cholesky(inverse[index]) @ rng.standard_normal((len(index), 2, 1))
    samples = mean[index] + np.sqrt(noise)[:, None] * deviation[..., 0]
    valid = (samples > 0).all(axis=1)
    if valid.sum() < NUM_SAMPLES // 10:
        raise UserError(
            f"the loss does not fall with size: {', '.join(f'{value:.3f}' for value in losses)}",
            hint="train the small models longer, or set a learning rate that suits all of them",
        )
    samples, exponents = samples[valid][:NUM_SAMPLES], grid[index][valid][:NUM_SAMPLES]
    return ScalingLaw(unit, samples[:, 0].tolist(), samples[:, 1].tolist(), exponents.tolist())


def _check_points(parameters: Sequence[float], losses: Sequence[float]) -> None:
    if len(parameters) != len(losses):
        raise UserError(
            f"{len(parameters)} model sizes and {len(losses)} losses, expected as many of one as of the other",
            hint="pass one loss for each size",
        )
    for name, values in (("model size", parameters), ("loss", losses)):
        for index, value in enumerate(values):
            if value is None or not 0 < value < math.inf:
                raise UserError(
                    f"{name} {index + 1} of {len(values)} is {value}, expected a finite number above 0",
                    hint="leave out trainings that did not finish",
                )
    sizes: list[float] = []
    for size in sorted(parameters):
        if not sizes or size > (1 + SAME_SIZE) * sizes[-1]:
            sizes.append(size)
    if len(sizes) < MIN_POINTS:
        raise UserError(
            f"{len(sizes)} distinct model sizes, expected at least {MIN_POINTS}",
            hint="more --sizes, or a larger budget",
        )
    if max(losses) - min(losses) <= SAME_LOSS * max(losses):
        raise UserError(
            f"the losses of all {len(losses)} sizes are equal ({losses[0]:g}): the loss does not fall with size",
            hint="train the small models longer, or measure on more text",
        )


def holdout_check(parameters: list[float], losses: list[float]) -> dict[str, Any] | None:
    """Prediction for the largest size from the smaller ones, and its observed loss; None for too few points."""
    order = sorted(range(len(parameters)), key=parameters.__getitem__)
    if len(order) <= MIN_POINTS:
        return None
    *small, large = order
    try:
        fitted = fit_scaling_law([parameters[i] for i in small], [losses[i] for i in small])
    except UserError:
        return None
    return {"parameters": parameters[large], "observed": losses[large], **fitted.predict(parameters[large])}
