"""SimpleCNN on Fashion-MNIST: 70,000 images of clothes, 28x28 pixels.

    apt-get install dataset-fashion-mnist
    python -m aetheria.main --config=configs/cnn.py

Test accuracy 0.92 after 5 epochs, 2,345 steps, about two minutes on two CPU cores.
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.model_name = "SimpleCNN"
    config.model_params = {
        "conv_dims": (32, 64),
        "hidden_dim": 256,
        "num_classes": 10,
        "dropout": 0.4,
    }
    config.data_name = "fashion_mnist"
    config.data_params = {}
    config.epochs = 5
    config.batch_size = 128
    config.learning_rate = 2e-3
    config.max_grad_norm = 1.0
    config.seed = 0
    return config
