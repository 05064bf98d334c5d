"""How each loss of lightly is called, with which head, and beside which other networks."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ssl_inv.catalogue import SettingError, suggest

Call = Literal[
    "pair",
    "queries and keys",
    "predictions and keys",
    "list of views",
    "each view",
    "stack of views",
    "global and local",
    "rows of all views",
    "online and momentum",
    "crops of student and teacher",
    "prototypes of crops",
    "anchors and target",
    "masked patches",
    "all patches",
    "dense maps",
    "clusters of patches",
    "frames and actions",
    "maps and positions",
    "regions",
    "predicted regions",
]
"""What a loss is given. `ssl_inv.objectives.lightly_calls` and `lightly_dense` make it from a batch of views."""

PATCH_CALLS = ("masked patches", "all patches", "dense maps", "clusters of patches")
"""The calls that need a vision transformer."""

PLACE_CALLS = ("maps and positions", "regions", "predicted regions")
"""The calls that need the crop of every view."""

CALLS: Mapping[Call, str] = {
    "pair": "projections of two views",
    "queries and keys": "projections of one view, the teacher's projections of the other",
    "predictions and keys": "predictions from each of two views, projections of the other without gradient",
    "list of views": "a list of the projections of V views",
    "each view": "the projections of one view, for each view",
    "stack of views": "projections (V, B, D) of V views",
    "global and local": "projections (V, B, D) of whole views and of small crops",
    "rows of all views": "projections (V B, D), one view after the other",
    "online and momentum": "projections (B, V, D) of V views, and the teacher's",
    "crops of student and teacher": "lists of the logits of all crops, and of the teacher's for whole views",
    "prototypes of crops": "lists of similarities with prototypes, of whole views and of small crops, and of queues",
    "anchors and target": "projections of masked views and small crops, the teacher's of a whole view, prototypes",
    "masked patches": "logits of masked patches, the teacher's for the same patches, and the mask",
    "all patches": "logits (B, N, K) of all patches of masked views, the teacher's of whole views, and the mask",
    "dense maps": "patch tokens (B, N, D) of masked views, and the teacher's of whole views",
    "clusters of patches": "cluster logits of the teacher's patches, and those predicted from visible patches",
    "frames and actions": "embeddings (B, T, D) of a sequence of views, and their prediction from past and actions",
    "maps and positions": "projections of V views and of the positions of their maps, and where each lies in the image",
    "regions": "projections (B, M, D) of M regions of two views, and their numbers (B, M)",
    "predicted regions": "predictions of M regions of two views, the teacher's projections of them, their numbers",
}


@dataclass(frozen=True)
class Kind:
    """How a loss is called.

    Attributes:
        call: what it is given.
        head: the class of its usual projection head; None for none.
        head_settings: of that head, where they are not lightly's defaults.
        predictor: the class of its usual predictor; None if it has none.
        views: whole views of a sample.
        local_crops: small crops of a sample; None if it takes none.
        momentum: of the teacher in the first step; None if it has no teacher.
        may_have_teacher: whether a momentum may be given though it usually has none.
        prototypes: how many; None if it has none beside its head.
        masked: share of the patches that the student does not see; None if nothing is masked.
        queue: whether it may have a queue of earlier embeddings.
        gathered: `here` means that the loss is given the rows of all processes. `lightly` means that it is given those
            of one process and gathers its own statistics, because its rows are too wide to be sent: the loss is then
            the mean over processes.
        follows: arguments of its constructor that follow from the width of the head.
        fixed: arguments of its constructor that are set here.
        passed: arguments of its call that are settings, with their defaults.
        teacher_temperature: whether the teacher's temperature is an argument of the call.
    """

    call: Call
    head: str | None
    head_settings: Mapping[str, Any] = field(default_factory=dict)
    predictor: str | None = None
    views: int = 2
    local_crops: int | None = None
    momentum: float | None = None
    may_have_teacher: bool = False
    prototypes: int | None = None
    masked: float | None = None
    queue: bool = False
    gathered: Literal["here", "lightly"] = "here"
    follows: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    passed: Mapping[str, float] = field(default_factory=dict)
    teacher_temperature: bool = False


_EMA = 0.996
_IBOT = Kind(
    "masked patches",
    "DINOProjectionHead",
    momentum=_EMA,
    masked=0.3,
    gathered="lightly",
    follows=("output_dim",),
    teacher_temperature=True,
)
_MSN = Kind(
    "anchors and target",
    "MSNProjectionHead",
    local_crops=10,
    momentum=_EMA,
    prototypes=1024,
    masked=0.15,
    passed={"target_sharpen_temperature": 0.25},
)

KINDS: Mapping[str, Kind] = {
    "BarlowTwinsLoss": Kind("pair", "BarlowTwinsProjectionHead"),
    "CAPILoss": Kind(
        "clusters of patches",
        "CAPIProjectionHead",
        predictor="CAPIPredictorTIMM",
        views=1,
        momentum=_EMA,
        masked=0.65,
        gathered="lightly",
        fixed={"gather_distributed": True},
    ),
    "DCLLoss": Kind("pair", "SimCLRProjectionHead"),
    "DCLWLoss": Kind("pair", "SimCLRProjectionHead"),
    "DetConBLoss": Kind(
        "predicted regions",
        "BYOLProjectionHead",
        predictor="BYOLPredictionHead",
        momentum=_EMA,
        fixed={"gather_distributed": False},
    ),
    "DetConSLoss": Kind("regions", "SimCLRProjectionHead", fixed={"gather_distributed": False}),
    "DINOLoss": Kind(
        "crops of student and teacher",
        "DINOProjectionHead",
        local_crops=6,
        momentum=_EMA,
        gathered="lightly",
        follows=("output_dim",),
        teacher_temperature=True,
    ),
    "DirectCLRLoss": Kind("pair", None),
    "EMPSSLLoss": Kind("list of views", "VICRegProjectionHead", {"hidden_dim": 4096, "output_dim": 1024}, views=20),
    "FroSSLLoss": Kind("list of views", "VICRegProjectionHead", {"hidden_dim": 2048, "output_dim": 1024}),
    "HypersphereLoss": Kind("pair", "SimCLRProjectionHead"),
    "IBOTPatchLoss": _IBOT,
    "IBOTPlusPlusPatchLoss": replace(_IBOT, call="all patches", passed={"visible_loss_weight": 1.0}),
    "KoLeoLoss": Kind("each view", None),
    "LeJEPALoss": Kind("global and local", "LeJEPAProjectionHead", local_crops=6),
    "LeWMLoss": Kind("frames and actions", "LeWMProjectionHead", predictor="LatentDynamicsPredictor", views=4),
    "MACLLoss": Kind("pair", "SimCLRProjectionHead"),
    "MMCRLoss": Kind("online and momentum", "MMCRProjectionHead", momentum=_EMA),
    "MSNLoss": _MSN,
    "NTXentLoss": Kind("pair", "SimCLRProjectionHead"),
    "NegativeCosineSimilarity": Kind(
        "predictions and keys", "SimSiamProjectionHead", predictor="SimSiamPredictionHead", may_have_teacher=True
    ),
    "PMSNLoss": _MSN,
    "PatchKernelAlignmentLoss": Kind("dense maps", None, momentum=_EMA, masked=0.3),
    "SIGReg": Kind("stack of views", "LeJEPAProjectionHead"),
    "SwaVLoss": Kind(
        "prototypes of crops",
        "SwaVProjectionHead",
        local_crops=6,
        prototypes=3000,
        queue=True,
        gathered="lightly",
        fixed={"sinkhorn_gather_distributed": True},
    ),
    "TiCoLoss": Kind("queries and keys", "TiCoProjectionHead", momentum=_EMA),
    "VICRegLLoss": Kind(
        "maps and positions",
        "BarlowTwinsProjectionHead",
        {"hidden_dim": 2048, "output_dim": 2048},
        local_crops=6,
    ),
    "VICRegLoss": Kind("pair", "VICRegProjectionHead"),
    "VISRegLoss": Kind("global and local", "LeJEPAProjectionHead", local_crops=6),
    "WMSELoss": Kind(
        "rows of all views",
        "SwaVProjectionHead",
        {"hidden_dim": 1024, "output_dim": 64},
        follows=("embedding_dim",),
    ),
}
"""Every loss of lightly that recipes can name."""

LEFT_OUT: Mapping[str, str] = {
    "PMSNCustomLoss": "its target distribution is a function, which no recipe can hold; PMSNLoss has a power law",
    "VISRegLossComponents": "it is the tuple that VISRegLoss returns, no loss",
    "Whitening2d": "it is a layer of WMSELoss, no loss",
}
"""Classes of lightly's losses that are not called here, each with the reason."""


def kind_of(loss: str, settings: Mapping[str, Any], momentum: float | None) -> Kind:
    """How a loss with these settings is called.

    Raises:
        SettingError: if there is no such loss, or it is left out.
    """
    if loss in LEFT_OUT:
        raise SettingError("loss", f"{loss} cannot be used: {LEFT_OUT[loss]}")
    if loss not in KINDS:
        raise SettingError("loss", f"lightly has no loss called {loss!r} that can be used here; {suggest(loss, KINDS)}")
    kind = KINDS[loss]
    if settings.get("memory_bank_size"):  # the loss is then MoCo's
        head = kind.head and "MoCoProjectionHead"
        return replace(kind, call="queries and keys", head=head, momentum=_EMA)
    if kind.may_have_teacher and momentum is not None:  # SimSiam becomes BYOL
        return replace(kind, head="BYOLProjectionHead", predictor="BYOLPredictionHead", momentum=momentum)
    return kind
