"""Builds the compiled evaluation of MSD-nets where a C++ compiler is there; all else is in pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "hrtem_dask.kernels.msdnet._msdnet",
            sources=["hrtem_dask/kernels/msdnet/msdnet.cpp"],
            depends=["hrtem_dask/kernels/msdnet/msdnet_sweep.hpp"],
            extra_compile_args=["-O3", "-std=c++17", "-pthread"],
            extra_link_args=["-pthread"],
            py_limited_api=True,
            optional=True,  # without a compiler the package installs all the same and PyTorch does the work
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
