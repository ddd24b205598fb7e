"""A server in operation: its token, newer snapshots under traffic, overload, and its end."""

import http.client
import json
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")

from support.runs import DIGITS
from support.served_models import write_project
from support.server import Server

from aetheria.data.datasets import digits as digits_data
from aetheria.inference import Predictor

TOKEN = "a-secret-of-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
MAX_QUEUE = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("operated")


@pytest.fixture(scope="module")
def snapshots(train_once, folder):
    """Two snapshots of one run; the run folder that is served holds the first one."""
    run = train_once("whole", **{**DIGITS, "learning_rate": 0.03}).run_dir
    paths = [run / "checkpoints" / f"snapshot_ep{epoch}" for epoch in (1, 2)]
    served = folder / "digits" / "checkpoints"
    served.mkdir(parents=True)
    shutil.copytree(paths[0], served / paths[0].name)
    return paths


@pytest.fixture(scope="module")
def slow(train_once, folder):
    project = write_project(folder / "project")
    return train_once("slow", **{**DIGITS, "epochs": 1, "model_name": "Slow"}, project=project)


@pytest.fixture(scope="module")
def server(snapshots, slow, folder):
    (folder / "token").write_text(f"{TOKEN}\n")
    started = Server(
        folder,
        f"digits={folder / 'digits'}",
        f"slow={slow.run_dir}",
        f"--project={folder / 'project'}",
        f"--token-file={folder / 'token'}",
        f"--max-queue={MAX_QUEUE}",
        "--reload-every=0.2",
        "--request-timeout=20",
        "--min-batch-size=8",
        "--max-joined-rows=8",
    )
    yield started
    started.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def images():
    return digits_data().eval.read(np.arange(8))["inputs"]


def question(rows):
    tensor = {"name": "inputs", "shape": [*rows.shape], "datatype": "FP32"}
    return {"inputs": [{**tensor, "data": rows.ravel().tolist()}]}


def ask(server, model, rows, **headers):
    headers = headers or BEARER
    return server.ask(f"/v2/models/{model}/infer", question(rows), **headers)


def waiting(seconds):
    """A row for which the model `Slow` takes so long."""
    return np.full((1, 64), seconds, np.float32)


