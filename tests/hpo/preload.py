"""What all workers import, once for all of them: it takes 4 s.

The engine is not here, since it refuses to run in a fork of the process that imported it.
"""
# ruff: noqa: F401

import numba
import optuna.storages
import pyarrow.parquet
import pydantic
import rich.live
import rich.progress
import safetensors.torch
import scipy.linalg
import tensorboard.summary.writer.record_writer
import torch._inductor
import triton.language

numba.njit(lambda x: x)(0)  # loads what numba loads when it first compiles
