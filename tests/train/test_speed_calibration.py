"""Measured speed of this machine beside the planner's table."""

from groundup.plan.shape.model_shape import config_for_width
from groundup.recipe.train_config import TrainConfig
from groundup.train.micro_batch import DEFAULT_TOKENS
from groundup.train.speed_calibration import calibrate_speed


def test_calibration_is_planned_by_measured_seconds():
    config = config_for_width(64, 512, {"context_length": 64, "num_layers": 4})
    training = TrainConfig(batch_tokens=256, sequence_length=64)
    found = calibrate_speed("cpu-2", config, training)
    assert found.measured > 0
    assert found.relative_speed == float(f"{found.planned / found.measured:.3g}")
    fast = calibrate_speed(
        "h100", config, training
    )  # the same seconds, beside the plan of a device that only launches kernels
    assert fast.planned < found.planned / 10


def test_an_encoder_decoder_is_calibrated_by_a_decoder():
    t5 = config_for_width(64, 512, {"context_length": 64, "architecture": "encoder_decoder", "num_layers": 2})
    assert calibrate_speed("cpu-2", t5, TrainConfig(batch_tokens=128, sequence_length=64)).measured > 0


def test_blocks_and_micro_batches_are_counted(monkeypatch):
    """Two micro-batches of a step are measured, not taken for one."""

    def seconds(config, training, length, rows, count, device):
        return 1.0 + 2.0 * count + config.num_layers * (3.0 + 5.0 * count)

    monkeypatch.setattr("groundup.train.speed_calibration._step_seconds", seconds)
    config = config_for_width(64, 512, {"context_length": 64, "num_layers": 4})
    for micro_batches in (1, 2, 3, 8):
        training = TrainConfig(batch_tokens=micro_batches * DEFAULT_TOKENS["cpu"], sequence_length=64)
        expected = 1.0 + 2.0 * micro_batches + 4 * (3.0 + 5.0 * micro_batches)
        assert calibrate_speed("cpu-2", config, training).measured == expected
