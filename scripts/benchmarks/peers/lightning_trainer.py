"""PyTorch Lightning's Trainer: progress bar, TensorBoard every 100 steps, checkpoints."""

import lightning
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch.nn import functional as F

from benchmarks.peers import twins
from benchmarks.report import Stopwatch, read_spec, write_speed


class Module(lightning.LightningModule):
    """A work as Lightning wants it."""

    def __init__(self, spec):
        super().__init__()
        self.spec, self.network = spec, twins.make_network(spec)

    def training_step(self, batch, index):
        inputs, labels = batch
        loss = F.cross_entropy(self.network(inputs), labels)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer, schedule = twins.make_optimizer(self.spec, self.network)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class Clock(Callback):
    """Starts the watch after the warm-up, and stops it after the last step."""

    def __init__(self, spec, watch):
        self.spec, self.watch, self.loss = spec, watch, None

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if trainer.global_step == self.spec["warmup"]:
            twins.wait(self.spec["device"])
            self.watch.start()
        elif trainer.global_step == self.spec["warmup"] + self.spec["num_steps"]:
            self.loss = float(outputs["loss"])
            twins.wait(self.spec["device"])
            self.watch.stop()


def main():
    """Measures."""
    spec, watch = read_spec(), Stopwatch()
    module, clock = Module(spec), Clock(spec, watch)
    trainer = lightning.Trainer(
        accelerator=spec["device"],
        devices=1,
        precision="bf16-mixed" if spec["config"]["mixed_precision"] else "32-true",
        max_steps=spec["warmup"] + spec["num_steps"],
        gradient_clip_val=spec["model"]["max_grad_norm"],
        logger=TensorBoardLogger(spec["folder"]),
        log_every_n_steps=100,
        callbacks=[
            clock,
            ModelCheckpoint(spec["folder"], every_n_train_steps=spec["snapshot_every"]),
        ],
    )
    trainer.fit(module, twins.make_loader(spec))
    write_speed(
        spec,
        num_steps=spec["num_steps"],
        times=watch.times,
        num_params=sum(p.numel() for p in module.network.parameters()),
        loss=clock.loss,
        packages=("lightning", "torch"),
    )


if __name__ == "__main__":
    main()
