"""SimpleMLP on scikit-learn's handwritten digits.

    python -m aetheria.main --config=configs/mlp.py

Test accuracy 0.98 after 30 epochs, a few seconds on the CPU of a laptop.
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.model_name = "SimpleMLP"
    config.model_params = {
        "input_dim": 64,
        "hidden_dim": 256,
        "num_layers": 2,
        "num_classes": 10,
        "dropout": 0.2,
    }
    config.data_name = "digits"
    config.epochs = 30
    config.batch_size = 64
    config.learning_rate = 3e-3
    config.max_grad_norm = 1.0
    config.seed = 0
    return config
