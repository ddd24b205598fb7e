"""A server with four models: what its clients are answered, whatever they send.

One process serves all tests of this module; its overload, reload and end are in
test_serve_operation.py.
"""

import base64
import http.client
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.long import long_or

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")
pytest.importorskip("PIL", reason="needs Pillow")

from support.served_models import train_models
from support.server import Server

from aetheria.data.datasets import digits as digits_data
from aetheria.inference import Predictor

MAX_BODY = 2_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def runs(train_once, folder):
    return train_models(train_once, folder)


@pytest.fixture(scope="module")
def server(runs, folder):
    started = Server(
        folder,
        *(f"{name}={run}" for name, run in runs.items()),
        f"--project={folder / 'project'}",
        "--max-body=2MB",
        "--max-rows=256",
        "--request-timeout=3",
        "--max-delay-ms=3",
    )
    yield started
    assert started.stop() == 0
    assert not [line for line in started.log if "traceback" in line], "the server raised"


@pytest.fixture(scope="module")
def predictors(runs, folder):
    return {
        name: Predictor.from_snapshot(run, project=folder / "project") for name, run in runs.items()
    }


@pytest.fixture(scope="module")
def images():
    split = digits_data().eval
    return split.read(np.arange(300) % len(split))["inputs"]


def tensor(name, array, datatype="FP32"):
    data = np.asarray(array).ravel().tolist()
    return {"name": name, "shape": [*np.shape(array)], "datatype": datatype, "data": data}


def infer(server, model, *inputs, status=200, **said):
    code, _, body = server.ask(f"/v2/models/{model}/infer", {"inputs": inputs, **said})
    answer = json.loads(body)
    assert code == status, answer
    return answer


def arrays(answer):
    """Name -> array of an answer in JSON."""
    dtypes = {"FP32": np.float32, "BYTES": object}
    return {
        o["name"]: np.array(o["data"], dtypes[o["datatype"]]).reshape(o["shape"])
        for o in answer["outputs"]
    }


def error(answer):
    assert list(answer) == ["error"] and "\n" not in answer["error"]
    assert ": expected " in answer["error"] and ", got " in answer["error"], answer
    return answer["error"]


# What the protocol says.


def test_server_and_models_describe_themselves(server, runs, predictors):
    get = lambda path: json.loads(server.ask(path)[2])
    assert get("/v2")["extensions"] == ["binary_tensor_data", "model_repository"]
    assert get("/v2/health/live") == {"live": True}
    assert get("/v2/health/ready") == {"ready": True}
    said = get("/v2/models/digits")
    step = str(predictors["digits"].step)
    assert said["versions"] == [step] and get(f"/v2/models/digits/versions/{step}") == said
    assert said["inputs"] == [{"name": "inputs", "datatype": "FP32", "shape": [-1, 64]}]
    assert [(o["name"], o["shape"]) for o in said["outputs"]] == [
        ("outputs", [-1, 10]),
        ("probabilities", [-1, 10]),
    ]
    loans = get("/v2/models/loans")
    assert [(i["name"], i["datatype"]) for i in loans["inputs"]] == [
        ("income", "FP64"),
        ("purpose", "BYTES"),
    ]
    assert loans["parameters"]["classes"] == ["no", "yes"]
    assert [o["name"] for o in loans["outputs"]] == ["outputs", "probabilities", "classes"]
    assert [i["name"] for i in get("/v2/models/parts")["inputs"]] == ["image", "word"]
    assert get("/v2/models/parts/ready")["ready"]
    index = json.loads(server.ask("/v2/repository/index", b"", method="POST")[2])
    assert [model["name"] for model in index] == [*runs]
    for path in ("/v2/models/nothing", f"/v2/models/digits/versions/{int(step) + 1}/ready"):
        code, _, body = server.ask(path)
        assert code == 404 and error(json.loads(body))


def test_answers_in_json_have_the_bits_of_the_predictor(server, predictors, images):
    predictor = predictors["digits"]
    for size in (1, 2, 3, 33, 200):
        rows = images[:size]
        answer = infer(server, "digits", tensor("inputs", rows), id="mine")
        assert answer["id"] == "mine" and answer["model_version"] == str(predictor.step)
        np.testing.assert_array_equal(arrays(answer)["outputs"], predictor.predict(rows))
        answer = infer(server, "digits", tensor("inputs", rows), parameters={"probabilities": True})
        assert [*arrays(answer)] == ["probabilities"]
        np.testing.assert_array_equal(
            arrays(answer)["probabilities"], predictor.predict_proba(rows)
        )
    wanted = [{"name": "probabilities"}, {"name": "outputs"}]
    both = arrays(infer(server, "digits", tensor("inputs", rows), outputs=wanted))
    assert [*both] == ["probabilities", "outputs"]
    assert not np.array_equal(both["outputs"], both["probabilities"])  # a control


