"""What the driver sends to the machines of a cluster by name: it does without torch, which they load."""

import importlib

from coreset_backend.fleet.messages import Done, Machine, Order, Refused, Tasks

WORKER = "coreset_backend.fleet.ray_worker"


def embed(order: Order, weights: list[object], tasks: Tasks) -> Done | Refused:
    """As ``ray_worker.embed``."""
    done: Done | Refused = importlib.import_module(WORKER).embed(order, weights, tasks)
    return done


def describe(device: str) -> Machine:
    """As ``ray_worker.describe``."""
    machine: Machine = importlib.import_module(WORKER).describe(device)
    return machine
