"""What the objective is compared with: rank_terms in float64, with tolerances for float32, and terms by hand."""

import math
from functools import cache

import numpy as np
from scipy.special import huber, log_softmax, softmax
from scipy.stats import pearsonr, rankdata

from kernels.rank_terms import SHARPE
from kernels.ranks import EPSILON
from tests.kernels.faces import EPS, block, evaluated, to_numpy


def compare(found, expected, asked, upstream=2.0):
    """With tolerances for results in float32: 64 EPS of what a result is made of.

    Terms are sums of numbers of their own size or of 1. A gradient is compared with the largest of its cross-section,
    and with what a term may give a score before its parts along 1 and z are taken out, which may leave nothing of it;
    z itself has fewer digits the further the scores' mean is from 0, which both are allowed.
    The daily returns of `sharpe` cancel: a digit is lost for each that their deviation lies below the returns.
    """
    lost = lost_digits(asked)
    terms = 64 * EPS * np.maximum(np.nan_to_num(np.abs(expected.terms)), 1)
    terms[SHARPE] *= lost * (1 + np.abs(np.nan_to_num(expected.terms[SHARPE])))
    names = to_numpy(asked.mask.sum(-1)).clip(1)
    # An entry is one of all, in `sharpe` one of its day, and days count alike.
    share = to_numpy(asked.horizon_weights)[:, None] / np.minimum(names.sum(), names.shape[1] * names)
    mean, deviation = moments(asked)
    of_rows = share * names / (share * names).sum()
    terms *= 1 + (of_rows * np.abs(mean) / deviation).sum()
    np.testing.assert_array_less(np.nan_to_num(np.abs(found.terms - expected.terms)), terms, err_msg="terms")
    np.testing.assert_array_equal(np.isnan(found.terms), np.isnan(expected.terms), err_msg="terms")
    weights = np.abs(to_numpy(asked.weights))
    np.testing.assert_allclose(found.loss, expected.loss, rtol=0, atol=weights @ terms, err_msg="loss")
    size = upstream * weights.sum() * share * (1 + np.abs(mean) / deviation) / deviation / float(asked.tau)
    for h, g in np.ndindex(size.shape):
        outside = ~asked.mask[h, g].numpy()
        for kind in ("by_scores", "by_quantiles"):
            ours, theirs = getattr(found, kind)[h, g], getattr(expected, kind)[h, g]
            within = 64 * EPS * lost * (np.abs(theirs).max(initial=0) + size[h, g])
            where = f"{kind} of horizon {h}, day {g}"
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=within, err_msg=where)
            assert not ours[outside].any(), where


def cross_sections(asked):
    """Each that counts: its horizon, day, and valid scores, targets, returns and quantiles in float64."""
    for h, g in np.ndindex(*asked.mask.shape[:2]):
        valid = asked.mask[h, g].numpy()
        arrays = (asked.scores, asked.targets, asked.returns, asked.quantiles)
        if valid.sum() >= 2:
            yield h, g, *(to_numpy(array[h, g])[valid] for array in arrays)


def moments(asked):
    """Mean and deviation, with its floor, of the scores; [H, G] each, 0 and 1 where there are fewer than two."""
    mean, deviation = np.zeros(asked.mask.shape[:2]), np.ones(asked.mask.shape[:2])
    for h, g, s, *_ in cross_sections(asked):
        mean[h, g], deviation[h, g] = s.mean(), np.sqrt(s.var() + EPSILON**2)
    return mean, deviation


def daily_returns(asked):
    """Of each horizon: the returns of portfolios of the standardised scores."""
    found = [[] for _ in asked.mask]
    for h, _, s, _, r, _ in cross_sections(asked):
        z = standardised(s)
        found[h].append((z * r).sum() / max(np.abs(z).sum(), EPSILON))
    return found


def lost_digits(asked):
    if asked.weights[SHARPE] == 0:
        return 1.0
    largest = float(asked.returns[asked.mask].abs().max()) if asked.mask.any() else 0.0
    return max([1.0, *(largest / np.std(daily) for daily in daily_returns(asked) if len(daily) > 1 and np.std(daily))])


def standardised(values):
    return (values - values.mean()) / np.sqrt(values.var() + EPSILON**2)


@cache
def small(face, ranked):
    """What a face makes of a block of days that differ in their number of names."""
    asked = block(4, horizons=1, days=2, names=14, missing=0.25, rotations=(1, 4, 13), ranked=ranked)
    return asked, evaluated(face, asked)


def by_hand(term, scores, targets, quantiles, asked):
    """A term of one cross-section as its definition says, in float64."""
    z, ranks = standardised(scores), rankdata(targets)
    aims = standardised(ranks if asked.ranked else targets)
    u = (z[:, None] - z) / float(asked.tau)
    soft = 0.5 + np.where(u >= 0, 1 - np.exp(-np.abs(u)) / 2, np.exp(-np.abs(u)) / 2).sum(1)
    if term == "rank_ic":
        return 1 - pearsonr(soft, ranks)[0]
    if term == "ic":
        return 1 - pearsonr(scores, aims)[0]
    if term == "spearman":
        return ((soft - ranks) ** 2).mean() * 3 / (len(z) ** 2 - 1)
    if term == "huber":
        return huber(1, scores - aims).mean()
    if term == "quantile":
        levels, total = to_numpy(asked.levels), 0.0
        for aim, outputs in zip(aims, quantiles, strict=True):
            for level, output in zip(levels, outputs, strict=True):
                total += level * (aim - output) if aim > output else (1 - level) * (output - aim)
        return total / quantiles.size
    assert term == "listnet"
    return -(softmax(aims / float(asked.temperature)) * log_softmax(scores)).sum()


def pairwise_by_hand(asked, h, g):
    """In bits, over pairs of valid names whose targets differ."""
    valid, targets = asked.mask[h, g].tolist(), asked.targets[h, g].tolist()
    scores = to_numpy(asked.scores[h, g])
    z = (scores - scores[valid].mean()) / scores[valid].std()
    losses = []
    for shift in asked.rotations.tolist():
        for i in range(len(valid)):
            j = (i + shift) % len(valid)
            if valid[i] and valid[j] and targets[i] > targets[j]:
                losses.append(math.log2(1 + math.exp(z[j] - z[i])))
            if valid[i] and valid[j] and targets[i] < targets[j]:
                losses.append(math.log2(1 + math.exp(z[i] - z[j])))
    return np.mean(losses)
