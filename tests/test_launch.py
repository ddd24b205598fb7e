"""Several processes: who is one of them, and who is missing."""

import socket
import threading
import time

import pytest

from aetheria.errors import HardwareError
from aetheria.hardware.processes.distributed_config import DistributedConfig
from aetheria.hardware.processes.launch import Launch, detect_launch, first_host
from aetheria.hardware.processes.rendezvous import meet

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
    "RANK": "1",
    "WORLD_SIZE": "2",
}
SRUN = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "n[3-4]",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_PROCID": "1",
}


def detect(environ=None, **options):
    return detect_launch(environ or {}, DistributedConfig(**options))


def test_a_process_on_its_own_joins_nobody():
    assert detect() is None
    assert detect({**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"}) is None
    assert detect(coordinator="host:1", num_processes=1, process_id=0) is None


def test_a_batch_script_that_did_not_call_srun_joins_nobody():
    allocation = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}
    assert detect(allocation) is None
    assert detect({**SRUN, "SLURM_STEP_NUM_TASKS": "1"}) is None


def test_torchrun_keeps_its_port_to_itself():
    launch = detect(TORCHRUN)
    assert launch is not None
    assert (launch.coordinator, launch.index, launch.count) == ("node1:29501", 1, 2)


def test_the_tasks_of_a_step_agree_on_a_coordinator_and_steps_do_not_share_one():
    one, other = detect(SRUN), detect({**SRUN, "SLURM_PROCID": "0"})
    assert one is not None and other is not None
    assert one.coordinator == other.coordinator and one.coordinator.startswith("n3:")
    assert (one.index, other.index) == (1, 0)
    later = detect({**SRUN, "SLURM_STEP_ID": "1"})
    assert later is not None and later.coordinator != one.coordinator


def test_what_the_user_says_comes_before_the_launcher():
    launch = detect({**TORCHRUN, **SRUN}, coordinator="mine:9", num_processes=3, process_id=2)
    assert launch is not None
    assert (launch.coordinator, launch.index, launch.count) == ("mine:9", 2, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coordinator": "host:1"}, "expected all three, got host:1, None, None"),
        ({"coordinator": "host", "num_processes": 2, "process_id": 0}, "expected host:port"),
        ({"coordinator": "h:1", "num_processes": 2, "process_id": 2}, "from 0 to 1, got 2"),
    ],
)
def test_settings_that_make_no_group_are_refused(options, message):
    with pytest.raises(HardwareError, match=message):
        detect(**options)


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [("n1", "n1"), ("n1,n2", "n1"), ("n[01-04]", "n01"), ("n[2,5]-ib,m1", "n2-ib")],
)
def test_the_first_host_of_a_node_list(nodelist, host):
    assert first_host(nodelist) == host


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def launch(port, index, count):
    return Launch(coordinator=f"127.0.0.1:{port}", index=index, count=count, source="test")


def meet_in_threads(indices, count, timeout):
    """What each of the processes `indices` of `count` is told: None, or the error's text."""
    told, port = {}, free_port()

    def attend(index):
        try:
            meet(launch(port, index, count), timeout)
            told[index] = None
        except HardwareError as error:
            told[index] = str(error)

    threads = [threading.Thread(target=attend, args=(index,)) for index in indices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def test_processes_that_all_come_meet():
    started_at = time.monotonic()
    assert meet_in_threads([2, 0, 1], 3, timeout=20.0) == dict.fromkeys(range(3))
    assert time.monotonic() - started_at < 10.0


def test_everybody_who_came_is_told_who_is_missing():
    told = meet_in_threads([0, 2], 4, timeout=1.5)
    assert set(told) == {0, 2}
    for text in told.values():
        assert "expected 4 processes (test) within 1.5 s" in text
        assert "got none for process 1, 3" in text


def test_a_process_that_finds_no_coordinator_says_so():
    (text,) = meet_in_threads([1], 2, timeout=0.5).values()
    assert "got none for process 0" in text


def test_a_stranger_at_the_door_disturbs_nobody():
    port, told = free_port(), []
    host = threading.Thread(target=lambda: told.append(meet(launch(port, 0, 2), 20.0)))
    host.start()
    for attempt in range(50):
        try:
            with socket.create_connection(("127.0.0.1", port)) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            break
        except OSError:
            assert attempt < 49
            time.sleep(0.1)
    meet(launch(port, 1, 2), 20.0)
    host.join()
    assert told == [None]


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(HardwareError, match=f"expected port {port} to be free"):
            meet(launch(port, 0, 2), 1.0)
