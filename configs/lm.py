r"""Transformer, a small language model, on the bytes of Python's own documentation.

    python -m aetheria.main --config=configs/lm.py

On the last tenth of the text, which is held out, accuracy 0.64 and a loss of 1.33 (1.91 bits per
byte) after 5 epochs, 1,025 steps, a minute and a half on two CPU cores, for the documentation of
Python 3.11.7. To train on a text file of your own:

    python -m aetheria.main --config=configs/lm.py \
        --config.data_name=tokens --config.data_params.path=FILE.txt
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.model_name = "Transformer"
    config.model_params = {
        "vocab_size": 256,
        "num_layers": 4,
        "width": 128,
        "num_heads": 4,
        "max_length": 128,
    }
    config.data_name = "python_docs"
    config.data_params = {"length": 128}
    config.epochs = 5
    config.batch_size = 16
    config.learning_rate = 3e-3
    config.max_grad_norm = 1.0
    config.seed = 0
    return config
