"""9. Many devices: a whole model becomes the parts of many ranks, and trains as it would have on one.

Reading order: `launch` (starting many), `world` (being one of them), `watch` (who waits for whom), `mesh` (who works
with whom), `collectives` (what ranks say to each other), `parts` (what of a model the axes take hold of); then an
axis each: `tensor` with `vocabulary`, `context` with `ring`, `expert`, `pipeline`, `recompute`, `shard`; `apply` (all
of them, in one order); `gradients` (what is left to do after the backward pass) and `storage` (a state that any other
layout can read).

Deliberately absent: any trace of this in the model, and refusals, which are the plan's (plan/parallel_layout.py).
"""

from groundup.parallel.mesh import Mesh, build_mesh
from groundup.parallel.parallelize import ParallelModel, parallelize
from groundup.parallel.rendezvous import process_group

__all__ = ["Mesh", "ParallelModel", "build_mesh", "parallelize", "process_group"]
