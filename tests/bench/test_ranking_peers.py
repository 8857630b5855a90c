"""The peers of the ranking kernels: what each computes is what its definition says, forward and backward."""

import math
from itertools import islice

import numpy as np
import pytest
import torch
from scipy.optimize import isotonic_regression
from scipy.stats import rankdata, spearmanr

from bench.measurement.memory import peak_memory
from bench.peers import Unable, installed_peer, load_peer, missing_package, peer_names
from bench.peers.ranking.plain_terms import loss
from bench.peers.ranking.torchsort import STRENGTH
from bench.workloads import reference
from bench.workloads.ranking import CPU, LEVELS, ROTATIONS, TAU, Ranking, Sections, fresh_sections
from kernels.rank_terms import TERMS

TASKS = {
    "soft_rank": ["fast_soft_sort", "pairwise", "plain", "torchsort"],
    "spearman": ["argsort", "scipy"],
    "objective": ["plain_terms", "soft_rank"],
    "pairwise": ["all_pairs"],
}
WORK = Ranking(3, 60, CPU)


def delivered(name, work=WORK, count=3):
    """Blocks and what the peer makes of them, on its second pass."""
    peer = installed_peer(name)
    with peer.build(work) as able:
        blocks = list(islice(fresh_sections(able), 2 * count))
        list(peer.run(able, blocks[:count]))
        results = list(peer.run(able, blocks[count:]))
        assert len(results) == count
        return able, list(zip(blocks[count:], results, strict=True))


def valid_rows(block, *arrays):
    """Each cross-section's valid entries, as float64, of each array."""
    for row, valid in enumerate(block.mask.numpy()):
        yield tuple(array[row].double().numpy()[valid] for array in arrays)


@pytest.mark.parametrize(("task", "names"), TASKS.items())
def test_every_file_is_a_peer_of_its_task(task, names):
    assert peer_names(task) == names
    for name in names:
        peer = load_peer(name)
        assert peer.BLOCKS >= 1
        assert callable(peer.build)
        assert callable(peer.run)
        assert missing_package(peer) in (None, "torchsort", "fast_soft_sort")  # what no installation of ours brings


@pytest.mark.parametrize(("name", "masked"), [("pairwise", False), ("plain", True), ("soft_rank", True)])
def test_kernel_soft_ranks_are_those_of_all_pairs(name, masked):
    able, results = delivered(name)
    assert able.masked == masked
    for block, (ranks, gradient) in results:
        assert bool(block.mask.all()) != masked
        for scores, upstream, found, slope in valid_rows(block, block.scores, block.upstream, ranks, gradient):
            expected, expected_slope = reference.soft_rank(scores, upstream, TAU)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)  # an ulp of float32 at rank 60 is 4e-6
            np.testing.assert_allclose(slope, expected_slope, rtol=0, atol=1e-4 * np.abs(expected_slope).max())
        assert not gradient[~block.mask].any()


@pytest.mark.parametrize("name", ["torchsort", "fast_soft_sort"])
def test_projected_soft_ranks_are_those_of_isotonic_regression(name):
    able, results = delivered(name)
    assert not able.masked
    for block, (ranks, gradient) in results:
        for scores, upstream, found, slope in valid_rows(block, block.scores, block.upstream, ranks, gradient):
            expected, expected_slope = projected(scores, upstream, STRENGTH / len(scores))
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
            np.testing.assert_allclose(slope, expected_slope, rtol=0, atol=1e-3 * np.abs(expected_slope).max())


def projected(scores, upstream, strength):
    """Soft ranks s / strength - v of Blondel et al. 2020, and their gradient; v is a decreasing isotonic regression.

    In a pool of the regression v is a mean, so ranks depend on the scores less the pool's mean.
    """
    order = np.argsort(-scores)
    descending = scores[order] / strength
    fit = isotonic_regression(descending - np.arange(len(scores), 0, -1), increasing=False)
    ranks, slope = np.empty_like(scores), np.empty_like(scores)
    ranks[order] = descending - fit.x
    for begin, end in zip(fit.blocks[:-1], fit.blocks[1:], strict=True):
        pool = order[begin:end]
        slope[pool] = (upstream[pool] - upstream[pool].mean()) / strength
    return ranks, slope


@pytest.mark.parametrize("n", [500, 2000])
def test_strength_makes_projected_ranks_about_as_soft_as_ours(n):
    ours, theirs, none = [], [], np.zeros(n)
    for scores in np.random.default_rng(0).standard_normal((8, n)):
        hard = rankdata(scores)
        ours.append(reference.soft_rank(scores, none, TAU)[0] - hard)
        theirs.append(projected(scores, none, STRENGTH / n)[0] - hard)
    assert 0.5 < np.std(theirs) / np.std(ours) < 2