def test_a_token_is_asked_of_every_client(server, images):
    assert ask(server, "digits", images)[0] == 200
    for wrong in ("", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer é"):
        code, headers, body = server.ask("/v2/models/digits", Authorization=wrong)
        assert code == 401 and headers["www-authenticate"] == "Bearer"
        assert TOKEN not in body.decode() and "error" in json.loads(body)
    for path in ("/metrics", "/v2", "/openapi.json", "/v2/repository/index"):
        assert server.ask(path)[0] == 401
    for path in ("/", "/v2/health/live", "/v2/health/ready"):
        assert server.ask(path)[0] == 200
    assert not [line for line in server.log if TOKEN in json.dumps(line)]


def test_padded_calls_of_one_row_are_joined_without_another_bit(server, snapshots, images):
    predictor = Predictor.from_snapshot(snapshots[0], min_batch_size=8, max_batch_size=1024)
    expected = predictor.predict(images)

    def work(number):
        row = images[number : number + 1]
        answers = []
        for _ in range(20):
            code, _, body = ask(server, "digits", row)
            assert code == 200, body
            answers.append(json.loads(body)["outputs"][0]["data"])
        return [np.array_equal(np.float32(a), expected[number]) for a in answers]

    with ThreadPoolExecutor(MAX_QUEUE) as pool:
        assert all(all(equal) for equal in pool.map(work, range(MAX_QUEUE)))
    text = server.ask("/metrics", **BEARER)[2].decode()
    bucket = 'aetheria_joined_calls_bucket{le="1.0",model="digits"} '
    alone = float(text.split(bucket)[1].split()[0])
    count = float(text.split('aetheria_joined_calls_count{model="digits"} ')[1].split()[0])
    assert alone < count  # some were joined


def test_every_answer_under_a_reload_is_wholly_old_or_wholly_new(server, snapshots, folder, images):
    old, new = (
        Predictor.from_snapshot(path, min_batch_size=8, max_batch_size=1024) for path in snapshots
    )
    expected = {str(p.step): p.predict(images) for p in (old, new)}
    assert not np.isclose(*expected.values()).all(1).any()
    done = threading.Event()

    def work(_):
        seen = []
        while not done.is_set():
            code, _, body = ask(server, "digits", images)
            assert code == 200, body
            said = json.loads(body)
            answer = np.float32(said["outputs"][0]["data"]).reshape(8, 10)
            np.testing.assert_array_equal(answer, expected[said["model_version"]])
            seen.append(said["model_version"])
        return seen

    with ThreadPoolExecutor(3) as pool:
        seen = [pool.submit(work, n) for n in range(3)]
        try:
            time.sleep(0.5)
            arrived = folder / "digits" / "arriving"
            shutil.copytree(snapshots[1], arrived)
            arrived.rename(folder / "digits" / "checkpoints" / snapshots[1].name)
            server.wait_for("reloaded", model="digits")
            time.sleep(0.5)
        finally:
            done.set()
    versions = [version for future in seen for version in future.result()]
    assert set(versions) == {str(old.step), str(new.step)}
    for future in seen:  # once new, never old again
        assert future.result() == sorted(future.result(), key=int)


def test_a_snapshot_that_cannot_be_read_leaves_the_old_one(server, snapshots, folder, images):
    before = ask(server, "digits", images)[2]
    damaged = folder / "digits" / "damaged"
    shutil.copytree(snapshots[1], damaged)
    for file in (damaged / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            content = bytearray(file.read_bytes())
            content[len(content) // 2 :: 97] = b"\0" * len(content[len(content) // 2 :: 97])
            file.write_bytes(content)
    target = folder / "digits" / "checkpoints" / snapshots[1].name
    target.rename(folder / "digits" / "aside")
    damaged.rename(target)
    server.wait_for("reload_failed", model="digits")
    assert ask(server, "digits", images)[2] == before
    path = "/v2/repository/models/digits/load"
    assert server.ask(path, b"{}", method="POST")[0] == 401
    code, _, body = server.ask(path, b"{}", method="POST", **BEARER)
    assert code == 409 and "expected" in json.loads(body)["error"]
    shutil.rmtree(target)
    (folder / "digits" / "aside").rename(target)
    deadline = time.monotonic() + 30
    while server.ask(path, b"{}", method="POST", **BEARER)[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_full_server_answers_429_and_recovers(server, images):
    ask(server, "slow", waiting(0))
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: ask(server, "slow", waiting(0.5)), range(12)))
    codes = [code for code, _, _ in answers]
    assert set(codes) == {200, 429} and codes.count(200) >= MAX_QUEUE
    for code, headers, body in answers:
        if code == 429:
            assert headers["retry-after"] == "1" and "at once" in json.loads(body)["error"]
    # What is not a prediction is answered all the while, and predictions are again.
    assert server.ask("/v2/health/ready")[0] == 200
    assert ask(server, "digits", images)[0] == 200


def test_the_event_loop_answers_while_the_models_compute(server):
    with ThreadPoolExecutor(3) as pool:
        computed = [pool.submit(ask, server, "slow", waiting(1.5)) for _ in range(3)]
        time.sleep(0.3)
        started = time.monotonic()
        for _ in range(5):
            assert server.ask("/v2/health/live")[0] == 200
        assert not any(call.done() for call in computed)
        assert time.monotonic() - started < 1.2
        assert [call.result()[0] for call in computed] == [200, 200, 200]


def test_a_client_that_leaves_frees_its_place(server, images):
    for _ in range(2 * MAX_QUEUE):
        connection = http.client.HTTPConnection(server.address, timeout=10)
        connection.putrequest("POST", "/v2/models/digits/infer")
        for name, value in {**BEARER, "Content-Length": "1000"}.items():
            connection.putheader(name, value)
        connection.endheaders()
        connection.send(b"{")
        connection.close()
    deadline = time.monotonic() + 10
    while ask(server, "digits", images)[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_signal_ends_it_after_what_is_under_way(server, images):
    """The last test of this server."""
    watcher = http.client.HTTPConnection(server.address, timeout=10)
    ready = lambda: _status(watcher, "/v2/health/ready")
    assert ready() == 200
    with ThreadPoolExecutor(2) as pool:
        under_way = [pool.submit(ask, server, "slow", waiting(2)) for _ in range(2)]
        time.sleep(0.7)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert ready() == 503
        code, headers, _ = ask(server, "digits", images)
        assert code == 503 and headers["retry-after"] == "1"
        assert [call.result()[0] for call in under_way] == [200, 200]
    watcher.close()
    assert server.stop() == 0
    assert server.lines("ended") == [{**server.lines("ended")[0], "unanswered": 0}]
    assert not [line for line in server.log if "traceback" in line]


def test_a_second_signal_does_not_wait(slow, folder):
    project = f"--project={folder / 'project'}"
    impatient = Server(folder, f"slow={slow.run_dir}", project, "--max-joined-rows=1")
    try:
        with ThreadPoolExecutor(1) as pool:
            under_way = pool.submit(ask, impatient, "slow", waiting(5))
            time.sleep(0.7)
            impatient.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            started = time.monotonic()
            assert not under_way.done()
            assert impatient.stop() == 0
            assert time.monotonic() - started < 4
            code, headers, body = under_way.result()
    finally:
        impatient.stop(signal.SIGKILL)
    assert code == 503 and headers["retry-after"] == "1" and "got its end" in body.decode()
    assert not [line for line in impatient.log if "traceback" in line]


def _status(connection, path):
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    return answer.status


# Mistakes on the command line.


def test_a_mistake_is_one_line_before_anything_is_served(command, snapshots, tmp_path):
    run = str(snapshots[0].parent.parent)
    (tmp_path / "empty").write_text("\n")
    for words, line in {
        ("nothing",): "snapshot: expected one at nothing, got nothing there",
        (run, run): "expected a name for each model, got 'whole' twice; write NAME=RUN",
        (f"a b={run}",): "expected a name of letters",
        (run, "--token-file=none"): "--token-file: expected a text file that can be read",
        (run, "--token-file=empty"): "empty: expected a token of visible ASCII characters",
        (run, "--host=300.0.0.1"): "expected an address to listen on, got 300.0.0.1:0",
        (run, "--max-joined-rows=3"): "expected a power of two from 1 to 1024, got '3'",
        (run, "--max-delay-ms=-1"): "expected a number from 0 to 10000, got '-1'",
    }.items():
        done = command("serve", *words, "--port=0")
        assert done.returncode == 2 and line in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_one_line(command, snapshots):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = command("serve", str(snapshots[0]), f"--port={port}")
    assert done.returncode == 2 and f"got 127.0.0.1:{port} (Address already in use)" in done.stderr
