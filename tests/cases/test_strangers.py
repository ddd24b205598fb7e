"""The meeting of processes hears what it should not: that is dropped, and the run meets."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable

import pytest

from aetheria.errors import HardwareError
from aetheria.hardware.processes import rendezvous_server
from aetheria.hardware.processes.bind_address import find_bind_address
from aetheria.hardware.processes.handshake import HandshakeError, make_hello, read_verdict
from aetheria.hardware.processes.launch import Launch
from aetheria.hardware.processes.rendezvous import meet

PROMPT_SECONDS = 3.0  # a meeting takes milliseconds, and a client that came too early tries again


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Meetings:
    """Processes of one run, each a thread; `said` is what each was told: None, or the error."""

    def __init__(self, count=2, timeout=20.0):
        self.port, self.count, self.timeout = free_port(), count, timeout
        self.said: dict[str, str | None] = {}
        self._threads: list[threading.Thread] = []

    def come(self, index, *, token="secret", count=None, name=None):
        launch = Launch(
            coordinator=f"127.0.0.1:{self.port}",
            index=index,
            count=count or self.count,
            source="test",
            token=token,
        )

        def attend():
            said = None
            try:
                meet(launch, self.timeout)
            except HardwareError as error:
                said = str(error)
            self.said[name or str(index)] = said

        thread = threading.Thread(target=attend, daemon=True)
        thread.start()
        self._threads.append(thread)
        return thread

    def connect(self):
        """A connection of a stranger's, as soon as process 0 listens."""
        deadline = time.monotonic() + 10
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), timeout=5)
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def end(self):
        for thread in self._threads:
            thread.join(self.timeout + 15)
            assert not thread.is_alive()
        return self.said


def drip(line: socket.socket) -> None:
    for _ in range(400):
        line.sendall(b" ")
        time.sleep(0.2)


def endless(line: socket.socket) -> None:
    for _ in range(200):
        line.sendall(b"x" * 1_000_000)


def false_process(line: socket.socket) -> None:
    line.sendall(b'{"process": 1}\n')


def false_proof(line: socket.socket) -> None:
    challenge = json.loads(line.makefile().readline())["challenge"]
    hello, _ = make_hello(1, 2, "a guess", challenge)
    line.sendall(json.dumps(hello).encode() + b"\n")


def sends(text: bytes) -> Callable[[socket.socket], None]:
    return lambda line: line.sendall(text)


HELLO = {"process": 1, "processes": 2, "challenge": "c", "proof": "p"}
STRANGERS = {
    "garbage": sends(b"[]\n"),
    "number": sends(b"1\n"),
    "empty": sends(b"{}\n"),
    "null": sends(b"null\n"),
    "a line's end": sends(b"\n"),
    "deep": sends(b"[" * 100_000 + b"\n"),
    "deep, but short": sends(b"[" * 4000 + b"\n"),
    "HTTP": sends(b"GET / HTTP/1.1\r\n\r\n"),
    "no text": sends(bytes(range(256)) + b"\n"),
    "nothing": lambda line: None,
    "silent": lambda line: time.sleep(60),
    "drip": drip,
    "endless": endless,
    "false process": false_process,
    "false proof": false_proof,
    "index a text": sends(json.dumps({**HELLO, "process": "1"}).encode() + b"\n"),
    "index a list": sends(json.dumps({**HELLO, "process": [1]}).encode() + b"\n"),
    "index a truth": sends(json.dumps({**HELLO, "process": True}).encode() + b"\n"),
    "index huge": sends(b'{"process": 1' + b"0" * 4000 + b"}\n"),
    "no proof": sends(json.dumps({**HELLO, "proof": None}).encode() + b"\n"),
    "proof not ASCII": sends(json.dumps({**HELLO, "proof": "é"}).encode() + b"\n"),
}


@pytest.mark.parametrize("speak", STRANGERS.values(), ids=STRANGERS)
def test_a_run_meets_whoever_else_speaks(speak, capfd):
    meetings = Meetings()
    meetings.come(0)
    stranger = meetings.connect()

    def talk():
        with contextlib.suppress(OSError), stranger:
            speak(stranger)

    threading.Thread(target=talk, daemon=True).start()
    time.sleep(0.1)
    started_at = time.monotonic()
    meetings.come(1)
    assert meetings.end() == {"0": None, "1": None}
    assert time.monotonic() - started_at < PROMPT_SECONDS
    assert len(capfd.readouterr().err.splitlines()) <= 1


def test_many_silent_strangers_hold_up_nobody(capfd):
    meetings = Meetings()
    meetings.come(0)
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(meetings.connect())
        started_at = time.monotonic()
        meetings.come(1)
        assert meetings.end() == {"0": None, "1": None}
        assert time.monotonic() - started_at < PROMPT_SECONDS
    lines = capfd.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 5, "one line a second, however many come"
    assert "dropped a connection from 127.0.0.1" in lines[0]


def test_a_conversation_has_one_deadline_however_it_drips(monkeypatch, capfd):
    monkeypatch.setattr(rendezvous_server, "_HELLO_SECONDS", 0.5)
    meetings = Meetings(timeout=1.2)
    meetings.come(0)
    started_at = time.monotonic()
    with contextlib.suppress(OSError), meetings.connect() as line:
        while time.monotonic() - started_at < 5:
            line.sendall(b" ")
            time.sleep(0.1)
    assert time.monotonic() - started_at < 1.5
    assert "it did not say who it is within 0.5 s" in capfd.readouterr().err
    assert "got none for process 1" in str(meetings.end()["0"])


