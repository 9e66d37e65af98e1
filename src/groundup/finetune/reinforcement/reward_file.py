"""The file of a reward function of the user's own: its code runs only if the command line names it."""

from pathlib import Path

from groundup.artifacts.errors import UserError
from groundup.recipe.reinforcement_config import RewardConfig


def function_file(reward: RewardConfig, allowed: str | None) -> Path:
    """The file of a reward function. Raises UserError unless the command line names it."""
    assert reward.function is not None
    path = Path(reward.function.rpartition(":")[0])
    if allowed is None or path.resolve() != Path(allowed).resolve():
        raise UserError(
            f"reinforcement.rewards: function {reward.function} would run code of {path}, which the command line does not allow",
            hint=f"look at the file first, then --set machine.reward_code={path}",
        )
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"reinforcement.rewards: {path}: no such file, expected path/to/file.py:function")
    return path
