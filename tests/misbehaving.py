"""Objectives that misbehave, or that check how a run treats them."""

import torch
from torch import nn

from ssl_inv.objectives.base import Objective, Term
from ssl_inv.views import Pair


class Plain(Objective):
    def __init__(self, features, groups):
        super().__init__()
        self.head = nn.Linear(features, 4)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @property
    def plan(self):
        return Pair()

    def after_step(self, backbone, step, steps):
        self.steps.add_(1)

    def loss(self, views, backbone):
        x, y = (self.head(backbone(view.pixels)) for view in views.views)
        return {"term": Term(self.value((x - y).float().square().mean()))}

    def value(self, error):
        return error


class NeedsWhole(Plain):
    needs_whole_backbone = "reads the weights of its blocks"


class BareTensor(Plain):
    def loss(self, views, backbone):
        return super().loss(views, backbone)["term"].value


class NoTerms(Plain):
    def loss(self, views, backbone):
        return {}


class OnePerSample(Plain):
    def value(self, error):
        return error.expand(8)


class DictOfTensors(Plain):
    def loss(self, views, backbone):
        return {"term": super().loss(views, backbone)["term"].value}


class Detached(Plain):
    def value(self, error):
        return error.detach()


class FloatValue(Plain):
    def value(self, error):
        return 0.5


class ListAsWeight(Plain):
    def loss(self, views, backbone):
        return {"term": Term(super().loss(views, backbone)["term"].value, weight=[1])}


class NoTerm(Plain):
    def loss(self, views, backbone):
        return {"term": 0.5}


class BreaksAtStepThree(Plain):
    def value(self, error):
        return error / (self.steps != 2)


class GradientBreaksAtStepThree(Plain):
    def value(self, error):
        return error + ((error * (self.steps != 2)).sqrt() if self.steps == 2 else 0)


class Collapsed(Plain):
    def representations(self, backbone):
        return lambda pixels: {"all": 1 + 1e-6 * backbone(pixels)}


class HoldsItsHead(Plain):
    def __init__(self, features, groups):
        super().__init__(features, groups)
        self.register_buffer("begun", self.head.weight.detach().clone())

    def held(self, step, steps):
        return [self.head.weight] if step <= 2 else []

    def after_step(self, backbone, step, steps):
        super().after_step(backbone, step, steps)
        assert torch.equal(self.head.weight, self.begun) == (step <= 2)


class LooksBetweenEpochs(Plain):
    looks_between_epochs = True

    def __init__(self, features, groups):
        super().__init__(features, groups)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def allocate(self, objects, images):
        self.register_buffer("seen", torch.zeros(objects, dtype=torch.int64))

    def between_epochs(self, backbone, epoch, gallery):
        assert epoch == self.calls
        self.calls.add_(1)
        for batch in gallery.features(backbone):
            assert not backbone.training
            assert batch.readable.all()
            assert len(batch.objects) == len(batch.features)
            assert not batch.features.requires_grad
            self.seen[batch.objects] += 1
        assert backbone.training

    def diagnostics(self, labels):
        return {"classes": len(labels.names)}