def test_a_false_token_is_refused_at_once_and_the_right_one_meets():
    meetings = Meetings()
    meetings.come(0)
    started_at = time.monotonic()
    meetings.come(1, token="another", name="false").join(10)
    assert "another token; give all the same --token or AETHERIA_TOKEN" in str(
        meetings.said["false"]
    )
    assert time.monotonic() - started_at < PROMPT_SECONDS
    meetings.come(1)
    assert meetings.end() | {"false": None} == {"0": None, "1": None, "false": None}


def test_a_second_process_of_one_number_is_named():
    meetings = Meetings(count=3, timeout=1.5)
    meetings.come(0)
    meetings.come(1)
    meetings.come(1, name="double").join(1.0)
    time.sleep(0.5)
    said = meetings.end()
    refused = [text for text in said.values() if text and "is here already" in text]
    assert len(refused) == 1 and "process 1 is here already, from 127.0.0.1" in refused[0]
    assert "got none for process 2 (process 1 came twice" in str(said["0"])


@pytest.mark.parametrize(
    ("index", "count", "message"),
    [(1, 3, "this run has 2 processes"), (2, 3, "this run has 2 processes")],
)
def test_processes_that_expect_another_number_are_told(index, count, message):
    meetings = Meetings()
    meetings.come(0)
    meetings.come(index, count=count, name="other").join(10)
    assert message in str(meetings.said["other"])
    meetings.come(1)
    said = meetings.end()
    assert (said["0"], said["1"]) == (None, None)


def test_a_process_that_was_cut_off_comes_again():
    meetings = Meetings(count=3)
    meetings.come(0)
    line = meetings.connect()
    challenge = json.loads(line.makefile().readline())["challenge"]
    hello, _ = make_hello(1, 3, "secret", challenge)
    line.sendall(json.dumps(hello).encode() + b"\n")
    time.sleep(0.2)
    line.close()
    meetings.come(1)
    meetings.come(2)
    assert set(meetings.end().values()) == {None}


def test_the_token_is_not_sent():
    meetings = Meetings(count=3, timeout=0.5)
    heard = bytearray()
    with socket.create_server(("127.0.0.1", meetings.port)) as server:
        meetings.come(1, token="hunter2")
        line, _ = server.accept()
        line.sendall(b'{"challenge": "c"}\n')
        heard += line.recv(4096)
        line.close()
    assert b'"process": 1' in heard and b"hunter2" not in heard
    meetings.end()


def test_who_is_not_process_0_of_this_run_is_not_believed():
    challenge = "c"
    _, mine = make_hello(1, 2, "secret", challenge)
    with pytest.raises(HandshakeError):
        read_verdict(
            {"missing": [], "num_missing": 0, "proof": "0" * 64}, "secret", challenge, mine
        )


@pytest.mark.parametrize("answer", [b"", b"[]\n", b"{}\n", b"x" * 10_000, b'{"challenge": 1}\n'])
def test_a_process_that_meets_another_server_says_so_in_time(answer):
    meetings = Meetings(timeout=0.5)
    with socket.create_server(("127.0.0.1", meetings.port)) as server:
        server.settimeout(0.5)
        meetings.come(1)
        started_at = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - started_at < 1.0:
                line, _ = server.accept()
                with line:
                    line.sendall(answer)
        said = str(meetings.end()["1"])
    assert "got none for process 0" in said
    assert ("is not of this run" in said) == (answer != b"")


def listens_at(coordinator, environ=None, **launch):
    launch = Launch(coordinator=coordinator, index=0, count=2, source="test", **launch)
    return find_bind_address(launch, environ or {}, 0.0)


def test_process_0_listens_where_the_coordinator_is(monkeypatch, capfd):
    assert listens_at("127.0.0.1:7000") == "127.0.0.1:7000"
    assert listens_at("localhost:7000") == "127.0.0.1:7000"
    assert capfd.readouterr().err == ""
    assert listens_at("h:1", {"JAX_COORDINATOR_BIND_ADDRESS": "127.0.0.1:1"}) == "127.0.0.1:1"
    assert listens_at("h:1", {"JAX_COORDINATOR_BIND_ADDRESS": "0.0.0.0:1"}) == ":1"


def test_all_interfaces_are_taken_where_they_must_and_that_is_said(monkeypatch, capfd):
    assert listens_at("192.0.2.1:7000") == ":7000"  # an address for documentation: nobody's
    assert "192.0.2.1 (192.0.2.1) is no address of this machine" in capfd.readouterr().err
    resolve = lambda *_, **__: [(socket.AF_INET, 0, 0, "", ("127.0.1.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert listens_at("node1:7000") == ":7000"
    assert "node1 leads to 127.0.1.1 on this machine" in capfd.readouterr().err
    assert listens_at("node1:7000", local_index=0, local_count=2) == "127.0.1.1:7000"


@pytest.mark.parametrize(
    ("coordinator", "environ", "message"),
    [
        ("no-such-host.invalid:1", {}, "expected the coordinator 'no-such-host.invalid' to have"),
        ("h:1", {"JAX_COORDINATOR_BIND_ADDRESS": "127.0.0.1:2"}, "the coordinator's port 1, got 2"),
        ("h:1", {"JAX_COORDINATOR_BIND_ADDRESS": "x"}, "expected host:port, got 'x'"),
    ],
)
def test_an_address_that_is_none_is_one_line(coordinator, environ, message):
    with pytest.raises(HardwareError, match=message):
        listens_at(coordinator, environ)


def test_a_stranger_on_another_interface_is_not_heard():
    meetings = Meetings()
    meetings.come(0)
    meetings.connect().close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", meetings.port), timeout=2)
    meetings.come(1)
    assert set(meetings.end().values()) == {None}
