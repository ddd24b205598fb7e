"""Strategy: which devices, which mesh, and a program compiled for them."""

from aetheria.hardware.elastic import ElasticProgram as ElasticProgram
from aetheria.hardware.predict import PredictProgram as PredictProgram
from aetheria.hardware.predict import Weights as Weights
from aetheria.hardware.program import JaxProgram as JaxProgram
from aetheria.hardware.strategy import ElasticStrategy as ElasticStrategy
from aetheria.hardware.strategy import MeshStrategy as MeshStrategy
from aetheria.hardware.strategy import select_strategy as select_strategy
