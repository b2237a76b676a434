"""How fast the package is, against others and against its own bare kernel.

    python -m benchmarks [NAMES ...] [--quick] [--threads N] [--repeats N] [--out benchmarks/RESULTS.md]

runs the benchmarks named (by default all) and writes one Markdown file: the machine, the versions,
the command, and a table or two a benchmark. ``make bench`` installs the peers (extra ``bench``)
and runs all of them; a peer that is not installed is left out with a line that says so.

How to read the tables
----------------------
* Timings on a shared machine vary by a quarter from minute to minute; ratios taken in one run hold
  better. So every ratio comes from pairs, timed in turn (A B A B ...), and is given as
  *minimum / median / maximum* over the pairs. Rates (Mpx/s, in millions of pixels of the input a
  second) are medians over the same timings. Close everything else before a run that you will quote.
* ``kernel``: "faster by" says how many times as long the other takes for a pixel as our compiled
  evaluation of a 1024 x 1024 image, on the same cores. The peers are taken at their best: over tile sides, batch
  sizes, and all cores at one tile or one tile a core; and their rate counts every pixel they
  evaluate, as if a tile needed no halo. "with halo" is the smaller rate that is left when tiles
  with a halo of 64 pixels must cover the same image; it is not what the ratio is taken from.
  Each is checked against the float64 reference before it is timed. "graph" says which ONNX graph
  was run: "exported" is what exporting ``MSDNet.forward`` gives; "by dilation" is rewritten, as
  our kernel works, and nothing that a user would get by exporting.
  "% of peak" counts 9 D (D + 1) floating-point operations a pixel.
* ``tiling``: the time of `segment` over that of the bare kernel on the whole frame, beside the
  ratio of the pixels that are evaluated: what is above it is the cost of everything else.
* ``scaling``: `segment` from Zarr to Zarr on a local cluster, against as many processes that
  evaluate images of the network's size in a loop and do nothing else, on the same cores.
* ``graph``: the time to build the graph of `segment`; nothing is computed.
* ``start``: fresh processes, from the end of the imports to the first result.
* ``simulation``: exit waves and images a minute and core, of every recipe; rates are of processor time
  where they are not of the clock.
* ``low_dose``: the shipped network on hard simulated scenes; other networks, figures and cards by
  ``python -m benchmarks.low_dose``, see its module.
* ``gigapixel``: peak memory of workers for frames up to 32,768 x 32,768; see its module.
"""
