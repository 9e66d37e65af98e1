"""9. Parallelism: train one model on many devices, with the results of one device.

Reading order:

    elastic_agent.py             watch the ranks of one machine: restarts, final errors
    elastic_launch.py            start the ranks of one machine
    rendezvous.py                store and process group of all ranks, common errors
    communicator.py              control messages on the CPU, checks that ranks run the same thing
    stall_detector.py            report which ranks are waited for
    mesh.py                      the device mesh of a layout
    collectives.py               differentiable collectives
    module_surgery.py            how a model is changed from outside
    tensor_parallel.py           sharded matrices, sequence parallelism
    vocab_parallel.py            sharded embedding, head and loss
    context_parallel.py          sharded sequences: all-gather, Ulysses
    ring_attention.py            sharded sequences: ring attention
    expert_parallel.py           sharded mixtures of experts
    pipeline_parallel.py         stages and schedules
    activation_checkpointing.py  recomputed activations
    fsdp.py                      sharded or replicated weights
    parallelize.py               all of the above, in order
    gradients.py                 partial sums, norm and clipping of gradients
    sharded_checkpoint.py        checkpoints that any layout reads
    comm_counter.py              bytes that collectives send

Deliberately absent: changes in the model's own code, and checks of what a layout can compute (plan/layout/parallel_layout.py).
"""

from groundup.artifacts.machine import ActivationCheckpointing
from groundup.parallel.activation_checkpointing import apply_activation_checkpointing
from groundup.parallel.comm_counter import CommCounter
from groundup.parallel.communicator import Communicator
from groundup.parallel.elastic_launch import launch_ranks
from groundup.parallel.gradients import all_reduce_partial_grads, clip_grad_norm, gradient_norm
from groundup.parallel.mesh import Mesh, build_mesh
from groundup.parallel.parallelize import ParallelModel, parallelize
from groundup.parallel.rendezvous import process_group
from groundup.recipe.layout_config import LayoutConfig

__all__ = [
    "ActivationCheckpointing",
    "CommCounter",
    "Communicator",
    "LayoutConfig",
    "Mesh",
    "ParallelModel",
    "all_reduce_partial_grads",
    "apply_activation_checkpointing",
    "build_mesh",
    "clip_grad_norm",
    "gradient_norm",
    "launch_ranks",
    "parallelize",
    "process_group",
]
