"""The native kernels: built where there is a C++ compiler, and not needed where there is none.

Everything else about the package stands in pyproject.toml.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "moesaic.experts._native",
            sources=["src/moesaic/experts/native/grouped.cpp"],
            depends=["src/moesaic/experts/native/kernels.h"],
            language="c++",
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                "-g0",
                "-fvisibility=hidden",
                "-fno-math-errno",
                "-fno-trapping-math",
                # Vectors longer than the processor's registers never leave the file, so it does not matter how they
                # are passed.
                "-Wno-psabi",
                # GCC 12's own header for float16 conversions sets it off.
                "-Wno-maybe-uninitialized",
            ],
            optional=True,
        )
    ]
)