def test_a_client_of_triton_gets_the_bits_of_the_predictor(server, predictors, images):
    http_client = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")
    with http_client.InferenceServerClient(server.address) as client:
        assert client.is_server_live() and client.is_server_ready()
        assert client.is_model_ready("digits")
        assert client.get_model_metadata("digits")["platform"] == "aetheria_jax"
        rows = images[:7]
        for binary in (False, True):
            given = http_client.InferInput("inputs", [*rows.shape], "FP32")
            given.set_data_from_numpy(rows, binary_data=binary)
            for wanted in ("outputs", "probabilities"):
                chosen = [http_client.InferRequestedOutput(wanted, binary_data=binary)]
                answer = client.infer("digits", [given], outputs=chosen, request_id="7")
                predict = "predict" if wanted == "outputs" else "predict_proba"
                expected = getattr(predictors["digits"], predict)(rows)
                np.testing.assert_array_equal(answer.as_numpy(wanted), expected)
                assert answer.get_response()["id"] == "7"
            answer = client.infer("digits", [given])  # all outputs, as raw bytes
            np.testing.assert_array_equal(
                answer.as_numpy("outputs"), predictors["digits"].predict(rows)
            )
        income = http_client.InferInput("income", [2], "FP64")
        income.set_data_from_numpy(np.array([20.0, 80.0]))
        purpose = http_client.InferInput("purpose", [2], "BYTES")
        purpose.set_data_from_numpy(np.array(["car", "house"], object))
        chosen = [http_client.InferRequestedOutput("classes")]
        answer = client.infer("loans", [income, purpose], outputs=chosen)
        cells = [{"income": 20.0, "purpose": "car"}, {"income": 80.0, "purpose": "house"}]
        assert [c.decode() for c in answer.as_numpy("classes")] == predictors[
            "loans"
        ].predict_classes(cells)
        with pytest.raises(http_client.InferenceServerException, match="expected income, purpose"):
            client.infer("loans", [income])


# Another interpreter may run it: kserve needs other versions of packages than the other tests.
KSERVE = """
import asyncio, sys
import numpy as np
from kserve import InferInput, InferRequest
from kserve.inference_client import InferenceRESTClient, RESTConfig

url, images, answer, binary = *sys.argv[1:4], sys.argv[4] == "binary"
given = InferInput("inputs", [4, 64], "FP32")
given.set_data_from_numpy(np.load(images), binary_data=binary)
request = InferRequest(model_name="digits", infer_inputs=[given])

async def ask():
    client = InferenceRESTClient(config=RESTConfig(protocol="v2"))
    try:
        assert await client.is_model_ready(url, "digits")
        return await client.infer(url, request, model_name="digits")
    finally:
        await client.close()

np.save(answer, asyncio.run(ask()).outputs[0].as_numpy())
"""


@pytest.mark.parametrize("kind", ["json", "binary"])
def test_a_client_of_kserve_gets_the_bits_of_the_predictor(
    kind, server, predictors, images, tmp_path
):
    python = os.environ.get("AETHERIA_KSERVE_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import kserve"], capture_output=True).returncode:
        pytest.skip("needs kserve, here or in AETHERIA_KSERVE_PYTHON")
    np.save(tmp_path / "images.npy", images[:4])
    files = [tmp_path / "images.npy", tmp_path / "answer.npy"]
    subprocess.run([python, "-W", "ignore", "-c", KSERVE, server.url, *files, kind], check=True)
    answer = np.load(files[1])
    assert answer.shape == (4, 10) and answer.dtype == np.float32
    np.testing.assert_array_equal(answer, predictors["digits"].predict(images[:4]))


