"""One contestant of `rivals.py`: a run of SimCLR, VICReg, BYOL or DINO as its library's documentation writes it.

    PYTHONSAFEPATH=1 python benchmarks/rival_trainers.py lightly simclr --images images/train --output out --seconds 90

`ours` is `ssl_inv.pretrain`; `lightly` is the plain loop of lightly's examples, with its data set, transform, head and
loss; `stable-pretraining` is its Module, forward function, loss, data set, transforms and Manager, with its default
callbacks. All have the same backbone, batch, policy of augmentation, optimiser and widths of heads. `rivals.py` reads
the files that this process leaves: the backbone's weights after some seconds and after some steps, and `facts.json`.
"""

import argparse
import contextlib
import copy
import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

SIDE, LOCAL_SIDE, LOCAL_CROPS = 32, 16, 4
MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
RATE, DECAY = 1e-3, 0.01  # of AdamW, on every parameter, without schedule: the length of a run is not known
HIDDEN, WIDTHS = 512, {"simclr": 128, "vicreg": 512, "byol": 256, "dino": 128}
PROTOTYPES, MOMENTUM = 1024, 0.99
TEMPERATURE, STUDENT, TEACHER = 0.5, 0.1, 0.04
SMALLEST, STRENGTH, JITTER, GREY = 0.2, 0.5, 0.8, 0.2  # SimCLR's policy for small images, without blur
GLOBAL_SCALE, LOCAL_SCALE, SOLARISE = (0.4, 1.0), (0.1, 0.4), 0.2


