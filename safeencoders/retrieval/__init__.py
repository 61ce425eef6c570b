"""Retrieval: an index of pictures and texts, searched as they were or through the safe towers."""

from safeencoders.retrieval.embedder import Embedder, Kind, Mode
from safeencoders.retrieval.index import Index
from safeencoders.retrieval.items import Hit, Remark
from safeencoders.retrieval.shelf import Backend

__all__ = ["Backend", "Embedder", "Hit", "Index", "Kind", "Mode", "Remark"]
