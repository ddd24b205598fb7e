"""Files of weights: what they contain, and how a model and a snapshot are made of one."""

from aetheria.build.weights.reading import ImportedWeights as ImportedWeights
from aetheria.build.weights.reading import WeightsRequest as WeightsRequest
from aetheria.build.weights.reading import first_snapshot as first_snapshot
from aetheria.build.weights.reading import link_weights as link_weights
from aetheria.build.weights.reading import looks_like_weights as looks_like_weights
from aetheria.build.weights.reading import read_weights as read_weights
from aetheria.build.weights.reading import spec_of_data as spec_of_data
