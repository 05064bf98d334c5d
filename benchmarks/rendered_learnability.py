"""Can a supervised ResNet-18 read the relative rotation and the class from the rendered solids?

    python benchmarks/rendered_learnability.py --size 32 --classes 16 --angle-range 45 --hue-range 0.2

Training sees fresh views of its own objects; the scores are of objects that it has never seen. R2 is the mean over the
four components of the canonical quaternion of the relative rotation, as in scikit-learn's `r2_score`; a constant
prediction scores 0.
"""

import argparse
import time

import numpy as np
import timm
import torch
from sklearn.metrics import r2_score
from torch import Tensor, nn

from ssl_inv.data.source import Indices
from ssl_inv.data.sources.rendered.source import RenderedSolids
from ssl_inv.transforms.keyed_random import distinct, permutation


class PairRegressor(nn.Module):
    """A timm resnet18 with a small stem. One head sees one view, the other the features of two."""

    def __init__(self, classes: int, stem_stride: int) -> None:
        super().__init__()
        self.backbone = timm.create_model("resnet18", num_classes=0)
        self.backbone.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=stem_stride, padding=1, bias=False)
        self.backbone.maxpool = nn.Identity()
        self.classify = nn.Linear(512, classes)
        self.relate = nn.Sequential(nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 4))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits `(2B, classes)` and relative rotations `(B, 4)`; the first half of `pixels` holds the first
        views.
        """
        features = self.backbone((pixels.float() / 255 - 0.5) / 0.25)
        return self.classify(features), self.relate(torch.cat(features.chunk(2), dim=1))


def load_pairs(source: RenderedSolids, objects: Indices, *key: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels of both views, the action between them as a canonical quaternion, and the class, for all rows."""
    views = distinct(*key, objects, population=source.view_counts[objects], count=2)
    images = source.load(np.tile(objects, 2), views.T.flatten())
    rows = torch.arange(len(objects), device=images.pixels.device)
    first, second = images.transform.select(rows), images.transform.select(rows + len(objects))
    action = first.relative(second).as_vector(["rotation"])
    classes = source.labels.classes[torch.from_numpy(objects)].repeat(2).to(images.pixels.device)
    return images.pixels, action, classes


@torch.no_grad()
def score(model: PairRegressor, source: RenderedSolids, objects: Indices, batch: int) -> tuple[float, float]:
    """R2 of the relative rotation and top-1 on one fixed pair of views per object."""
    model.eval()
    predicted, target, correct = [], [], []
    for chunk in np.array_split(objects, max(len(objects) // batch, 1)):
        pixels, action, classes = load_pairs(source, chunk, source.seed, 1)
        logits, rotation = model(pixels)
        predicted.append(rotation.cpu())
        target.append(action.cpu())
        correct.append((logits.argmax(1) == classes).float().cpu())
    model.train()
    return float(r2_score(torch.cat(target).numpy(), torch.cat(predicted).numpy())), float(torch.cat(correct).mean())


def train(arguments: argparse.Namespace) -> None:
    """Train with one-cycle AdamW on fresh pairs, and print the scores of held-out objects from time to time."""
    torch.manual_seed(arguments.seed)
    source = RenderedSolids(
        classes=arguments.classes,
        objects=arguments.objects + 1024,
        views=arguments.views,
        size=arguments.size,
        angle_range=arguments.angle_range,
        hue_range=arguments.hue_range,
        samples=arguments.samples,
        cache=False,
        device=arguments.device,
        seed=arguments.seed,
    )
    held_out = np.arange(arguments.objects, arguments.objects + 1024)
    model = (
        PairRegressor(arguments.classes, arguments.stem_stride)
        .to(arguments.device)
        .to(memory_format=torch.channels_last)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, arguments.lr, total_steps=arguments.steps, pct_start=0.1)
    start = time.perf_counter()
    for step in range(1, arguments.steps + 1):
        objects = permutation(arguments.seed, 0, step, length=arguments.objects)[: arguments.batch]
        pixels, action, classes = load_pairs(source, objects, arguments.seed, 0, step)
        logits, rotation = model(pixels.contiguous(memory_format=torch.channels_last))
        loss = arguments.rotation_weight * nn.functional.mse_loss(rotation, action) + nn.functional.cross_entropy(
            logits, classes
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % arguments.every == 0 or step == arguments.steps:
            r2, top1 = score(model, source, held_out, arguments.batch)
            seconds = time.perf_counter() - start
            print(
                f"step {step:6d}  loss {loss.item():.3f}  rotation R2 {r2:.3f}  top-1 {100 * top1:.1f} %  "
                f"{seconds:.0f} s",
                flush=True,
            )


def main() -> None:
    """Read the settings from the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64, help="pairs per step")
    parser.add_argument("--angle-range", type=float, default=45.0)
    parser.add_argument("--hue-range", type=float, default=0.2)
    parser.add_argument("--classes", type=int, default=16)
    parser.add_argument("--objects", type=int, default=16000, help="training objects; 1024 more are held out")
    parser.add_argument("--views", type=int, default=50)
    parser.add_argument("--samples", type=int, default=1, help="rays per pixel along each axis")
    parser.add_argument("--stem-stride", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--rotation-weight", type=float, default=10.0)
    parser.add_argument("--every", type=int, default=200, help="steps between scores")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments)


if __name__ == "__main__":
    main()
