"""DeepSpeed ZeRO checkpoints: equal to DeepSpeed's values script, and no code is run."""

import os
import subprocess
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.interop.zero_checkpoint import ZeroCheckpoint, is_zero_checkpoint

SHAPES = [{"a.weight": torch.Size([4, 3]), "b.weight": torch.Size([5, 1])}, {"c.bias": torch.Size([3])}]


class LossScaler:
    def __init__(self):
        self.cur_scale = 1


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/groundup-was-here",)


def weights():
    torch.manual_seed(0)
    return {name: torch.randn(shape) for group in SHAPES for name, shape in group.items()}


def write(folder, monkeypatch, stage, ranks=2, drop=None, extra=None, values=None):
    """Write the files of `ranks` ranks in DeepSpeed's layout."""
    module = ModuleType("deepspeed.runtime.fp16.loss_scaler")
    module.LossScaler = LossScaler
    monkeypatch.setattr(LossScaler, "__module__", module.__name__)
    for name in ("deepspeed", "deepspeed.runtime", "deepspeed.runtime.fp16"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    checkpoint = folder / "global_step7"
    checkpoint.mkdir(parents=True)
    (folder / "latest").write_text("global_step7")
    shapes = SHAPES if values is None else [{name: weight.shape for name, weight in values.items()}]
    values = values or weights()
    model = {"param_shapes": shapes, "mp_world_size": 1, "dp_world_size": ranks, "module": {}}
    torch.save(
        model,
        checkpoint / ("zero_pp_rank_0_mp_rank_00_model_states.pt" if stage == 3 else "mp_rank_00_model_states.pt"),
    )
    for rank in range(ranks):
        if rank == drop:
            continue
        state = {"zero_stage": stage, "loss_scaler": LossScaler(), "partition_count": ranks} | (extra or {})
        if stage == 3:
            shards = [_padded(values[name], ranks)[rank] for group in shapes for name in group]
            state["fp32_flat_groups"] = [torch.cat(shards[:2]), shards[2]]
        else:
            flat = [torch.cat([values[name].flatten() for name in group]) for group in shapes]
            state["single_partition_of_fp32_groups"] = [_padded(group, ranks)[rank] for group in flat]
        torch.save({"optimizer_state_dict": state}, checkpoint / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    return values


def _padded(tensor, ranks):
    flat = tensor.flatten()
    return torch.nn.functional.pad(flat, (0, -flat.numel() % ranks)).chunk(ranks)


@pytest.mark.parametrize("ranks", [1, 2, 12])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_weights_are_reassembled(tmp_path, monkeypatch, stage, ranks):
    values = write(tmp_path, monkeypatch, stage, ranks)
    assert is_zero_checkpoint(tmp_path)
    folder = ZeroCheckpoint(tmp_path)
    assert folder.shapes == {name: tuple(weight.shape) for name, weight in values.items()}
    for name, weight in values.items():
        assert torch.equal(folder.read(name), weight)


def test_code_in_pickles_is_not_run(tmp_path, monkeypatch):
    write(tmp_path, monkeypatch, 1, extra={"more": Evil()})
    with pytest.raises(UserError, match=r"posix\.system, expected tensors and names only"):
        ZeroCheckpoint(tmp_path)
    assert not os.path.exists("/tmp/groundup-was-here")


def test_missing_rank_and_truncated_file_are_refused(tmp_path, monkeypatch):
    write(tmp_path / "one", monkeypatch, 2, drop=1)
    with pytest.raises(UserError, match="states of 1 ranks, expected 2"):
        ZeroCheckpoint(tmp_path / "one")
    write(tmp_path / "two", monkeypatch, 2)
    file = tmp_path / "two" / "global_step7" / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        ZeroCheckpoint(tmp_path / "two")


def test_zero_checkpoint_of_a_hugging_face_model_opens(tmp_path, monkeypatch):
    from transformers import LlamaConfig, LlamaForCausalLM

    from groundup.interop import load_huggingface

    torch.manual_seed(1)
    shape = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    reference = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=4, num_key_value_heads=2)).eval()
    write(tmp_path, monkeypatch, 2, values={name: w.detach() for name, w in reference.named_parameters()})
    reference.config.save_pretrained(tmp_path)
    tokens = torch.arange(12).view(2, 6)
    ours = load_huggingface(tmp_path)
    torch.testing.assert_close(ours(tokens).logits, reference(tokens).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.interop
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed in this environment")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_equals_deepspeeds_own_script(tmp_path, stage):
    """Two ranks train a small model and save; both readers give equal bits."""
    script = tmp_path / "train.py"
    script.write_text(TRAINING)
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, script, str(stage), tmp_path], check=True, env=environment, capture_output=True)
    reference = tmp_path / "reference"
    subprocess.run(
        [sys.executable, tmp_path / "zero_to_fp32.py", tmp_path, reference, "--safe_serialization"],
        check=True, env=environment, capture_output=True,
    )  # fmt: skip
    from safetensors.torch import load_file

    right, folder = load_file(reference / "model.safetensors"), ZeroCheckpoint(tmp_path)
    assert folder.shapes.keys() == right.keys()
    for name, weight in right.items():
        assert torch.equal(folder.read(name), weight), name


TRAINING = """
import sys, torch, deepspeed
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Linear(5, 3))
zero = {"stage": int(sys.argv[1])}
config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero}
engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters()), config=config)
engine.backward(engine(torch.ones(2, 7)).sum())
engine.step()
engine.save_checkpoint(sys.argv[2])
torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "", "missing", "a" * 300])
def test_latest_with_paths_is_refused(tmp_path, monkeypatch, name):
    write(tmp_path, monkeypatch, 1)
    (tmp_path / "latest").write_text(name)
    with pytest.raises(UserError, match="expected a folder beside it"):
        ZeroCheckpoint(tmp_path)
