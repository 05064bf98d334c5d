"""The environment says which process of a run this is, and a launch that contradicts the recipe is refused."""

import pytest

from ssl_inv.catalogue import SettingError
from ssl_inv.engine.cluster import ALONE, Meeting, Place, meeting, place, require_fitting, restarted, without_launch

SRUN = {"SLURM_JOB_ID": "4242", "SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}
TORCHRUN = {
    **{"TORCHELASTIC_RUN_ID": "none", "RANK": "3", "LOCAL_RANK": "1", "GROUP_RANK": "1", "WORLD_SIZE": "4"},
    **{"LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2", "MASTER_ADDR": "node7", "MASTER_PORT": "2000"},
}
PLACES = {
    "nothing": ({}, ALONE),
    "srun": (SRUN, Place("srun", 3, 1, 1, 4)),
    "srun with nodes": (
        {**SRUN, "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"},
        Place("srun", 3, 1, 1, 4, 2, 2),
    ),
    "uneven nodes": ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "3,1"}, Place("srun", 3, 1, 1, 4)),
    "a batch script": ({**SRUN, "SLURM_PROCID": "0", "ENVIRONMENT": "BATCH"}, ALONE),
    "srun in a batch script": ({**SRUN, "ENVIRONMENT": "BATCH", "SLURM_STEP_ID": "0"}, Place("srun", 3, 1, 1, 4)),
    "the shell of salloc": ({**SRUN, "SLURM_STEP_ID": "4294967290"}, ALONE),
    "a job that has asked for tasks": ({"SLURM_NTASKS": "2"}, ALONE),
    "one task": ({**SRUN, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, ALONE),
    "torchrun": (TORCHRUN, Place("torchrun", 3, 1, 1, 4, 2, 2)),
    "torchrun, one a node, by srun": ({**SRUN, **TORCHRUN}, Place("torchrun", 3, 1, 1, 4, 2, 2)),
    "started by Lightning in a job of one task": (
        {**SRUN, "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "LOCAL_RANK": "1", "WORLD_SIZE": "2"},
        Place("lightning", 1, 1, 0, 2),
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_process_knows_its_place(name: str) -> None:
    environment, expected = PLACES[name]
    assert place(environment) == expected
    assert place(without_launch(environment)) == ALONE


FITTING = [(ALONE, 1, 4), (Place("srun", 3, 1, 1, 4), 2, 2), (Place("torchrun", 3, 1, 1, 4, 2, 2), 2, 2)]
CONTRADICTIONS = [
    (ALONE, 2, 1, r"nodes: 2, but every node needs its own processes: start them by srun or torchrun"),
    (
        Place("srun", 0, 0, 0, 2),
        1,
        1,
        r"devices: srun has started 2 processes, but the recipe asks for .*nodes 1",
    ),
    (Place("torchrun", 0, 0, 0, 2, 2, 1), 1, 1, r"--trainer.nodes 1 --trainer.devices 2 fits$"),
    (Place("torchrun", 0, 0, 0, 1, 1, 1), 1, 2, r"has started 1 process, but"),
    (Place("torchrun", 0, 0, 0, 4, 1, 4), 2, 2, r"on 4 nodes, but|--trainer.nodes 4 --trainer.devices 1 fits$"),
    (Place("srun", 2, 2, 0, 4), 2, 2, r"devices: srun has started 4 processes"),
]


def test_a_launch_that_fits_is_accepted() -> None:
    for here, nodes, devices in FITTING:
        require_fitting(here, nodes, devices)


@pytest.mark.parametrize(("here", "nodes", "devices", "sentence"), CONTRADICTIONS)
def test_a_launch_that_contradicts_the_recipe_is_refused(here: Place, nodes: int, devices: int, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        require_fitting(here, nodes, devices)


def test_a_variable_that_is_no_number_is_named() -> None:
    with pytest.raises(SettingError, match=r"^SLURM_PROCID: .* is 'x'"):
        place({**SRUN, "SLURM_PROCID": "x"})
    with pytest.raises(SettingError, match=r"^MASTER_ADDR: .* is missing"):
        meeting(Place("srun", 3, 1, 1, 4), 2, SRUN)


def test_where_processes_meet() -> None:
    srun = Place("srun", 3, 1, 1, 4)
    there = meeting(srun, 2, {**SRUN, "SLURM_NODELIST": "node[07-09,12],other"})
    assert (there.address, there.private, there.hosted) == ("node07", False, True)
    again = meeting(srun, 2, {**SRUN, "SLURM_NODELIST": "node[07-09,12],other", "SLURM_STEP_ID": "1"})
    assert again.port != there.port, "steps of one job do not meet"
    assert meeting(srun, 1, SRUN).private, "one node listens on the loopback alone"
    agents = {**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "2"}
    assert meeting(Place("torchrun", 3), 1, agents) == Meeting("node7", 2000, False, "ssl-inv-2")


def test_a_restart_is_known_by_its_count() -> None:
    assert not restarted({"TORCHELASTIC_RESTART_COUNT": "0"})
    assert restarted({"TORCHELASTIC_RESTART_COUNT": "1"})
    assert restarted({"SLURM_RESTART_COUNT": "2"})