def backbone(channels: Iterable[int]) -> nn.Module:
    """Timm's resnet18 with a 3x3 stem of stride 2 and no max-pool, as `stem: 3x3-stride2` makes it."""
    network: Any = timm.create_model("resnet18", pretrained=False, num_classes=0, channels=tuple(channels))
    network.conv1 = nn.Conv2d(3, network.bn1.num_features, 3, stride=2, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network  # type: ignore[no-any-return]


def peak_mb() -> float:
    """The largest memory that this process has had, in MB.

    From Linux's status file: what `getrusage` says begins with the memory of the process that has started this one.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@dataclass
class Clock:
    """Keeps the backbone after some seconds and after some steps, and then ends the process.

    The time begins when everything is imported, before data and networks are made.

    Attributes:
        output: the folder of the files.
        batch: images in a step.
        seconds: when the first are kept.
        steps: when the second are kept.
        kind: `processor`, the time that all threads of this process have computed, or `wall`.
    """

    output: Path
    batch: int
    seconds: float
    steps: int
    kind: str
    step: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    def now(self) -> float:
        """The time."""
        return time.process_time() if self.kind == "processor" else time.perf_counter()

    def begin(self) -> None:
        """Everything is imported."""
        self.facts["imported_mb"] = peak_mb()
        self.wall, self.begun = time.perf_counter(), self.now()

    def stepped(self, network: nn.Module) -> None:
        """The optimiser has made a step."""
        passed = self.now() - self.begun
        self.step += 1
        if self.step == 1:
            self.facts["first_step_s"] = passed
        if self.step == self.steps:
            self.keep(network, "steps", passed)
        if passed >= self.seconds and "at_seconds" not in self.facts:
            self.facts["wall_s"] = time.perf_counter() - self.wall
            self.facts["peak_mb"] = peak_mb()
            since_first = passed - self.facts["first_step_s"]
            self.facts["images_per_s"] = self.batch * (self.step - 1) / since_first
            self.keep(network, "seconds", passed)
        if {"at_steps", "at_seconds"} <= self.facts.keys():
            # Whatever a library does after its last step is no part of the comparison.
            (self.output / "facts.json").write_text(json.dumps(self.facts), encoding="utf-8")
            sys.stdout.flush()
            os._exit(0)

    def keep(self, network: nn.Module, when: str, passed: float) -> None:
        """Keep the backbone, without its cost on the clock."""
        before = self.now()
        torch.save(copy.deepcopy(network.state_dict()), self.output / f"{when}.pt")
        self.facts[f"at_{when}"] = {"step": self.step, "passed_s": passed}
        self.begun += self.now() - before


CLOCK: Clock
"""The clock of this process."""


# Ours.

VIEWS = {"name": "simclr", "min_scale": SMALLEST, "strength": STRENGTH, "jitter": JITTER, "grey": GREY, "blur": 0}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "simclr": {"projector": [HIDDEN, WIDTHS["simclr"]], "temperature": TEMPERATURE},
    "vicreg": {"projector": [HIDDEN, HIDDEN, WIDTHS["vicreg"]], "invariance": 25, "variance": 25, "covariance": 1},
    "byol": {"projector": [HIDDEN, WIDTHS["byol"]], "predictor": [HIDDEN], "momentum": MOMENTUM},
    "dino": {
        **{"local_crops": LOCAL_CROPS, "local_size": LOCAL_SIDE, "local_scale": list(LOCAL_SCALE)},
        **{"projector": [HIDDEN, HIDDEN, WIDTHS["dino"]], "batch_norm": True, "prototypes": PROTOTYPES},
        **{"frozen_prototypes": 0.0, "student_temperature": STUDENT, "teacher_temperature": TEACHER},
        "momentum": MOMENTUM,
    },
}


def ours(method: str, options: argparse.Namespace) -> None:
    """`ssl_inv.pretrain`, without monitor and evaluation."""
    import ssl_inv

    dino = {"name": "dino", "scale": list(GLOBAL_SCALE), "blur": [0, 0, 0], "solarise": [0.0, SOLARISE, 0.0]}
    recipe = {
        "objective": {"name": method, **OBJECTIVES[method]},
        "backbone": {"name": "resnet18", "stem": "3x3-stride2", "arguments": {"channels": options.channels}},
        "data": {"name": "folder", "path": str(options.images), "size": SIDE},
        "augmentation": dino if method == "dino" else VIEWS,
        "normalization": {"mean": MEAN, "std": STD},
        "optimizer": {"name": "adamw", "lr": RATE, "weight_decay": DECAY, "decay_norm_and_bias": True}
        | {"schedule": "constant", "warmup": 0.0},
        # The run ends by the clock. With so many steps, momentum and temperatures stay where they begin.
        "trainer": {"steps": 10_000_000, "batch_size": options.batch, "workers": 0, "seed": options.seed}
        | {"accelerator": "cpu", "callbacks": [{"name": "rival_trainers.OurSteps"}]},
        "monitor": {"every": 0},
        "evaluation": {"protocol": "none"},
    }
    # The callback stands in this file, which was started as a program: the module of its name must not be another one.
    sys.modules["rival_trainers"] = sys.modules["__main__"]
    import pytorch_lightning  # noqa: F401 - an import, which is not timed

    import ssl_inv.run.pretrain

    CLOCK.begin()
    ssl_inv.pretrain(recipe, output=options.output / "run", quiet=True, trust=["rival_trainers"])


def _our_steps() -> type:
    """The callback that tells the clock of our steps."""
    import pytorch_lightning

    class OurSteps(pytorch_lightning.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, number: int) -> None:
            CLOCK.stepped(module.backbone.model)

    OurSteps.__module__ = "rival_trainers"
    return OurSteps


def __getattr__(name: str) -> Any:
    """`OurSteps`, a class of a library that other contestants may not have."""
    if name == "OurSteps":
        return _our_steps()
    raise AttributeError(name)


# lightly, as its examples in plain PyTorch.


def lightly(method: str, options: argparse.Namespace) -> None:
    """The loop of lightly's examples."""
    from lightly import loss as losses
    from lightly.data import LightlyDataset
    from lightly.models.modules import heads
    from lightly.models.utils import deactivate_requires_grad, update_momentum
    from lightly.transforms import DINOTransform, SimCLRTransform

    CLOCK.begin()
    torch.manual_seed(options.seed)
    normalize = {"mean": MEAN, "std": STD}
    network = backbone(options.channels)
    width, out = network.num_features, WIDTHS[method]
    # The examples of VICReg and BYOL have other policies of their own; here all contestants have one.
    pair = {"min_scale": SMALLEST, "cj_strength": STRENGTH, "cj_prob": JITTER, "random_gray_scale": GREY}
    transform: Any = SimCLRTransform(input_size=SIDE, **pair, gaussian_blur=0.0, normalize=normalize)
    dino_head = heads.DINOProjectionHead
    parts: dict[str, Any]
    if method == "simclr":
        parts = {"head": heads.SimCLRProjectionHead(width, HIDDEN, out)}
        criterion: Any = losses.NTXentLoss(temperature=TEMPERATURE)
    elif method == "vicreg":
        parts = {"head": heads.VICRegProjectionHead(width, HIDDEN, out, num_layers=3)}
        criterion = losses.VICRegLoss()
    elif method == "byol":
        parts = {"head": heads.BYOLProjectionHead(width, HIDDEN, out)}
        parts["prediction"] = heads.BYOLPredictionHead(out, HIDDEN, out)
        criterion = losses.NegativeCosineSimilarity()
    else:
        transform = DINOTransform(
            global_crop_size=SIDE,
            global_crop_scale=GLOBAL_SCALE,
            local_crop_size=LOCAL_SIDE,
            local_crop_scale=LOCAL_SCALE,
            n_local_views=LOCAL_CROPS,
            gaussian_blur=(0.0, 0.0, 0.0),
            solarization_prob=SOLARISE,
            normalize=normalize,
        )
        parts = {"head": dino_head(width, HIDDEN, out, PROTOTYPES, batch_norm=True)}
        criterion = losses.DINOLoss(output_dim=PROTOTYPES, teacher_temp=TEACHER, warmup_teacher_temp_epochs=0)
    student = nn.ModuleDict({"backbone": network, **parts})
    teacher: Any = None
    if method in ("byol", "dino"):
        # DINO's head cannot be copied; lightly's example makes a second one, which here begins with the same weights.
        again = method == "dino"
        head = dino_head(width, HIDDEN, out, PROTOTYPES, batch_norm=True) if again else copy.deepcopy(parts["head"])
        head.load_state_dict(parts["head"].state_dict())
        teacher = nn.ModuleDict({"backbone": copy.deepcopy(network), "head": head})
        deactivate_requires_grad(teacher)

    def loss_of(views: list[Tensor]) -> Tensor:
        if method in ("simclr", "vicreg"):
            first, second = (student["head"](network(view)) for view in views)
            return criterion(first, second)  # type: ignore[no-any-return]
        for name in ("backbone", "head"):
            update_momentum(student[name], teacher[name], m=MOMENTUM)
        if method == "byol":
            predicted = [student["prediction"](student["head"](network(view))) for view in views]
            with torch.no_grad():
                targets = [teacher["head"](teacher["backbone"](view)) for view in views]
            return 0.5 * (criterion(predicted[0], targets[1]) + criterion(predicted[1], targets[0]))  # type: ignore[no-any-return]
        with torch.no_grad():
            taught = [teacher["head"](teacher["backbone"](view)) for view in views[:2]]
        told = [student["head"](network(view)) for view in views]
        return criterion(taught, told, epoch=0)  # type: ignore[no-any-return]

    data = LightlyDataset(str(options.images), transform=transform)
    loader = DataLoader(data, batch_size=options.batch, shuffle=True, drop_last=True, num_workers=0)
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=DECAY)
    student.train()
    while True:
        for batch in loader:
            loss = loss_of(batch[0])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            CLOCK.stepped(network)


