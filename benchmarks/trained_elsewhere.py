"""A small SimCLR run of another library, as its own examples write it; `faults_elsewhere.py` starts and disturbs it.

    PYTHONSAFEPATH=1 python benchmarks/trained_elsewhere.py lightly --images images --output out --steps 60

`lightly` is lightly's data set, transform, head and loss in a LightningModule; `stable-pretraining` is its Module, data
set, loss and Manager. Both save a checkpoint every few steps by Lightning's `ModelCheckpoint`, with `last.ckpt`. Every
step is written to `steps.jsonl` of the output: its number, its loss and its images. Without `PYTHONSAFEPATH`, a file
beside this one would be taken for the package `kernels`.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.utils.data import DataLoader

EVERY, BATCH, SIDE = 3, 8, 32


def backbone() -> nn.Module:
    """The smallest network of timm."""
    return timm.create_model("test_resnet", pretrained=False, num_classes=0)


def steps_of(lightning: Any, file: Path) -> Any:
    """A callback that writes every step of rank 0."""

    class Steps(lightning.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, number: int) -> None:
            if trainer.is_global_zero:
                images = batch[2] if isinstance(batch, list | tuple) else _indices(batch)
                line = {"step": trainer.global_step, "loss": float(outputs["loss"]), "images": list(images)}
                with file.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(line) + "\n")

    return Steps()


def _indices(batch: Any) -> list[int]:
    """The numbers of the images of a batch of stable-pretraining, wherever the views keep them."""
    if isinstance(batch, dict) and "sample_idx" in batch:
        return [int(one) for one in batch["sample_idx"]]
    first = next(iter(batch.values())) if isinstance(batch, dict) else batch[0]
    return _indices(first[0] if isinstance(first, list | tuple) else first)


def trainer_of(lightning: Any, arguments: argparse.Namespace, **further: Any) -> Any:
    """Lightning's trainer with checkpoints."""
    from_steps = {"every_n_train_steps": EVERY, "save_last": True, "save_top_k": 1}
    saves = lightning.callbacks.ModelCheckpoint(dirpath=arguments.output / "checkpoints", **from_steps)
    return lightning.Trainer(
        max_steps=arguments.steps,
        max_epochs=-1,
        accelerator="cpu",
        devices=arguments.devices,
        strategy="ddp" if arguments.devices > 1 else "auto",
        callbacks=[steps_of(lightning, arguments.output / "steps.jsonl"), saves],
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        **further,
    )


def train_lightly(arguments: argparse.Namespace) -> None:
    """Train as lightly's example of SimCLR does."""
    import pytorch_lightning as lightning
    from lightly.data import LightlyDataset
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms.simclr_transform import SimCLRTransform

    class SimCLR(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone()
            self.projection_head = SimCLRProjectionHead(self.backbone.num_features, 64, 32)
            self.criterion = NTXentLoss(temperature=0.2, gather_distributed=arguments.devices > 1)

        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            first, second = (self.projection_head(self.backbone(view)) for view in batch[0])
            return self.criterion(first, second)  # type: ignore[no-any-return]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=arguments.lr)

    lightning.seed_everything(0, workers=True, verbose=False)
    data = LightlyDataset(str(arguments.images), transform=SimCLRTransform(input_size=SIDE, gaussian_blur=0.0))
    loader = DataLoader(data, batch_size=BATCH, shuffle=True, drop_last=True, num_workers=0)
    trainer_of(lightning, arguments, logger=False).fit(SimCLR(), loader, ckpt_path=arguments.resume)


def train_stable_pretraining(arguments: argparse.Namespace) -> None:
    """Train as the README of stable-pretraining does, by its Manager."""
    import lightning.pytorch as lightning
    import stable_pretraining as spt
    from stable_pretraining import forward as forwards
    from stable_pretraining.data import transforms
    from torchvision.datasets import ImageFolder

    lightning.seed_everything(0, workers=True, verbose=False)
    view = transforms.Compose(
        transforms.RGB(),
        transforms.RandomResizedCrop((SIDE, SIDE), scale=(0.2, 1.0)),
        transforms.ColorJitter(0.4, 0.4, 0.2, 0.1, p=0.8),
        transforms.RandomHorizontalFlip(p=0.5),
        transforms.ToImage(**spt.data.static.ImageNet),
    )
    both = transforms.MultiViewTransform([view, view])
    data = spt.data.FromTorchDataset(ImageFolder(arguments.images), names=["image", "label"], transform=both)
    loader = DataLoader(data, batch_size=BATCH, shuffle=True, drop_last=True, num_workers=0)
    network = backbone()
    module = spt.Module(
        backbone=network,
        projector=nn.Sequential(nn.Linear(network.num_features, 64), nn.ReLU(), nn.Linear(64, 32)),
        forward=forwards.simclr,
        simclr_loss=spt.losses.NTXEntLoss(temperature=0.2),
        optim={"optimizer": {"type": "SGD", "lr": arguments.lr}, "scheduler": "ConstantLR"},
    )
    trainer = trainer_of(lightning, arguments, num_sanity_val_steps=0)
    resume = None if arguments.resume is None else os.path.abspath(arguments.resume)
    data_module = spt.data.DataModule(train=loader)
    spt.Manager(trainer=trainer, module=module, data=data_module, seed=0, ckpt_path=resume, weights_only=False)()


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trainer", choices=["lightly", "stable-pretraining"])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--resume")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    {"lightly": train_lightly, "stable-pretraining": train_stable_pretraining}[arguments.trainer](arguments)


if __name__ == "__main__":
    main()
