"""Which process this is, and which accelerators it takes, under every launcher."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from aetheria.errors import HardwareError
from aetheria.hardware.jax.clusters import detect_cluster
from aetheria.hardware.jax.local_devices import choose_local_devices, count_visible_gpus
from aetheria.hardware.processes.distributed_config import DistributedConfig
from aetheria.hardware.processes.launch import Launch, detect_launch

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
}
SRUN = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "n[3-4]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}
JAX = {
    "JAX_COORDINATOR_ADDRESS": "h:9000",
    "JAX_NUM_PROCESSES": "8",
    "JAX_PROCESS_ID": "5",
}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in [*TORCHRUN, *SRUN, *OPEN_MPI, *JAX, "KUBERNETES_SERVICE_HOST"]:
        monkeypatch.delenv(name, raising=False)


def detect(environ, **options):
    return detect_launch(environ, DistributedConfig(**options))


LAUNCHED = {
    "torchrun": (TORCHRUN, "node1:29501", (1, 4)),
    "torchrun at the last port": ({**TORCHRUN, "MASTER_PORT": "65535"}, "node1:65534", (1, 4)),
    "torchrun over IPv6": ({**TORCHRUN, "MASTER_ADDR": "fd00::7"}, "[fd00::7]:29501", (1, 4)),
    "torchrun before srun": ({**SRUN, **TORCHRUN}, "node1:29501", (1, 4)),
    "srun": (SRUN, "n3:61217", (1, 4)),
    "srun, nodes that differ": (
        {**SRUN, "SLURM_STEP_TASKS_PER_NODE": "6,2"},
        "n3:61217",
        (1, 2),
    ),
    "srun, one task a node": (
        {**SRUN, "SLURM_STEP_TASKS_PER_NODE": "1(x8)", "SLURM_LOCALID": "0"},
        "n3:61217",
        (0, 1),
    ),
    "srun, old variables": (
        {k: v for k, v in SRUN.items() if k != "SLURM_STEP_TASKS_PER_NODE"}
        | {"SLURM_NTASKS_PER_NODE": "4"},
        "n3:61217",
        (1, 4),
    ),
    "srun, coordinator of JAX's variable": (
        {**SRUN, "JAX_COORDINATOR_ADDRESS": "10.0.0.9:7000"},
        "10.0.0.9:7000",
        (1, 4),
    ),
    "JAX's variables": (JAX, "h:9000", (None, None)),
}


@pytest.mark.parametrize(("environ", "coordinator", "local"), LAUNCHED.values(), ids=LAUNCHED)
def test_a_launcher_says_which_process_this_is(environ, coordinator, local):
    launch = detect(environ)
    assert launch is not None
    assert (launch.coordinator, launch.index, launch.count) == (coordinator, 5, 8)
    assert (launch.local_index, launch.local_count) == local


ALONE = {
    "nothing": {},
    "a batch script": {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"},
    "a job's shell": {"SLURM_JOB_ID": "7", "SLURM_JOBID": "7", "SLURM_NODELIST": "n[3-4]"},
    "srun, one task": {**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
    "torchrun, one process": {**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"},
    "torchrun's leftover": {"TORCHELASTIC_RUN_ID": "x"},
    "variables of others": {"RANK": "one", "WORLD_SIZE": "many", "LOCAL_RANK": ""},
}


@pytest.mark.parametrize("environ", ALONE.values(), ids=ALONE)
def test_a_process_on_its_own_joins_nobody(environ):
    assert detect(environ) is None


def without(environ, name):
    return {key: value for key, value in environ.items() if key != name}


REFUSED = {
    "no MASTER_PORT": (without(TORCHRUN, "MASTER_PORT"), "torchrun: expected MASTER_PORT"),
    "no MASTER_ADDR": (without(TORCHRUN, "MASTER_ADDR"), "torchrun: expected MASTER_ADDR"),
    "no RANK": (without(TORCHRUN, "RANK"), "torchrun: expected RANK"),
    "RANK no number": ({**TORCHRUN, "RANK": "one"}, "whole number in RANK, got 'one'"),
    "RANK negative": ({**TORCHRUN, "RANK": "-1"}, "whole number in RANK, got '-1'"),
    "RANK out of range": ({**TORCHRUN, "RANK": "8"}, "from 0 to 7, got 8"),
    "WORLD_SIZE no number": ({**TORCHRUN, "WORLD_SIZE": "2.0"}, "in WORLD_SIZE, got '2.0'"),
    "WORLD_SIZE too large": ({**TORCHRUN, "WORLD_SIZE": "1000000000"}, "1 to 65536 processes"),
    "WORLD_SIZE 0": ({**TORCHRUN, "WORLD_SIZE": "0"}, None),
    "MASTER_PORT too large": ({**TORCHRUN, "MASTER_PORT": "70000"}, "port from 1 to 65535"),
    "LOCAL_RANK no number": ({**TORCHRUN, "LOCAL_RANK": "x"}, "in LOCAL_RANK, got 'x'"),
    "LOCAL_RANK out of range": ({**TORCHRUN, "LOCAL_RANK": "4"}, "from 0 to 3, got 4"),
    "no SLURM_PROCID": (without(SRUN, "SLURM_PROCID"), "srun: expected SLURM_PROCID"),
    "no node list": (without(SRUN, "SLURM_STEP_NODELIST"), "expected SLURM_STEP_NODELIST"),
    "empty node list": ({**SRUN, "SLURM_STEP_NODELIST": ""}, "expected SLURM_STEP_NODELIST"),
    "broken node list": ({**SRUN, "SLURM_STEP_NODELIST": "n[3-"}, "such as n[07-12,15],m3"),
    "SLURM_NTASKS no number": ({**SRUN, "SLURM_STEP_NUM_TASKS": "x"}, "in SLURM_STEP_NUM_TASKS"),
    "SLURM_JOB_ID no number": ({**SRUN, "SLURM_JOB_ID": "7_1"}, "in SLURM_JOB_ID, got '7_1'"),
    "tasks a node": ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "4(x"}, "such as 4(x2),1"),
    "tasks a node, too many": (
        {**SRUN, "SLURM_STEP_TASKS_PER_NODE": "4(x999999)"},
        "such as 4(x2),1",
    ),
    "JAX's, partly": (without(JAX, "JAX_PROCESS_ID"), "all three, or none, got only JAX_COORD"),
    "JAX's, address alone": ({"JAX_COORDINATOR_ADDRESS": "h:1"}, "all three, or none"),
    "JAX's, no number": ({**JAX, "JAX_PROCESS_ID": "a"}, "in JAX_PROCESS_ID, got 'a'"),
    "JAX's, no port": ({**JAX, "JAX_COORDINATOR_ADDRESS": "h"}, "expected host:port, got 'h'"),
    "mpirun that JAX does not know": ({"OMPI_COMM_WORLD_SIZE": "4"}, "mpirun: expected"),
}


@pytest.mark.parametrize(("environ", "message"), REFUSED.values(), ids=REFUSED)
def test_variables_that_make_no_group_are_one_line(environ, message):
    if message is None:
        assert detect(environ) is None
        return
    with pytest.raises(HardwareError) as caught:
        detect(environ)
    assert message in str(caught.value) and len(caught.value.problems) == 1


OPTIONS = {
    "port 0": ("--coordinator=h:0", "port from 1 to 65535, got 0"),
    "port 70000": ("--coordinator=h:70000", "port from 1 to 65535, got 70000"),
    "no port": ("--coordinator=h", "expected host:port, got 'h'"),
    "a URL": ("--coordinator=http://h:80", "expected host:port"),
    "no host": ("--coordinator=:80", "expected host:port"),
    "too many": ("--num-processes=1000000000", "from 1 to 65536, got '1000000000'"),
    "none": ("--num-processes=0", "from 1 to 65536, got '0'"),
    "negative": ("--process-id=-1", "from 0 to 65535, got '-1'"),
    "no digit": ("--process-id=²", "from 0 to 65535"),
    "long": ("--num-processes=" + "9" * 5000, "from 1 to 65536"),
    "for ever": ("--join-timeout=1e300", "at most 604800 seconds"),
    "endless heartbeat": ("--heartbeat-timeout=1e300", "at most 604800 seconds"),
    "no time": ("--join-timeout=0", "a number above 0"),
    "empty token": ("--token=", "expected a secret text"),
}


@pytest.mark.parametrize(("option", "message"), OPTIONS.values(), ids=OPTIONS)
def test_options_out_of_range_are_refused_before_anything_starts(run, option, message):
    answer = run("train", "no.yaml", option)
    answer.assert_refused(option.partition("=")[0], message)


BROKEN = {
    "torchrun": ({**TORCHRUN, "RANK": "one"}, "RANK"),
    "srun": (without(SRUN, "SLURM_PROCID"), "SLURM_PROCID"),
    "JAX": ({"JAX_COORDINATOR_ADDRESS": "h:1"}, "JAX_NUM_PROCESSES"),
    "JAX's devices": ({**TORCHRUN, "JAX_LOCAL_DEVICE_IDS": "a"}, "JAX_LOCAL_DEVICE_IDS"),
    "JAX's partition": ({**TORCHRUN, "JAX_PARTITION_INDEX": "a"}, "JAX_PARTITION_INDEX"),
    "Open MPI": ({**OPEN_MPI, "OMPI_COMM_WORLD_RANK": ""}, "OmpiCluster"),
}


@pytest.mark.parametrize(("environ", "name"), BROKEN.values(), ids=BROKEN)
def test_a_run_under_a_broken_launcher_is_one_line(train, monkeypatch, environ, name):
    for key, value in environ.items():
        monkeypatch.setenv(key, value)
    train("--workdir=run", "--join-timeout=1").assert_refused(name)
    assert not Path("run").exists()


def test_a_token_is_in_no_text():
    launch = detect(TORCHRUN, token="hunter2")
    assert launch is not None and launch.token == "hunter2"
    assert "hunter2" not in repr(launch) + repr(DistributedConfig(token="hunter2"))
    given = detect({**TORCHRUN, "AETHERIA_TOKEN": "hunter3"})
    assert given is not None and given.token == "hunter3"


def test_tokens_of_two_jobs_differ_and_those_of_one_do_not():
    one = detect(SRUN)
    same = detect({**SRUN, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"})
    others = [detect({**SRUN, key: "9"}) for key in ("SLURM_JOB_ID", "SLURM_STEP_LAUNCHER_PORT")]
    assert one is not None and same is not None and one.token == same.token
    assert all(other is not None and other.token != one.token for other in others)


def ask_jax(environ, monkeypatch):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return detect_launch(os.environ, DistributedConfig(), lambda: detect_cluster(os.environ, 5.0))


def test_what_jax_detects_is_taken_where_we_find_nothing(monkeypatch):
    launch = ask_jax(OPEN_MPI, monkeypatch)
    assert launch is not None and launch.source == "OmpiCluster"
    assert launch.coordinator.startswith("10.96.0.1:")
    assert (launch.index, launch.count, launch.local_index, launch.local_count) == (5, 8, 1, 4)


def test_mpirun_inside_a_slurm_job_is_mpirun(monkeypatch):
    launch = ask_jax({**SRUN, **OPEN_MPI}, monkeypatch)
    assert launch is not None and launch.source == "OmpiCluster"


def test_an_ordinary_pod_of_kubernetes_is_on_its_own(monkeypatch, recwarn):
    assert ask_jax({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, monkeypatch) is None
    assert not recwarn.list


def test_a_pod_of_an_indexed_job_that_cannot_be_joined_is_told(monkeypatch, capfd):
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    assert ask_jax(pod, monkeypatch) is None
    assert "install the package kubernetes" in capfd.readouterr().err


def test_a_cluster_that_cannot_say_who_is_in_it_is_one_line(monkeypatch):
    with pytest.raises(HardwareError, match=r"OmpiCluster: .*; give --coordinator"):
        ask_jax({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "many"}, monkeypatch)


def test_a_registered_cluster_type_is_asked(monkeypatch):
    from jax._src.clusters import ClusterEnv

    class Ours(ClusterEnv):
        is_env_present = classmethod(lambda cls: True)
        get_process_count = classmethod(lambda cls: 3)
        get_process_id = classmethod(lambda cls: 2)
        get_coordinator_address = classmethod(
            lambda cls, timeout_secs, override_coordinator_port: "h:7"
        )

    ClusterEnv._cluster_types.remove(Ours)
    monkeypatch.setattr(ClusterEnv, "_cluster_types", [*ClusterEnv._cluster_types, Ours])
    launch = ask_jax({}, monkeypatch)
    assert launch is not None
    assert (launch.coordinator, launch.index, launch.count, launch.source) == ("h:7", 2, 3, "Ours")


def task(source="srun", index=1, count: int | None = 4):
    return Launch(
        coordinator="h:1", index=5, count=8, source=source, local_index=index, local_count=count
    )


DEVICES = {
    "a task for each GPU": (task(), 4, {}, (1,)),
    "one task a node": (task(index=0, count=1), 8, {}, None),
    "torchrun, a process for each GPU": (task("torchrun"), 4, {}, (1,)),
    "torchrun, one process a node": (task("torchrun", 0, 1), 8, {}, None),
    "two GPUs each": (task(), 8, {}, (2, 3)),
    "bound by srun": (task(), 1, {"SLURM_GPUS_ON_NODE": "4"}, None),
    "bound by srun, two each": (task(), 2, {"SLURM_GPUS_ON_NODE": "8"}, None),
    "not bound by srun": (task(), 4, {"SLURM_GPUS_ON_NODE": "4"}, (1,)),
    "no GPU": (task(), 0, {}, (1,)),
    "nothing known": (task(), None, {}, (1,)),
    "number on the node alone": (task(count=None), 8, {}, (1,)),
    "JAX's variable": (task(), 4, {"JAX_LOCAL_DEVICE_IDS": "2, 3"}, (2, 3)),
    "by hand": (Launch(coordinator="h:1", index=5, count=8, source="--coordinator"), 8, {}, None),
}


@pytest.mark.parametrize(("launch", "num_gpus", "environ", "ids"), DEVICES.values(), ids=DEVICES)
def test_a_process_takes_its_part_of_the_gpus(launch, num_gpus, environ, ids):
    assert choose_local_devices(launch, environ, num_gpus=num_gpus, uses_gpu=True) == ids


def test_gpus_are_shared_whole():
    parts = [
        choose_local_devices(task(index=i), {}, num_gpus=8, uses_gpu=True) or () for i in range(4)
    ]
    assert sorted(sum(parts, ())) == list(range(8))


@pytest.mark.parametrize(("num_gpus", "start"), [(6, "1, 2, 3, 6"), (3, "1, 3"), (1, "1")])
def test_gpus_that_cannot_be_shared_are_refused(num_gpus, start):
    with pytest.raises(HardwareError, match=f"divides the {num_gpus} GPUs .* start {start} on"):
        choose_local_devices(task(), {}, num_gpus=num_gpus, uses_gpu=True)
    # The control: a run that uses no GPU is not refused for want of one.
    assert choose_local_devices(task(), {}, num_gpus=num_gpus, uses_gpu=False) == (1,)


@pytest.mark.parametrize("text", ["0,", "a", "0,0", "-1", "0;1"])
def test_local_device_ids_that_are_none_are_refused(text):
    with pytest.raises(HardwareError, match="JAX_LOCAL_DEVICE_IDS: expected numbers"):
        choose_local_devices(task(), {"JAX_LOCAL_DEVICE_IDS": text}, num_gpus=4, uses_gpu=False)


VISIBLE = {
    "listed": ({"CUDA_VISIBLE_DEVICES": "4,5"}, [], 2),
    "by name": ({"CUDA_VISIBLE_DEVICES": "GPU-8932f937-d72c"}, [], 1),
    "up to the first that is none": ({"CUDA_VISIBLE_DEVICES": "0,-1,2"}, [], 1),
    "hidden": ({"CUDA_VISIBLE_DEVICES": ""}, ["dev/nvidia0"], 0),
    "AMD's": ({"ROCR_VISIBLE_DEVICES": "0,1,2"}, [], 3),
    "device files": ({}, ["dev/nvidia0", "dev/nvidia1", "dev/nvidiactl", "dev/nvidia-uvm"], 2),
    "SLURM's": ({"SLURM_GPUS_ON_NODE": "8"}, [], 8),
    "nothing": ({}, [], None),
}


@pytest.mark.parametrize(("environ", "files", "count"), VISIBLE.values(), ids=VISIBLE)
def test_gpus_are_counted_without_starting_a_backend(tmp_path, environ, files, count):
    (tmp_path / "dev").mkdir()
    for file in files:
        (tmp_path / file).touch()
    assert count_visible_gpus(environ, tmp_path) == count


def test_amd_gpus_are_counted(tmp_path):
    for number, gpu in enumerate(["0", "4660", "4661"]):  # the first is a CPU
        node = tmp_path / "sys/class/kfd/kfd/topology/nodes" / str(number)
        node.mkdir(parents=True)
        (node / "gpu_id").write_text(gpu + "\n")
    assert count_visible_gpus({}, tmp_path) == 2


def test_ranks_of_torchrun_take_a_device_each(tmp_path):
    """Under the real launcher, through `ProcessGroup`; what is asked for is seen without a GPU."""
    pytest.importorskip("torch", reason="torch is not installed, and with it torchrun")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    script = Path(__file__).with_name("project") / "write_devices.py"
    done = subprocess.run(
        [sys.executable, *launcher, str(script)],
        env={**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    host = socket.gethostname()
    first, second = ((tmp_path / f"{rank}.txt").read_text().splitlines() for rank in (0, 1))
    assert second == ["1 sees 1"]
    assert first == [
        "0 sees 0",
        f"process 0 of 2 on host {host}: 1 CPU device",
        f"process 1 of 2 on host {host}: 1 CPU device",
    ]
