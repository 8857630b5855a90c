"""How busy the device was: samples of training alone, their mean, and nothing where nobody can be asked."""

import sys
import time

import pytest
import torch

from engine.training import usage
from engine.training.usage import Usage, watch_usage


def test_only_samples_while_an_epoch_trains_count():
    shares = iter([0.1, 0.2, 0.3, 0.4, 0.9, 0.8, 0.7, 0.6])
    used = Usage(lambda: next(shares))
    for _ in range(2):
        used.sample_device()  # opening, validation
        with used.of_training():
            for _ in range(4):
                used.sample_device()
    used.sample_device()
    assert used.epochs == [[0.1, 0.2, 0.3, 0.4], [0.9, 0.8, 0.7, 0.6]]
    assert used.utilization == pytest.approx(0.5)
    assert used.last_utilization == pytest.approx(0.75)


def test_training_that_failed_is_over():
    used = Usage(lambda: 0.5)
    with pytest.raises(ValueError, match="loss"), used.of_training():
        raise ValueError("loss")
    used.sample_device()
    assert used.epochs == [[]]


@pytest.mark.parametrize("samples", [0, usage.FEWEST - 1])
def test_too_few_samples_are_no_mean(samples):
    used = Usage(lambda: 0.5)
    assert used.last_utilization is None
    with used.of_training():
        for _ in range(samples):
            used.sample_device()
    assert used.utilization is None
    assert used.last_utilization is None


def test_a_cpu_is_not_asked():
    said = []
    with watch_usage(torch.device("cpu"), said.append) as used, used.of_training():
        for _ in range(usage.FEWEST):
            used.sample_device()
    assert used.utilization is None
    assert not said


def test_a_gpu_without_nvml_is_said_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as if it were not installed
    said = []
    with watch_usage(torch.device("cuda"), said.append) as used, used.of_training():
        used.sample_device()
    assert used.utilization is None
    assert len(said) == 1
    assert "nvidia-ml-py" in said[0]


def test_the_watcher_samples_while_it_lasts(monkeypatch):
    monkeypatch.setattr(usage, "PERIOD_S", 0.001)
    monkeypatch.setattr(usage, "_nvml_sampler", lambda device, say: lambda: 0.25)
    with watch_usage(torch.device("cuda"), print) as used, used.of_training():
        while used.utilization is None:
            time.sleep(0.001)
    assert used.utilization == 0.25
    assert used.anonymous > 0
    samples = len(used.epochs[0])
    time.sleep(0.01)
    assert len(used.epochs[0]) == samples
