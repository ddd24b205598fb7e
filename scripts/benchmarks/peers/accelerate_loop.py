"""Hugging Face Accelerate: the loop of its tutorial around what `prepare` returns. It logs the loss
every 100 steps, and has neither progress bar nor checkpoints.
"""

from accelerate import Accelerator
from torch.nn import functional as F

from benchmarks.peers import twins
from benchmarks.report import Stopwatch, read_spec


def main():
    """Measures."""
    spec, watch = read_spec(), Stopwatch()
    accelerator = Accelerator(
        cpu=spec["device"] == "cpu",
        mixed_precision="bf16" if spec["config"]["mixed_precision"] else "no",
    )
    network = twins.make_network(spec)
    optimizer, schedule = twins.make_optimizer(spec, network)
    network, optimizer, loader, schedule = accelerator.prepare(
        network, optimizer, twins.make_loader(spec), schedule
    )
    number, total, loss = 0, spec["warmup"] + spec["num_steps"], None
    while number < total:
        for inputs, labels in loader:
            if number == spec["warmup"]:
                twins.wait(spec["device"])
                watch.start()
            optimizer.zero_grad()
            loss = F.cross_entropy(network(inputs), labels)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(network.parameters(), spec["model"]["max_grad_norm"])
            optimizer.step()
            schedule.step()
            number += 1
            if number % 100 == 0:
                accelerator.print(f"step {number} loss {loss.item():.4f}")
            if number == total:
                break
    twins.write_loop(spec, watch, network, loss, ("accelerate", "torch"))


if __name__ == "__main__":
    main()