def test_rows_of_a_table_are_encoded_as_in_training(server, predictors):
    income = {"name": "income", "datatype": "FP64", "shape": [3], "data": [20.0, None, 80]}
    purpose = {"name": "purpose", "datatype": "BYTES", "shape": [3], "data": ["car", "house", None]}
    wanted = [{"name": name} for name in ("outputs", "probabilities", "classes")]
    answer = arrays(infer(server, "loans", income, purpose, outputs=wanted))
    cells = {"income": [20.0, None, 80.0], "purpose": ["car", "house", None]}
    predictor = predictors["loans"]
    np.testing.assert_array_equal(answer["outputs"], predictor.predict(cells))
    np.testing.assert_array_equal(answer["probabilities"], predictor.predict_proba(cells))
    assert [*answer["classes"]] == predictor.predict_classes(cells)
    encoded = predictor.encode(cells).arrays
    answer = arrays(infer(server, "loans", tensor("inputs", encoded)))
    np.testing.assert_array_equal(answer["outputs"], predictor.predict(cells))
    text = {**income, "datatype": "BYTES", "data": ["20", "x", "3"]}
    assert "expected a number" in error(infer(server, "loans", text, purpose, status=400))
    assert "expected income, purpose, got income" in error(
        infer(server, "loans", income, status=400)
    )


def test_a_model_of_several_inputs_takes_each(server, predictors):
    rng = np.random.default_rng(1)
    inputs = {
        "image": rng.normal(size=(5, 4)).astype(np.float32),
        "word": rng.integers(0, 9, (5, 2)).astype(np.int32),
    }
    image, word = tensor("image", inputs["image"]), tensor("word", inputs["word"], "INT64")
    answer = arrays(infer(server, "parts", word, image))
    np.testing.assert_array_equal(answer["outputs"], predictors["parts"].predict(inputs))
    word["shape"], word["data"] = [4, 2], word["data"][:8]
    assert "as many rows in every column" in error(infer(server, "parts", word, image, status=400))
    word = tensor(
        "word", inputs["word"].astype(np.int64) + 2**40, "INT64"
    )  # would wrap around to other words
    assert "within int32" in error(infer(server, "parts", word, image, status=400))


def test_pictures_may_be_files_or_pixels(server, predictors, folder, runs):
    predictor = predictors["shapes"]
    files = sorted((folder / "pictures").glob("*/*.png"))[:3]
    expected = predictor.predict([*files])
    data = [base64.b64encode(file.read_bytes()).decode() for file in files]
    given = {"name": "inputs", "datatype": "BYTES", "shape": [3], "data": data}
    wanted = [{"name": "outputs"}, {"name": "classes"}]
    answer = arrays(infer(server, "shapes", given, outputs=wanted))
    np.testing.assert_array_equal(answer["outputs"], expected)
    assert [*answer["classes"]] == predictor.predict_classes([*files])
    pixels = np.random.default_rng(0).integers(0, 255, (2, 9, 11, 3)).astype(np.uint8)
    answer = arrays(infer(server, "shapes", tensor("inputs", pixels, "UINT8")))
    np.testing.assert_array_equal(answer["outputs"], predictor.predict(pixels))
    # A path is no picture: a client does not read files of the server.
    path = {**given, "shape": [1], "data": [str(files[0])]}
    assert "base64" in error(infer(server, "shapes", path, status=400))
    path["data"] = [base64.b64encode(str(files[0]).encode()).decode()]
    assert "expected a picture" in error(infer(server, "shapes", path, status=400))


def test_a_small_file_of_a_huge_picture_is_refused(server):
    from PIL import Image

    content = io.BytesIO()
    Image.new("1", (10_000, 11_000)).save(content, "PNG")
    data = [base64.b64encode(content.getvalue()).decode()]
    given = {"name": "inputs", "datatype": "BYTES", "shape": [1], "data": data}
    assert "pixels, got 10000 x 11000" in error(infer(server, "shapes", given, status=400))


# What goes wrong.

