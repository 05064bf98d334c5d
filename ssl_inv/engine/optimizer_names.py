"""The names of optimisers and schedules that recipes use. Nothing here imports torch, so a typo is answered at once."""

from collections.abc import Mapping

from ssl_inv.catalogue import SettingError, require_allowed, suggest

OWN = ("adamw", "adam", "sgd", "lars")
"""Optimisers whose defaults are this package's: `sgd` has plain momentum, and `lars` spares what does not decay."""

OPTIMIZERS = (
    *OWN,
    *("adabelief", "adadelta", "adafactor", "adafactorbv", "adafactorbvc", "adagrad", "adamax", "adamc", "adamp"),
    *("adamuon", "adamwlegacy", "adan", "adanw", "adopt", "adoptc", "adoptw", "cadafactor", "cadafactorbv"),
    *("cadafactorbvc", "cadamc", "cadamp", "cadamw", "cadan", "cadanw", "cadopt", "cadoptc", "cadoptw", "clamb"),
    *("clambw", "claprop", "clion", "clionc", "cmars", "cnadamc", "cnadamw", "crmsproptf", "csgdc", "csgdp", "csgdw"),
    *("lamb", "lambc", "lambcd", "lambcw", "lambw", "laprop", "lapropc", "larc", "lion", "lionc", "madgrad"),
    *("madgradw", "mars", "momentum", "muon", "nadam", "nadamc", "nadamlegacy", "nadamuon", "nadamw", "nesterov"),
    *("nesterovw", "nlarc", "nlars", "nmuon", "novograd", "novogradc", "novogradw", "radabelief", "radam"),
    *("radamlegacy", "radamw", "rmsprop", "rmsproptf", "rmsproptfc", "rmsproptfw", "sgdc", "sgdp", "sgdw"),
)
"""This package's optimisers, and those of timm's registry that train here."""

_DRAWS = "it updates its preconditioner with random numbers of its own, which would differ between processes"
_APEX = "it needs NVIDIA Apex; torch's own adam and adamw are fused already"
_BITS = "it is not timm's; name the class of bitsandbytes by its path, such as bitsandbytes.optim.AdamW8bit"

REFUSED: Mapping[str, str] = {
    "adahessian": "it needs second derivatives of the loss, and training computes first ones",
    **dict.fromkeys(("kron", "kronc", "kronw"), _DRAWS),
    **dict.fromkeys(("fusedadam", "fusedadamw", "fusedlamb", "fusednovograd", "fusedsgd"), _APEX),
    **dict.fromkeys(("bnbadam", "bnbadam8bit", "bnbadamw", "bnbadamw8bit", "bnbademamix", "bnbademamix8bit"), _BITS),
    **dict.fromkeys(("bnblion", "bnblion8bit", "bnbsgd", "bnbsgd8bit"), _BITS),
}
"""Optimisers of timm that no recipe can use, and why."""

NEED_WHOLE = (
    *(name for name in OPTIMIZERS if name.startswith("c")),
    *("adafactorbv", "adafactorbvc", "adamp", "adamuon", "mars", "muon", "nadamuon", "nmuon"),
    *("novograd", "novogradc", "novogradw", "sgdp"),
)
"""Optimisers that compute with a whole weight at once in a way that torch cannot do with shards: cautious ones (`c...`)
with means, Muon with products of matrices.
"""

LIBRARIES = ("torch.optim", "timm.optim")
"""Modules whose optimisers recipes can name by their path."""

SCHEDULES = ("cosine", "constant", "tanh", "poly", "step", "multistep", "wsd")
"""Schedules of the learning rate: `constant`, and timm's."""

_PLATEAU = "it depends on scores and not on the step alone, so a resumed run would not go on as it was; choose `wsd`"


def require_shardable(name: str) -> None:
    """Raise a `SettingError` if an optimiser cannot train weights that are kept in shards."""
    if name in NEED_WHOLE:
        others = ", ".join((*OWN, "lamb", "lion"))
        why = f"{name} needs whole weights, which trainer.strategy fsdp does not keep"
        raise SettingError("name", f"{why}; {others} and others train with it")


def check_names(name: str, schedule: str) -> None:
    """Refuse what is no optimiser or no schedule. What a dotted path names is imported when the optimiser is made.

    Raises:
        SettingError: with the reason, or with the closest name.
    """
    if name in REFUSED:
        raise SettingError("name", f"{name} cannot be used: {REFUSED[name]}")
    if name not in OPTIMIZERS and "." not in name:
        raise SettingError("name", f"no optimizer is called {name!r}; {suggest(name, OPTIMIZERS)}")
    if name not in OPTIMIZERS:
        require_allowed(name, LIBRARIES)
    if schedule == "plateau":
        raise SettingError("schedule", f"plateau cannot be used: {_PLATEAU}")
    if schedule not in SCHEDULES:
        raise SettingError("schedule", f"no schedule is called {schedule!r}; {suggest(schedule, SCHEDULES)}")
