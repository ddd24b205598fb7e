"""KServe's Python server with a model that Aetheria exported: `kserve_server FOLDER PORT`."""

import importlib
import logging
import sys
from typing import Any

import numpy as np
from kserve import InferOutput, InferResponse, Model, ModelServer


class Exported(Model):
    """The exported program, as a researcher would put it behind KServe."""

    def __init__(self, folder: str):
        super().__init__("bench")
        sys.path.insert(0, folder)
        self._run = importlib.import_module("predict").run  # predict.py lies beside the export
        self.ready = True

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """Answers a request with the outputs of its rows."""
        outputs = np.asarray(self._run("predict", payload.inputs[0].as_numpy()))
        answer = InferOutput("outputs", list(outputs.shape), "FP32")
        answer.set_data_from_numpy(outputs, binary_data=False)
        return InferResponse(
            payload.id or "",  # it refuses to answer a request without an id
            "bench",
            [answer],
            requested_outputs=payload.request_outputs,
            use_binary_outputs=payload.use_binary_outputs,
        )


def main() -> None:
    """Serves until it is killed."""
    logging.disable(logging.WARNING)  # its access log
    server = ModelServer(http_port=int(sys.argv[2]), enable_grpc=False, workers=1)
    server.start([Exported(sys.argv[1])])


if __name__ == "__main__":
    main()
