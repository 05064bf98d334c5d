"""Plans of whole views, of crops and of images along a path."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from ssl_inv.catalogue import require, require_recorded
from ssl_inv.data.wanted import Growth, SharedStep, Way
from ssl_inv.transforms import Box, Group
from ssl_inv.views.plan import Plan, Views, check_plan, require_share

PolicyChoice: TypeAlias = int | Literal["plain"] | None
"""Which policy of the augmentation makes the views of a plan: the number of one for all views, `plain` for none at all,
or None for the policies that the plan names.
"""


@dataclass(frozen=True)
class Pair(Plan):
    """Two views of every sample, or more of the same kind: the plan of SIE, SimCLR and VICReg. The i-th policy makes
    view i.

    Attributes:
        count: how many views.
        grown: how the data's own views are chosen while training begins.
    """

    count: int = 2
    grown: Growth | None = None

    def __post_init__(self) -> None:
        check_plan(self.count >= 2, f"Pair: count is at least 2, got {self.count}")

    @property
    def own_views(self) -> int:
        return self.count

    @property
    def growth(self) -> Growth | None:
        return self.grown


@dataclass(frozen=True)
class SameCrop(Plan):
    """Two views that show the same part of one image in different colours: the plan of SER.

    The i-th policy draws the colours of view i. What moves pixels, such as crop and flip, is the first policy's for
    both.
    """

    @property
    def count(self) -> int:
        return 2


@dataclass(frozen=True)
class Alike(Plan):
    """Two views of every sample, and from the first to the second the same step for all samples of a group: the plan of
    STL and EbC. Groups are consecutive samples of a batch. The i-th policy makes view i.

    The augmentation makes the step, by its operation `shared`. Or data that can render makes it: view 0 is the object's
    own, and view 1 is rendered one step from there; parameters that are not named are those of another of its views.

    Attributes:
        samples: of a group.
        parameters: what the data changes alike; empty leaves it to the augmentation.
    """

    samples: int = 2
    parameters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_plan(self.samples >= 2, f"Alike: samples is at least 2, got {self.samples}")

    @property
    def count(self) -> int:
        return 2

    @property
    def alike(self) -> int:
        return self.samples

    @property
    def own_views(self) -> int:
        return 2 if self.parameters else 1

    @property
    def way(self) -> Way | None:
        return SharedStep(self.parameters, (1.0,), self.samples) if self.parameters else None

    def over(self, groups: Mapping[str, Group]) -> "Alike":
        if (foreign := next((name for name in self.parameters if name not in groups), None)) is not None:
            raise ValueError(
                f"the same step in {foreign!r} for {self.samples} samples is wanted, which this data does not record of"
                " its own views; leave it out, and let the operation `shared` draw it"
            )
        return self


def require_alike(alike: list[str], groups: Mapping[str, Group]) -> None:
    """Raise a `SettingError` unless something makes the same step for several samples.

    Args:
        alike: the parameters that rendered data should change alike.
        groups: the recorded parameters of every view's transform, by name.
    """
    require_recorded("alike", alike, groups)
    advice = (
        "is empty, and the augmentation has no operation `shared`; add it, or name parameters that the data renders"
    )
    require(bool(alike) or "chunk" in groups, "alike", advice)


@dataclass(frozen=True)
class Linked(Plan):
    """Every image, and a second image that the objective links with it: the plan of transitive invariance.

    The i-th policy makes view i, of an image of its own.
    """

    @property
    def count(self) -> int:
        return 2

    @property
    def own_views(self) -> int:
        return 2

    @property
    def linked(self) -> bool:
        return True


@dataclass(frozen=True)
class ViewSequence(Plan):
    """A sequence of observed views, then the view to be predicted: the plan of seq-JEPA.

    The first policy of the augmentation makes the observed views and the last one the target, as in BYOL.

    Attributes:
        observed: views before the target.
    """

    observed: int = 3

    def __post_init__(self) -> None:
        check_plan(self.observed >= 1, f"ViewSequence: observed is at least 1, got {self.observed}")

    @property
    def count(self) -> int:
        return self.observed + 1

    @property
    def own_views(self) -> int:
        return self.count


@dataclass(frozen=True)
class Crops:
    """Some crops of one kind.

    Attributes:
        count: how many.
        size: their side in pixels; None is that of the augmentation.
        scale: smallest and largest share of the image's area; None is that of the augmentation.
        centre: in place of `scale`, the share of the image's sides that an upright crop about its centre takes.
    """

    count: int
    size: int | None = None
    scale: tuple[float, float] | None = None
    centre: float | None = None

    def __post_init__(self) -> None:
        check_plan(self.count >= 1, f"Crops: count is at least 1, got {self.count}")
        check_plan(self.size is None or self.size >= 1, f"Crops: size is at least 1 pixel, got {self.size}")
        require_share("Crops", self.scale)
        check_plan(
            self.centre is None or 0 < self.centre <= 1,
            f"Crops: centre is a share above 0 and up to 1, got {self.centre}",
        )
        check_plan(
            self.centre is None or self.scale is None,
            "Crops: a crop has a random scale or a share about the centre, not both",
        )


@dataclass(frozen=True)
class MultiCrop(Plan):
    """Crops of several sizes of one image: the plan of SwAV and DINO. The i-th policy makes view i.

    Attributes:
        crops: kinds of crops, in the order of the views. DINO's are `Crops(2, 224, (0.4, 1))` and `Crops(8, 96, (0.05,
            0.4))`.
    """

    crops: tuple[Crops, ...]

    def __post_init__(self) -> None:
        check_plan(len(self.crops) > 0, "MultiCrop: crops has no kind of crop, at least one is needed")

    @property
    def count(self) -> int:
        return sum(kind.count for kind in self.crops)

    @property
    def groups(self) -> dict[str, Group]:
        return {"crop": Box()} if any(kind.centre is not None for kind in self.crops) else {}

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(kind.size for kind in self.crops if kind.size is not None)


@dataclass(frozen=True)
class TransformPath(Plan):
    """Two branches, and images along the path of a transform of the second branch: the plan of EC-reconstruction.

    View 0 is A1(I). The second branch is u = A2(I), and view 1 is g_theta(u). Then come u itself, if `start`, and u_k,
    which lies k / (K + 1) of the way from u to view 1, for k = 1 .. K. All views of the second branch share one draw,
    and each is one resampling of the image. Rotations and hues go along the shorter arc, all other parameters straight,
    from the value that leaves an image as it is.

    A parameter that the data itself records, such as the rotation of a rendered object, goes from its value in one of
    the object's own views to its value in another: view 0 is A1 of the first, view 1 is A2 of the second, and u_k is A2
    of an image rendered between the two.

    Attributes:
        between: K, how many images lie between u and view 1.
        parameters: what g changes; the second branch's policy draws them. `("angle",)` is a rotation,
            `("angle", "translation")` is SE(2), `("brightness", "contrast", "saturation", "hue")` colour jitter,
            `("blur",)` a blur.
        start: whether u is a view too.
        on_first: whether view 0 has its own values of these parameters; otherwise they are neutral in it.
        size: side of the views in pixels; None is that of the augmentation.
        scale: smallest and largest share of the image's area that both branches' crops take; None is that of the
            augmentation.
        own: which of the parameters the data records; `over` finds them.
    """

    between: int = 2
    parameters: tuple[str, ...] = ("angle",)
    start: bool = False
    on_first: bool = False
    size: int | None = None
    scale: tuple[float, float] | None = None
    own: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_plan(self.between >= 0, f"TransformPath: between is at least 0, got {self.between}")
        check_plan(len(self.parameters) > 0, "TransformPath: parameters is empty, at least one is needed")
        check_plan(self.size is None or self.size >= 1, f"TransformPath: size is at least 1 pixel, got {self.size}")
        require_share("TransformPath", self.scale)

    @property
    def count(self) -> int:
        return 2 + len(self.fractions)

    @property
    def own_views(self) -> int:
        return 2 if self.own else 1

    @property
    def way(self) -> Way | None:
        return Way(self.own, self.fractions) if self.own else None

    @property
    def sizes(self) -> tuple[int, ...]:
        return () if self.size is None else (self.size,)

    def over(self, groups: Mapping[str, Group]) -> "TransformPath":
        return replace(self, own=tuple(name for name in self.parameters if name in groups))

    @property
    def fractions(self) -> tuple[float, ...]:
        """How far along the path the views after the first two are."""
        return tuple(k / (self.between + 1) for k in range(0 if self.start else 1, self.between + 1))


@dataclass(frozen=True)
class Several(Plan):
    """The views of several plans, one plan after the other.

    OBoW's teacher view, crops and patches are
    `Several((MultiCrop((Crops(1, 224, centre=0.875),)), MultiCrop((Crops(2, 160, (0.08, 0.6)),)), Patches()))`.

    Attributes:
        plans: one or more, none of them `Several`.
        policies: for each plan, the number of the augmentation's policy that makes all its views, None for the policies
            that the plan has alone, or `plain` for none; empty is 0, 1, 2, ... in the order of the plans.
    """

    plans: tuple[Plan, ...]
    policies: tuple[PolicyChoice, ...] = ()

    def __post_init__(self) -> None:
        check_plan(len(self.plans) > 0, "Several: plans is empty, at least one is needed")
        check_plan(
            not any(isinstance(plan, Several) for plan in self.plans),
            "Several: one stands within another; list all plans in one",
        )
        fits = len(self.policies) in (0, len(self.plans)) and all(
            one is None or one == "plain" or one >= 0 for one in self.policies
        )
        check_plan(
            fits,
            f"Several: policies needs a number of at least 0 for each of {len(self.plans)} plans, got {self.policies}",
        )
        ways = [plan.way for plan in self.plans if plan.way is not None]
        check_plan(len(ways) <= 1, "Several: only one plan may be a path along the data's own parameters")
        served = self.own_views == 2 and not self.linked
        alone = not self.linked or all(plan.linked or plan.sources == 1 for plan in self.plans)
        check_plan(alone, "Several: with a Linked plan, the other plans must use one view of each image")
        check_plan(
            not ways or served,
            "Several: with a path between two of the data's views, other plans may use only these two",
        )

    @property
    def count(self) -> int:
        return sum(plan.count for plan in self.plans)

    @property
    def own_views(self) -> int:
        return max(plan.own_views for plan in self.plans)

    @property
    def linked(self) -> bool:
        return any(plan.linked for plan in self.plans)

    @property
    def alike(self) -> int:
        return max(plan.alike for plan in self.plans)

    @property
    def way(self) -> Way | None:
        return next((plan.way for plan in self.plans if plan.way is not None), None)

    @property
    def growth(self) -> Growth | None:
        return next((plan.growth for plan in self.plans if plan.growth is not None), None)

    def over(self, groups: Mapping[str, Group]) -> "Several":
        return replace(self, plans=tuple(plan.over(groups) for plan in self.plans))

    @property
    def groups(self) -> dict[str, Group]:
        return {name: group for plan in self.plans for name, group in plan.groups.items()}

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(size for plan in self.plans for size in plan.sizes)

    @property
    def choices(self) -> tuple[PolicyChoice, ...]:
        """`policies`, or 0, 1, 2, ... if it is empty."""
        return self.policies or tuple(range(len(self.plans)))

    def parts(self, views: Views) -> tuple[Views, ...]:
        """The views of each plan."""
        found, first = [], 0
        for plan in self.plans:
            found.append(replace(views, views=views.views[first : first + plan.count]))
            first += plan.count
        return tuple(found)
