"""A model trained on two processes, each with its half of the batch."""

import os

import torch
import torch.distributed as dist
from torch import nn

from smnn_torch import HERMITE, MechanisticODE


def train(rank, world):
    dist.init_process_group(
        "gloo", rank=rank, world_size=world
    )  # "nccl" on GPUs
    torch.set_default_dtype(torch.float64)

    torch.manual_seed(
        0
    )  # the same data everywhere; each process takes its share
    stiffness = 1 + 3 * torch.rand(64, 1)
    data = torch.cos(stiffness.sqrt() * 0.1 * torch.arange(50))
    share = data[rank::world]

    step_sizes = torch.tensor([0.1])
    ode = MechanisticODE(
        64,
        n_steps=50,
        order=3,
        n_initial_orders=2,
        step_sizes=step_sizes,
        scheme=HERMITE,
    )
    model = nn.parallel.DistributedDataParallel(
        nn.Sequential(nn.Linear(50, 64), nn.Tanh(), ode)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    for step in range(101):
        y = model(share)[..., 0, 0]
        loss = (y - share).square().mean()
        optimizer.zero_grad()
        loss.backward()  # averages the gradients of all processes
        optimizer.step()
        if step % 50 == 0:
            total = loss.detach()
            dist.all_reduce(total)
            if rank == 0:
                print(
                    f"step {step:3d}: loss {total.item() / world:.4f}, "
                    f"{world} processes",
                    flush=True,
                )

    weight = next(model.parameters()).detach()
    others = [torch.empty_like(weight) for _ in range(world)]
    dist.all_gather(others, weight)
    if rank == 0:
        print(
            "the same weights everywhere:",
            all(torch.equal(weight, other) for other in others),
            flush=True,
        )
    dist.barrier()  # all have finished
    # Not destroy_process_group: the destructor of the gloo group can wait,
    # with the interpreter's lock, for a thread that waits for the lock. It is
    # rare, and has nothing to do with this library.
    os._exit(0)


if __name__ == "__main__":
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29517",
    }  # torchrun sets these, and starts the processes
    torch.multiprocessing.spawn(train, args=(2,), nprocs=2)