GOOD = tensor("inputs", np.zeros((1, 64)))
BAD_BODIES = {
    "no JSON": b"{",
    "not UTF-8": b'{"inputs": "\xff"}',
    "NaN": json.dumps({"inputs": [{**GOOD, "data": [float("nan")] * 64}]}).encode(),
    "Infinity": json.dumps({"inputs": [{**GOOD, "data": [float("inf")] * 64}]}).encode(),
    "null": json.dumps({"inputs": [{**GOOD, "data": [None] * 64}]}).encode(),
    "a list": b"[]",
    "nothing": b"",
    "no inputs": b"{}",
    "deep": b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "another name": {"inputs": [{**GOOD, "name": "x"}]},
    "twice": {"inputs": [GOOD, GOOD]},
    "dtype unknown": {"inputs": [{**GOOD, "datatype": "FP99"}]},
    "dtype is a list": {"inputs": [{**GOOD, "datatype": []}]},
    "text for numbers": {"inputs": [{**GOOD, "data": ["0"] * 64}]},
    "texts": {"inputs": [{**GOOD, "datatype": "BYTES", "data": ["0"] * 64}]},
    "floats for ints": {"inputs": [{**GOOD, "datatype": "INT32", "data": [0.5] * 64}]},
    "beyond INT8": {"inputs": [{**GOOD, "datatype": "INT8", "data": [300] * 64}]},
    "beyond FP32": {"inputs": [{**GOOD, "data": [1e300] * 64}]},
    "beyond FP64": b'{"inputs":[{"name":"inputs","shape":[1],"datatype":"FP64","data":[1e999]}]}',
    "a long number": b'{"inputs":[{"name":"a","shape":[1],"datatype":"INT64","data":[%s]}]}'
    % (b"9" * 6000),
    "shape": {"inputs": [{**GOOD, "shape": [1, 63], "data": [0] * 63}]},
    "shape and data": {"inputs": [{**GOOD, "shape": [2, 64]}]},
    "no rows dim": {"inputs": [{**GOOD, "shape": [64]}]},
    "negative": {"inputs": [{**GOOD, "shape": [-1, 64]}]},
    "huge": {"inputs": [{**GOOD, "shape": [2**40, 64]}]},
    "ragged": {"inputs": [{**GOOD, "shape": [2, 2], "data": [[1, 2, 3], [4]]}]},
    "many rows": {"inputs": [tensor("inputs", np.zeros((257, 64)))]},
    "unknown output": {"inputs": [GOOD], "outputs": [{"name": "x"}]},
    "an output twice": {"inputs": [GOOD], "outputs": [{"name": "outputs"}] * 2},
    "unknown parameter": {"inputs": [GOOD], "parameters": {"probabilites": True}},
    "a parameter's type": {"inputs": [GOOD], "parameters": {"probabilities": "yes"}},
    "id": {"inputs": [GOOD], "id": 3},
    "binary without bytes": {"inputs": [{**GOOD, "parameters": {"binary_data_size": 256}}]},
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_wrong_body_is_one_line(server, name):
    code, headers, body = server.ask("/v2/models/digits/infer", BAD_BODIES[name], method="POST")
    assert code == 400 and headers["content-type"] == "application/json"
    error(json.loads(body))


def test_a_right_body_is_answered_after_all_these(server):
    assert infer(server, "digits", GOOD)


def binary(json_said, blob, length=None):
    head = json.dumps(json_said).encode()
    said = str(len(head) if length is None else length)
    return head + blob, {"Inference_Header_Content_Length": said}


@pytest.mark.parametrize(
    ("size", "blob", "length"),
    [
        (256, b"\0" * 255, None),
        (256, b"\0" * 257, None),
        (252, b"\0" * 252, None),
        (-1, b"\0" * 256, None),
        (256, b"\0" * 256, 10**9),
        (256, b"\0" * 256, -1),
        (256, b"\0" * 256, "x"),
        (256, b"\0" * 256, 3),
    ],
)
def test_wrong_lengths_of_binary_data_are_one_line(server, size, blob, length):
    given = {**GOOD, "parameters": {"binary_data_size": size}}
    del given["data"]
    body, headers = binary({"inputs": [given]}, blob, length)
    code, _, said = server.ask("/v2/models/digits/infer", body, **headers)
    assert code == 400 and error(json.loads(said))
    given["parameters"]["binary_data_size"] = 256  # the control
    body, headers = binary({"inputs": [given]}, b"\0" * 256)
    assert server.ask("/v2/models/digits/infer", body, **headers)[0] == 200


def test_an_answer_that_json_cannot_hold_is_said(server):
    given = {**GOOD, "data": [3e38] * 64}
    assert "binary_data" in error(infer(server, "digits", given, status=422))
    wanted = [{"name": "outputs", "parameters": {"binary_data": True}}]
    code, headers, _ = server.ask("/v2/models/digits/infer", {"inputs": [given], "outputs": wanted})
    assert code == 200 and "inference-header-content-length" in headers


def raw(server, head, chunks=(), seconds=20.0):
    """What a client gets that writes by hand."""
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(head)
        try:
            for chunk in chunks:
                connection.sendall(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
                if b"}" in answer:
                    break
        except ConnectionResetError:
            pass
    return answer


POST = b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\n"


def test_a_long_body_is_refused_before_and_while_it_is_read(server):
    answer = raw(server, POST + b"Content-Length: 1073741824\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413") and b"at most 2000000 bytes" in answer
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    answer = raw(server, POST + b"Transfer-Encoding: chunked\r\n\r\n", [chunk] * 40)
    assert answer.startswith(b"HTTP/1.1 413")
    # A client that sends all of a gigabyte before it reads.
    connection = http.client.HTTPConnection(server.address, timeout=60)
    connection.putrequest("POST", "/v2/models/digits/infer")
    connection.putheader("Content-Length", str(2**30))
    connection.endheaders()
    piece = b" " * 2**20
    for _ in range(long_or(64, 1024)):
        connection.send(piece)
    answer = connection.getresponse()
    assert answer.status == 413 and error(json.loads(answer.read()))
    connection.close()


def test_slow_and_lying_clients_are_answered_in_time(server):
    whole = json.dumps({"inputs": [GOOD]}).encode()
    started = time.monotonic()
    longer = POST + b"Content-Length: %d\r\n\r\n" % (len(whole) + 1) + whole
    assert raw(server, longer).startswith(b"HTTP/1.1 408")
    assert time.monotonic() - started < 10
    shorter = POST + b"Content-Length: %d\r\n\r\n" % (len(whole) - 1) + whole
    assert raw(server, shorter).startswith(b"HTTP/1.1 400")
    twice = POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n" + whole
    answer = raw(server, twice)
    assert answer.startswith(b"HTTP/1.1 400") and b'{"error"' in answer
    assert raw(server, b"GET / HTTP/1.1\r\nX: ").startswith(b"HTTP/1.1 408")  # never ends
    assert raw(server, b"\x16\x03\x01\x02\r\n\r\n").startswith(b"HTTP/1.1 400")  # TLS
    assert raw(server, b"GET /v2 HTTP/1.1\r\nX: " + b"x" * 100_000).startswith(b"HTTP/1.1 400")
    code, _, body = server.ask("/v2/models/digits/infer", whole, Content_Encoding="gzip")
    assert code == 415 and error(json.loads(body))
    code, _, body = server.ask("/v2/models/digits/infer", method="DELETE")
    assert code == 405 and "error" in json.loads(body)
    assert infer(server, "digits", GOOD)


# What it does with many.


def test_no_answer_of_many_clients_is_lost_or_has_another_bit(server, predictors, images):
    predictor, per_client = predictors["digits"], long_or(30, 625)
    expected = {}
    for start in range(0, 200, 7):
        for size in (1, 2, 3, 5, 8):
            rows = images[start : start + size]
            expected[start, size] = predictor.predict(rows), predictor.predict_proba(rows)

    def work(number):
        connection = http.client.HTTPConnection(server.address, timeout=60)
        rng = np.random.default_rng(number)
        keys = [*expected]
        for count in range(per_client):
            start, size = keys[rng.integers(len(keys))]
            name = ("outputs", "probabilities")[count % 2]
            given = {
                "name": "inputs",
                "datatype": "FP32",
                "shape": [size, 64],
                "parameters": {"binary_data_size": size * 256},
            }
            wanted = [{"name": name, "parameters": {"binary_data": True}}]
            head = json.dumps({"inputs": [given], "outputs": wanted, "id": f"{number}-{count}"})
            blob = images[start : start + size].tobytes()
            headers = {"Inference-Header-Content-Length": str(len(head))}
            path = "/v2/models/digits/infer"
            connection.request("POST", path, head.encode() + blob, headers)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, body
            length = int(answer.headers["Inference-Header-Content-Length"])
            assert json.loads(body[:length])["id"] == f"{number}-{count}"
            assert body[length:] == expected[start, size][count % 2].tobytes()
        connection.close()
        return per_client

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(work, range(16))) == 16 * per_client
    text = server.ask("/metrics")[2].decode()
    assert joined_calls(text, "digits") > 1.01, text


def joined_calls(text, model):
    """Calls in a computation, on average."""
    read = lambda name: next(
        float(line.split()[-1])
        for line in text.splitlines()
        if line.startswith(f'aetheria_joined_calls_{name}{{model="{model}"}}')
    )
    return read("sum") / read("count")


def test_requests_are_counted_and_logged_with_their_id(server):
    _, headers, _ = server.ask("/v2/models/digits/infer", {"inputs": [GOOD]}, X_Request_Id="abc-1")
    assert headers["x-request-id"] == "abc-1"
    line = server.wait_for("request", request_id="abc-1")
    assert line["status"] == 200 and line["model"] == "digits" and line["seconds"] > 0
    _, headers, _ = server.ask("/v2", X_Request_Id='"; evil')
    assert headers["x-request-id"] != '"; evil'
    text = server.ask("/metrics")[2].decode()
    assert 'aetheria_requests_total{route="/v2/models/{name}/infer",status="200"}' in text
    assert 'aetheria_rows_total{model="digits"}' in text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the client's own
def test_no_request_that_the_description_allows_is_an_error_of_the_server(server):
    schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")
    import hypothesis

    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    infer_path = "/v2/models/{name}/infer"
    seen = []

    for operation in (result.ok() for result in schema.get_all_operations()):

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(
            max_examples=long_or(5, 100),
            deadline=None,
            suppress_health_check=[*hypothesis.HealthCheck],
            database=None,
        )
        def ask(case):
            if "name" in case.path_parameters:
                case.path_parameters["name"] = "digits"
            answer = case.call(base_url=server.url)
            seen.append((case.path, answer.status_code))
            assert answer.status_code < 500, answer.text

        ask()
    assert infer_path in {path for path, _ in seen}
    assert infer(server, "digits", GOOD)


# What a browser shows.


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    driver = shutil.which("chromedriver")
    if driver is None or shutil.which("chromium") is None:
        pytest.skip("needs chromium and chromedriver, Debian's chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    started.set_page_load_timeout(60)
    yield started
    started.quit()


@pytest.mark.slow
def test_a_browser_shows_the_answer_of_each_kind_of_model(server, browser, predictors, folder):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    wait = WebDriverWait(browser, 30)
    find = lambda name: browser.find_element(By.ID, name)
    browser.get(server.url)
    wait.until(lambda _: find("hint").text)

    def ask(model, text=None, file=None):
        Select(find("model")).select_by_visible_text(model)
        described = json.loads(server.ask(f"/v2/models/{model}")[2])["inputs"]
        wait.until(lambda _: all(i["name"] in find("inputs").text for i in described))
        wait.until(
            lambda _: (
                len(browser.find_elements(By.CSS_SELECTOR, "#inputs tr")) == 1 + len(described)
            )
        )
        find("text").clear()
        if text is not None:
            find("text").send_keys(text)
        if file is not None:
            find("file").send_keys(str(file))
        find("ask").click()
        wait.until(lambda _: find("answer").text or find("error").text)
        return find("error").text, find("answer").text

    images = digits_data().eval.read(np.arange(1))["inputs"]
    said, answer = ask("digits", " ".join(map(str, images[0].tolist())))
    number = int(predictors["digits"].predict(images).argmax())
    assert said == "" and answer.startswith(f"row 1: class {number}")
    said, answer = ask("digits", "1, 2, 3")
    assert "expected" in said and answer == ""  # a control
    said, answer = ask("loans", "income,purpose\n20,car\n80,house\n")
    cells = [{"income": 20, "purpose": "car"}, {"income": 80, "purpose": "house"}]
    first, second = predictors["loans"].predict_classes(cells)
    assert said == "" and f"row 1: {first}" in answer and f"row 2: {second}" in answer
    share = predictors["loans"].predict_proba(cells)[0].max()
    assert f"{100 * share:.1f} %" in answer
    said, answer = ask("parts", '{"image": [1, 2, 3, 4], "word": [5, 6]}')
    assert said == "" and "row 1: class" in answer
    picture = folder / "pictures" / "dark" / "0.png"
    said, answer = ask("shapes", file=picture)
    assert said == "" and f"row 1: {predictors['shapes'].predict_classes([picture])[0]}" in answer
    assert not [
        line
        for line in browser.get_log("browser")
        if line["level"] == "SEVERE"
        and "400" not in line["message"]
        and "favicon" not in line["message"]
    ]
