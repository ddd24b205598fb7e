"""Where examples come from, and the order in which they are served, which the seed alone decides.

A new dataset is a file here with a function under `@register_data("name")` that returns
`DataSplits`; a config selects it by that name. Nothing else has to be changed: the registry
searches this folder, and the folder `data/` of a user's project. A new kind of storage is a class
with the two methods of `Source`.
"""

from aetheria.data.feed import Feed as Feed
from aetheria.data.sources import ArraySource as ArraySource
from aetheria.data.sources import DataSplits as DataSplits
from aetheria.data.sources import RecordSource as RecordSource
from aetheria.data.sources import Source as Source
