"""Small tools on task graphs."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import dask.array as da
from dask._task_spec import DataNode, Task, TaskRef, convert_legacy_graph
from dask.base import clone_key, tokenize
from dask.highlevelgraph import HighLevelGraph

__all__ = ["Graph", "graph_of", "read_after"]

Graph = dict[Hashable, Any]


def graph_of(array: da.Array) -> Graph:
    """Tasks that the blocks of an array need, and no others, optimised as dask does it for an array."""
    return convert_legacy_graph(dict(da.optimize(array.dask, list(_flat(array.__dask_keys__())))))


def read_after(array: da.Array, keys: Sequence[Hashable], dependencies: Sequence[Any] = ()) -> da.Array:
    """The same array under other keys, none of whose tasks starts before what it has to wait for is there.

    For a second pass over data that a worker must not keep, nor read again too early: without it the
    scheduler fills the time until the end of the first pass with reading for the second, and
    shares what it still has. (`dask.graph_manipulation.bind` is meant for that; in dask 2026.7 it
    renames the keys of a materialised layer but not the references to them.)

    Parameters
    ----------
    array : dask Array
        Lazy data.
    keys : sequence of keys
        For each block along the first axis, the task to wait for.
    dependencies : sequence of collections
        Those that hold these tasks, where the caller does not add them to the graph.
    """
    name = f"{array.name}-after-{tokenize(array.name, keys)}"
    tasks: Graph = {}
    for i, key in enumerate(keys):
        part = array if len(keys) == 1 else array.blocks[i:i + 1]
        graph = graph_of(part)
        names = {k: (name, i, *k[2:]) if k[0] == part.name else clone_key(k, f"{name}-{i}") for k in graph}
        small = {k for k, v in graph.items() if isinstance(v, DataNode)}
        for k, task in graph.items():
            renamed = task.substitute(names, key=names[k])
            first = isinstance(task, Task) and task.dependencies <= small
            tasks[names[k]] = Task(names[k], _second, TaskRef(key), renamed) if first else renamed
    layers = HighLevelGraph.from_collections(name, tasks, dependencies=dependencies)
    return da.Array(layers, name, array.chunks, meta=array._meta)


def _second(_: Any, value: Any) -> Any:
    return value


def _flat(keys: Any) -> Any:
    for key in keys:
        if isinstance(key, list):
            yield from _flat(key)
        else:
            yield key
