"""What devices hold of a state, and a model that gives no rules for it."""

import jax

from aetheria.plugins import MODELS

SimpleMLP = MODELS.get("SimpleMLP")


class Whole(SimpleMLP):
    """The control: the same network without rules."""

    def partition_rules(self):
        return ()


def bytes_on_each_device(tree):
    held = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return [size for size in held.values() if size]