def test_scipy_and_argsort_are_spearman():
    for name in ("scipy", "argsort"):
        able, results = delivered(name)
        for block, found in results:
            if name == "argsort":  # exact where nothing ties
                untied = block.targets + torch.linspace(0, 1e-4, able.names)
                ((found,),) = [list(load_peer(name).run(able, [Sections(**{**vars(block), "targets": untied})]))]
                rows = valid_rows(block, block.scores, untied)
            else:
                rows = valid_rows(block, block.scores, block.targets)
            expected = [reference.spearman(a, b) for a, b in rows]
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_plain_terms_are_weighted_by_names():
    (block,) = islice(fresh_sections(WORK), 1)
    by_ic, by_rank_ic, names = [], [], []
    for scores, targets in valid_rows(block, block.scores, block.targets):
        soft, hard = reference.soft_rank(scores, scores, TAU)[0], rankdata(targets)
        by_ic.append(1 - np.corrcoef(scores, hard)[0, 1])
        by_rank_ic.append(1 - np.corrcoef(soft, hard)[0, 1])
        names.append(len(scores))
    assert len(set(names)) > 1
    expected = np.average(np.add(by_ic, by_rank_ic), weights=names)
    block = Sections(**{**vars(block), "weights": torch.tensor([float(term in ("ic", "rank_ic")) for term in TERMS])})
    assert loss(("rank_ic", "ic"), block, block.scores.double()).item() == pytest.approx(expected, abs=1e-9)


def test_gradients_of_plain_terms_are_differences():
    work, results = delivered("plain_terms", count=1)
    ((block, (value, by_scores, by_quantiles)),) = results
    scores, quantiles = block.scores.double(), block.quantiles.double()
    assert value.item() == pytest.approx(loss(work.terms, block, scores, quantiles).item(), abs=1e-5)
    random = torch.Generator().manual_seed(1)
    for inputs, gradient in ((scores, by_scores), (quantiles, by_quantiles)):
        step = torch.randn(inputs.shape, generator=random, dtype=torch.float64) * 1e-6
        before = inputs.clone()
        inputs += step
        up = loss(work.terms, block, scores, quantiles)
        inputs.copy_(before - step)
        down = loss(work.terms, block, scores, quantiles)
        inputs.copy_(before)
        assert ((up - down) / 2).item() == pytest.approx((gradient.double() * step).sum().item(), rel=1e-3)


def test_all_pairs_is_the_mean_over_pairs_in_bits():
    work, results = delivered("all_pairs", Ranking(2, 25, CPU))
    for block, (value, gradient) in results:
        expected = []
        for scores, targets in valid_rows(block, block.scores, block.targets):
            z = (scores - scores.mean()) / scores.std()
            losses = [
                math.log2(1 + math.exp(-(z[i] - z[j]) * np.sign(targets[i] - targets[j])))
                for i in range(work.names)
                for j in range(work.names)
                if targets[i] != targets[j]
            ]
            expected.append(np.mean(losses))
        assert value.item() == pytest.approx(np.mean(expected), abs=1e-5)
        assert gradient.shape == (2, 25)
        # Scores' level and scale do not matter, so the gradient has no part along either.
        assert gradient.sum(-1).abs().max() < 1e-5
        assert (gradient * block.scores).sum(-1).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["pairwise", "all_pairs"])
def test_all_pairs_that_fit_no_memory_are_refused_with_the_reason(name):
    with (
        pytest.raises(Unable, match=r"16 x 8000 take 28\.7 GB, more than 8"),
        load_peer(name).build(Ranking(16, 8000, CPU)),
    ):
        pass


def test_definitions_are_those_of_scipy_and_of_differences():
    random = np.random.default_rng(0)
    scores, upstream = random.standard_normal(300).round(1), random.standard_normal(300)
    ties = random.integers(0, 40, 300)
    assert len(np.unique(scores)) < 100
    assert reference.spearman(scores, ties) == pytest.approx(spearmanr(scores, ties).statistic, abs=1e-14)
    np.testing.assert_array_equal(reference.average_ranks(ties), rankdata(ties))
    # A narrow kernel leaves ranks; the gradient is checked for a wide one.
    np.testing.assert_allclose(reference.soft_rank(scores, upstream, 1e-3)[0], rankdata(scores), rtol=0, atol=1e-9)
    step = 1e-6 * random.standard_normal(300)
    scores += 0.01 * random.standard_normal(300)  # kinks at ties have no difference quotient
    up, down = (reference.soft_rank(scores + side, upstream, TAU)[0] for side in (step, -step))
    gradient = reference.soft_rank(scores, upstream, TAU)[1]
    assert upstream @ (up - down) / 2 == pytest.approx(gradient @ step, rel=1e-6)


def test_sections_are_fresh_tied_and_masked_and_the_same_without_masks():
    first, second = islice(fresh_sections(Ranking(16, 500, CPU)), 2)
    assert not torch.equal(first.scores, second.scores)
    assert abs(float(first.mask.float().mean()) - 0.9) < 0.02  # 8,000 entries: 6 standard errors
    assert len(first.targets.unique()) < first.targets.numel() / 5
    assert first.quantiles.shape == (16, 500, len(LEVELS))
    assert len(first.rotations.unique()) == ROTATIONS
    assert 1 <= first.rotations.min() <= first.rotations.max() <= 499
    assert dict(zip(TERMS, first.weights.tolist(), strict=True)) == {**dict.fromkeys(TERMS, 1), "pairwise": 0}
    (bare,) = islice(fresh_sections(Ranking(16, 500, CPU, masked=False)), 1)
    assert bare.mask.all()
    assert torch.equal(bare.scores, first.scores)
    assert torch.equal(bare.upstream, first.upstream)


def test_peak_memory_counts_what_is_freed_before_the_end():
    def twice():
        for _ in range(2):
            np.ones(4_000_000)

    assert 31e6 < peak_memory(twice, CPU) < 40e6
    assert peak_memory(lambda: None, CPU) < 1e6
