"""A hand-written PyTorch loop: what its own tutorials have, and clipping, a schedule, and the
fastest AdamW there is. It prints the loss every 100 steps, and has no guard, no bar, no files.
"""

import torch
from torch.nn import functional as F

from benchmarks.peers import twins
from benchmarks.report import Stopwatch, read_spec


def main():
    """Measures."""
    spec, watch = read_spec(), Stopwatch()
    device = torch.device("cuda" if spec["device"] == "gpu" else "cpu")
    network = twins.make_network(spec).to(device)
    optimizer, schedule = twins.make_optimizer(spec, network, fused=True)
    narrow = spec["config"]["mixed_precision"]
    number, total, loss = 0, spec["warmup"] + spec["num_steps"], None
    loader = twins.make_loader(spec)
    while number < total:
        for inputs, labels in loader:
            if number == spec["warmup"]:
                twins.wait(spec["device"])
                watch.start()
            inputs, labels = inputs.to(device), labels.to(device)
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=narrow):
                loss = F.cross_entropy(network(inputs), labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), spec["model"]["max_grad_norm"])
            optimizer.step()
            schedule.step()
            number += 1
            if number % 100 == 0:
                print(f"step {number} loss {loss.item():.4f}")
            if number == total:
                break
    twins.write_loop(spec, watch, network, loss, ("torch",))


if __name__ == "__main__":
    main()
