"""Small tools on task graphs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import dask.array as da
from dask._task_spec import Alias, DataNode, Task, TaskRef, convert_legacy_graph
from dask.base import clone_key, tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

__all__ = ["Graph", "graph_of", "partitions_of", "read_after", "read_again"]

Graph = dict[Hashable, Any]


def graph_of(array: da.Array) -> Graph:
    """Tasks that the blocks of an array need, and no others, optimised as dask does it for an array.

    Blocks that a cluster holds (`persist`) come as the futures they are.
    """
    tasks, held = _split(array)
    return tasks | held


def _split(array: da.Array) -> tuple[Graph, Graph]:
    """Tasks that the blocks of an array need, and the futures that they refer to or that are blocks themselves.

    dask takes a future under its own key for an alias to itself, and drops it from the graph.
    """
    blocks = list(_flat(array.__dask_keys__()))
    tasks = convert_legacy_graph(dict(da.optimize(array.dask, blocks)))
    return tasks, _dropped(tasks, blocks, array.dask)


def _dropped(tasks: Graph, blocks: Sequence[Hashable], graph: Mapping[Hashable, Any]) -> Graph:
    """What blocks and tasks name and only the graph before conversion holds."""
    needed = set(blocks).union(*(task.dependencies for task in tasks.values()))
    return {key: graph[key] for key in needed - tasks.keys() if key in graph}


def read_again(array: da.Array, seed: str) -> da.Array:
    """The same array under other keys, so that its chunks are read again and not kept.

    That is what `dask.graph_manipulation.clone` is for; in dask 2026.7 it renames the keys of a
    materialised layer, as slicing makes them, but not the references inside, and so shares all.
    Blocks that a cluster holds already are shared.
    """
    rename = lru_cache(None)(lambda name: clone_key(name, seed))

    def other(key: Hashable) -> Hashable:
        return (rename(key[0]), *key[1:]) if isinstance(key, tuple) else rename(key)

    graph = convert_legacy_graph(dict(array.dask))
    blocks = list(_flat(array.__dask_keys__()))
    held = _dropped(graph, blocks, array.dask)
    names = {k: other(k) for k in graph}
    tasks: Graph = {names[k]: v.substitute(names, key=names[k]) for k, v in graph.items()} | held
    tasks |= {other(k): Alias(other(k), target=k) for k in blocks if k in held}
    name = rename(array.name)
    return da.Array(HighLevelGraph.from_collections(name, tasks), name, array.chunks, meta=array._meta)


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
        graph, held = _split(part)
        names = {k: (name, i, *k[2:]) if k[0] == part.name else clone_key(k, f"{name}-{i}") for k in graph}
        small = {k for k, v in graph.items() if isinstance(v, DataNode)} | held.keys()
        tasks |= held
        for k in (k for k in _flat(part.__dask_keys__()) if k in held):
            tasks[name, i, *k[2:]] = Task((name, i, *k[2:]), _second, TaskRef(key), TaskRef(k))
        for k, task in graph.items():
            renamed = task.substitute(names, key=names[k])
            first = isinstance(task, Task) and task.dependencies <= small
            tasks[names[k]] = Task(names[k], _second, TaskRef(key), renamed) if first else renamed
    layers = HighLevelGraph.from_collections(name, tasks, dependencies=dependencies)
    return da.Array(layers, name, array.chunks, meta=array._meta)


def partitions_of(table: Any) -> list[Delayed]:
    """Partitions of a dask table, under keys that a graph of arrays can refer to.

    `to_delayed` ends in aliases that have the key of what they stand for (dask 2026.7), which the
    optimisation of arrays takes for cycles. Here they are followed and left out.
    """
    parts = table.to_delayed(optimize_graph=False)
    graph = dict(parts[0].dask) if parts else {}
    keys = []
    for part in parts:
        key = part.key
        while isinstance(graph.get(key), Alias):
            key = graph[key].target
        keys.append(key)
    aliases = {k for k, task in graph.items() if isinstance(task, Alias) and task.key != k}
    name = f"partitions-{tokenize(keys)}"
    layers = HighLevelGraph.from_collections(name, {k: v for k, v in graph.items() if k not in aliases})
    return [Delayed(key, layers, layer=name) for key in keys]


def _second(_: Any, value: Any) -> Any:
    return value


def _flat(keys: Any) -> Any:
    for key in keys:
        if isinstance(key, list):
            yield from _flat(key)
        else:
            yield key
