"""Where examples come from, in an order that only the seed decides."""

from aetheria.data.feed import Feed as Feed
from aetheria.data.sources import ArraySource as ArraySource
from aetheria.data.sources import DataSplits as DataSplits
from aetheria.data.sources import RecordSource as RecordSource
from aetheria.data.sources import Source as Source
