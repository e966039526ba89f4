"""The one network that all contestants train."""

from task import Task

from trainers.backbone import Network, build_network


def starting_network(task: Task) -> Network:
    """Build EfficientNet-Lite0 with its ImageNet weights and a fresh head; takes values in 0..1."""
    network = build_network(task.schedule, task.n_classes, task.seed)
    sites = task.schedule.dropout_sites
    network.set_dropout(task.schedule.stages[0].site_dropout(sites))
    return network
