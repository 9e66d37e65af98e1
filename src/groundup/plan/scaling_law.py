"""How low will the loss be? A power law through small models, and what it says of a larger one.

At a fixed number of tokens for each parameter the loss falls as L(N) = E + A N^-a (Kaplan et al. 2020, section 3; with
tokens in proportion to N, Hoffmann et al. 2022, equation 2, comes to the same form when both exponents are alike). E is
what no model of this text can go below, N the parameters.
"""

from dataclasses import asdict, dataclass
from typing import Any

from groundup.artifacts.errors import UserError

MIN_POINTS = 4
"""Three numbers are fitted: with fewer points nothing is left to tell how well."""

EXPONENT_GRID = (0.02, 1.2, 400)
"""Where the exponent is looked for: published ones lie between 0.05 and 0.5."""

NUM_SAMPLES = 1000


@dataclass(frozen=True)
class ScalingLaw:
    """L(N) = floor + scale * (N / unit) ** -exponent, as equally likely draws: their spread is the uncertainty."""

    unit: float
    floors: list[float]
    scales: list[float]
    exponents: list[float]

    def predict(self, parameters: float) -> dict[str, float]:
        """The loss of a model of so many parameters: the median, and the bounds of the middle 90%."""
        import numpy as np

        losses = np.array(self.floors) + np.array(self.scales) * (parameters / self.unit) ** -np.array(
            self.exponents
        )
        low, median, high = np.quantile(losses, (0.05, 0.5, 0.95))
        return {"loss": float(median), "low": float(low), "high": float(high)}

    def medians(self) -> dict[str, float]:
        """The medians of floor, scale and exponent, and the unit of N."""
        import numpy as np

        medians = {name: float(np.median(values)) for name, values in asdict(self).items() if name != "unit"}
        return {"unit": self.unit, **medians}


def fit_scaling_law(parameters: list[float], losses: list[float], seed: int = 0) -> ScalingLaw:
    """The laws that fit, each as often as it is likely.

    Bayes with flat priors on floor, scale, exponent and the logarithm of the noise: given the exponent the rest is
    linear regression (Gelman et al., Bayesian Data Analysis, section 14.2), so that the exponent's likelihood is exact
    on a grid. Draws with a negative floor or scale are no laws and are left out.
    Raises UserError for fewer than four different sizes, or where the loss does not fall with size.
    """
    import numpy as np

    sizes, values = np.array(parameters, float), np.array(losses, float)
    if len(np.unique(sizes)) < MIN_POINTS:
        raise UserError(
            f"a law needs {MIN_POINTS} sizes, and there are {len(np.unique(sizes))}",
            hint="more rungs, or a larger budget",
        )
    rng = np.random.default_rng(seed)
    unit = float(np.exp(np.log(sizes).mean()))
    grid = np.linspace(*EXPONENT_GRID)
    rows = np.stack([np.ones((len(grid), len(sizes))), (sizes / unit) ** -grid[:, None]], axis=-1)  # grid N 2
    normal = np.swapaxes(rows, 1, 2) @ rows
    inverse = np.linalg.inv(normal)
    centre = (inverse @ np.swapaxes(rows, 1, 2) @ values[:, None])[..., 0]
    squares = ((values - (rows @ centre[..., None])[..., 0]) ** 2).sum(axis=1)
    freedom = len(sizes) - 2
    squares = np.maximum(squares, 1e-12 * values.var() * len(sizes))  # points exactly on a law leave no noise
    likelihood = -0.5 * np.linalg.slogdet(normal)[1] - freedom / 2 * np.log(squares)
    chance = np.exp(likelihood - likelihood.max())
    place = rng.choice(len(grid), size=4 * NUM_SAMPLES, p=chance / chance.sum())
    noise = squares[place] / rng.chisquare(freedom, len(place))
    spread = np.linalg.cholesky(inverse[place]) @ rng.standard_normal((len(place), 2, 1))
    drawn = centre[place] + np.sqrt(noise)[:, None] * spread[..., 0]
    laws = (drawn > 0).all(axis=1)
    if laws.sum() < NUM_SAMPLES // 10:
        raise UserError(
            f"the loss does not fall with size: {', '.join(f'{value:.3f}' for value in losses)}",
            hint="train the rungs longer, or set a learning rate that suits all of them",
        )
    drawn, exponents = drawn[laws][:NUM_SAMPLES], grid[place][laws][:NUM_SAMPLES]
    return ScalingLaw(unit, drawn[:, 0].tolist(), drawn[:, 1].tolist(), exponents.tolist())


def holdout_check(parameters: list[float], losses: list[float]) -> dict[str, Any] | None:
    """What the law of all sizes but the largest says of the largest, beside what that one reached; None for too few."""
    order = sorted(range(len(parameters)), key=parameters.__getitem__)
    if len(order) <= MIN_POINTS:
        return None
    *small, large = order
    try:
        law = fit_scaling_law([parameters[i] for i in small], [losses[i] for i in small])
    except UserError:
        return None
    return {"parameters": parameters[large], "reached": losses[large], **law.predict(parameters[large])}