# stable-pretraining, as its README.


class _AnySize(nn.Module):
    """A network that, as `forward.dino` asks, takes a word on how to fit other sizes; a ResNet needs none."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        return self.network(pixels)  # type: ignore[no-any-return]


def _mlp(widths: Iterable[int], activation: type[nn.Module] = nn.ReLU) -> list[nn.Module]:
    """Linear, normalisation over the batch and activation for all widths but the last, then Linear."""
    inputs, *outputs = widths
    layers: list[nn.Module] = []
    for width in outputs[:-1]:
        layers += [nn.Linear(inputs, width), nn.BatchNorm1d(width), activation()]
        inputs = width
    return [*layers, nn.Linear(inputs, outputs[-1])]


class _Normalised(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return nn.functional.normalize(rows, dim=-1)


def stable_pretraining(method: str, options: argparse.Namespace) -> None:
    """Module, forward function, DataModule and Manager."""
    import lightning.pytorch as lightning
    import stable_pretraining as spt
    from stable_pretraining import forward as forwards
    from stable_pretraining.data import transforms
    from torchvision.datasets import ImageFolder

    CLOCK.begin()
    lightning.seed_everything(options.seed, workers=True, verbose=False)

    def view(side: int, scale: tuple[float, float], saturation: float, solarise: float = 0.0) -> Any:
        further = [transforms.RandomSolarize(128, p=solarise)] if solarise else []
        return transforms.Compose(
            transforms.RGB(),
            transforms.RandomResizedCrop((side, side), scale=scale),
            transforms.RandomHorizontalFlip(p=0.5),
            transforms.ColorJitter(0.8 * STRENGTH, 0.8 * STRENGTH, saturation, 0.2 * STRENGTH, p=JITTER),
            transforms.RandomGrayscale(p=GREY),
            *further,
            transforms.ToImage(mean=MEAN, std=STD),
        )

    def taught(network: nn.Module) -> Any:
        return spt.TeacherStudentWrapper(network, base_ema_coefficient=MOMENTUM, final_ema_coefficient=MOMENTUM)

    network = backbone(options.channels)
    width, out = int(network.num_features), WIDTHS[method]  # type: ignore[arg-type]
    both: Any = transforms.MultiViewTransform([view(SIDE, (SMALLEST, 1.0), 0.8 * STRENGTH)] * 2)
    parts: dict[str, Any]
    if method == "simclr":
        parts = {"backbone": network, "projector": nn.Sequential(*_mlp((width, HIDDEN, out)))}
        parts["simclr_loss"] = spt.losses.NTXEntLoss(temperature=TEMPERATURE)
    elif method == "vicreg":
        parts = {"backbone": network, "projector": nn.Sequential(*_mlp((width, HIDDEN, HIDDEN, out)))}
        parts["vicreg_loss"] = spt.losses.VICRegLoss()
    elif method == "byol":
        parts = {"backbone": taught(network), "projector": taught(nn.Sequential(*_mlp((width, HIDDEN, out))))}
        parts |= {"predictor": nn.Sequential(*_mlp((out, HIDDEN, out))), "byol_loss": spt.losses.BYOLLoss()}
    else:
        crops = {
            "global_1": view(SIDE, GLOBAL_SCALE, 0.2),
            "global_2": view(SIDE, GLOBAL_SCALE, 0.2, SOLARISE),
            **{f"local_{number}": view(LOCAL_SIDE, LOCAL_SCALE, 0.2) for number in range(LOCAL_CROPS)},
        }
        both = transforms.MultiViewTransform(crops)
        layers = _mlp((width, HIDDEN, HIDDEN, out), nn.GELU)
        head = nn.Sequential(*layers, _Normalised(), nn.Linear(out, PROTOTYPES, bias=False))
        parts = {"backbone": taught(_AnySize(network)), "projector": taught(head)}
        parts |= {"dino_loss": spt.losses.DINOv1Loss(temperature_student=STUDENT), "temperature_teacher": TEACHER}

    class Steps(lightning.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, number: int) -> None:
            CLOCK.stepped(network)

    data = spt.data.FromTorchDataset(ImageFolder(options.images), names=["image", "label"], transform=both)
    loader = DataLoader(data, batch_size=options.batch, shuffle=True, drop_last=True, num_workers=0)
    optimizer = {"type": "AdamW", "lr": RATE, "weight_decay": DECAY}
    module = spt.Module(
        forward=getattr(forwards, method),
        optim={"optimizer": optimizer, "scheduler": "ConstantLR"},
        **parts,
    )
    trainer = lightning.Trainer(
        max_epochs=-1,
        accelerator="cpu",
        devices=1,
        callbacks=[Steps()],
        logger=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
    )
    spt.Manager(trainer=trainer, module=module, data=spt.data.DataModule(train=loader), seed=options.seed)()


TRAINERS = {"ours": ours, "lightly": lightly, "stable-pretraining": stable_pretraining}


def main() -> None:
    """Train until the clock ends the process."""
    global CLOCK
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=TRAINERS)
    parser.add_argument("method", choices=OBJECTIVES)
    parser.add_argument("--images", type=Path, required=True, help="folder with a folder for every class")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--clock", choices=["processor", "wall"], default="processor")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--channels", type=int, nargs=4, default=[16, 32, 64, 128])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.images, options.output = options.images.resolve(), options.output.resolve()
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    CLOCK = Clock(options.output, options.batch, options.seconds, options.steps, options.clock)
    with contextlib.chdir(options.output):  # Libraries write logs where they are started.
        TRAINERS[vars(options)["library"]](options.method, options)


if __name__ == "__main__":
    main()
