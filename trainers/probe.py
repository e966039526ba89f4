"""A linear probe: the head as a regularised logistic regression on a frozen body's features."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from trainers.schedule import Balance

PENALTIES = tuple(10 ** (1 - step / 2) for step in range(11))
"""Penalties: factors of half of the squared weights, relative to the mean log loss, 10 to 1e-4."""

FOLDS = 5
MOST_LOGITS = 2**25
"""A limit over all folds: with more photos times classes, fewer folds score a penalty."""

_ROUGH = 1e-3
"""The tolerance of starts, and of scored fits: a looser one favours weak penalties."""

_FLAT = 1e-3
"""The minimum curvature, for the case that all photos are right."""

_UNJUDGED = 0.1
"""The penalty where no class has two photos, so that none can be held out."""


def fit_probe(
    head: nn.Sequential,
    photos: Tensor,
    mirrored: Tensor,
    labels: Tensor,
    balance: Balance,
    widths: Sequence[int] = (),
) -> float:
    """Make a head without hidden layers the probe of these features; return its log loss on them.

    `labels` are (n,) classes, or (n, C) of several labels each: then it is a regression for each
    label, under one penalty.

    BatchNorm gets the features' means and, of all features alike, the mean of their variances: by
    its own, a feature that hardly varies would count as much as any other, which on photos from
    elsewhere makes more errors. Features of several levels, `widths` of each, have one such mean a
    level, times its width over the first one's, so that all levels count alike, however many
    features they have. Linear gets the regression on BatchNorm's outputs, so that the head is a
    normal one and can be trained further. Features, (n, F) each, are of the photos and of
    their mirror images in the same order.
    """
    several = labels.ndim == 2
    if several and balance is not Balance.NONE:
        raise ValueError(f"balance must be none for several labels, got {balance}")
    linear: Any = head[-1]
    features, truth = torch.cat([photos, mirrored]), torch.cat([labels, labels])
    _normalize(head[0], features, widths)
    with torch.no_grad():
        inputs = head.eval()[:-1](features)
    regression = (SeveralRegressions if several else Regression).of(
        inputs, truth, linear.out_features
    )
    strata = torch.zeros_like(regression.labels[:, 0]).long() if several else regression.labels
    weights = class_weights(strata, linear.out_features, balance)
    penalty = choose_penalty(regression, deal_folds(strata[: len(labels)]), weights)
    found = regression.fit(weights[:, None], penalty)
    with torch.no_grad():
        linear.weight.copy_(regression.turned_back(found[:-1]).T)
        linear.bias.copy_(found[-1])
    return float(regression.losses(found).mean())


@torch.no_grad()
def _normalize(norm: Any, features: Tensor, widths: Sequence[int]) -> None:
    widths = list(widths) or [features.shape[1]]
    variance, mean = torch.var_mean(features, 0, correction=0)
    norm.running_mean.copy_(mean)
    # The quotient first: it is 1 for a single level, whose mean keeps its last bit.
    means = [own.mean() * (len(own) / widths[0]) for own in torch.split(variance, widths)]
    norm.running_var.copy_(torch.cat([own.expand(n) for own, n in zip(means, widths, strict=True)]))
    nn.init.ones_(norm.weight)
    nn.init.zeros_(norm.bias)


@dataclass(frozen=True)
class Regression:
    """Multinomial logistic regressions on the same inputs, fitted side by side, one per column.

    `inputs` (n, R) are float64, for a minimum that does not depend on the way to it. They are the
    given ones, (n, F), turned by `turned`, (F, R), to their principal axes, of which there are no
    more than samples: that changes no distance, and so nothing about a fit with squared weights.
    `squares`, (R,), are the means of their squares. A column's coefficients are those of each input
    for each class, and below them the biases.
    """

    inputs: Tensor
    labels: Tensor
    n_classes: int
    turned: Tensor
    squares: Tensor

    @classmethod
    def of(cls, inputs: Tensor, labels: Tensor, n_classes: int) -> Self:
        """Prepare the regressions on inputs of any float type."""
        # Apple's GPUs do not know float64.
        device = torch.device("cpu") if inputs.device.type == "mps" else inputs.device
        inputs, labels = inputs.to(device).double(), labels.to(device)
        first = None
        if len(inputs) < inputs.shape[1]:
            first, shorter = torch.linalg.qr(inputs.T)
            inputs = shorter.T
        squares, axes = torch.linalg.eigh(inputs.T @ inputs / len(inputs))
        turned = axes if first is None else first @ axes
        return cls((inputs @ axes).contiguous(), labels, n_classes, turned, squares.clamp(min=0))

    def fit(
        self,
        weights: Tensor,
        penalty: float,
        start: Tensor | None = None,
        *,
        tolerance: float = 1e-6,
    ) -> Tensor:
        """Minimise for each column the mean log loss, weighted, plus penalty / 2 * squared weights.

        `weights` are (n, columns). Biases are free. `start`, such as the coefficients under another
        penalty, saves iterations, and so does the preconditioning: the loss has about equal
        curvature in all coordinates at the start, which by default is a rough fit. `tolerance` is
        that of the gradient there.
        """
        if start is None:
            size = self.inputs.shape[1] + 1, weights.shape[1] * self.n_classes
            start = self.fit(weights, penalty, self.inputs.new_zeros(size), tolerance=_ROUGH)
        likely = self._likely(self._logits(start))
        curvature = (likely * (1 - likely)).mean().clamp(min=_FLAT)
        units = torch.cat([curvature * self.squares + penalty, curvature[None]]).rsqrt()[:, None]
        shares = weights / weights.sum(0)
        found = (start / units).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [found],
            max_iter=500,
            history_size=20,
            tolerance_grad=tolerance * min(1.0, penalty) ** 0.5,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            coefficients = found * units
            squares = coefficients[:-1].square().sum()
            total = (shares * self.losses(coefficients)).sum() + penalty / 2 * squares
            total.backward()  # type: ignore[no-untyped-call]
            return total

        optimizer.step(loss)  # type: ignore[no-untyped-call]
        return (found * units).detach()

    def losses(self, coefficients: Tensor) -> Tensor:
        """Return the log loss of each sample in each column, (n, columns)."""
        logits = self._logits(coefficients)
        truth = self.labels[:, None, None].expand(-1, logits.shape[1], 1)
        return logits.logsumexp(2) - logits.gather(2, truth)[:, :, 0]

    def _likely(self, logits: Tensor) -> Tensor:
        return logits.softmax(2)

    def _logits(self, coefficients: Tensor) -> Tensor:
        """Return the log-probabilities of each sample in each column, (n, columns, C)."""
        logits = torch.addmm(coefficients[-1], self.inputs, coefficients[:-1])
        return logits.view(len(self.inputs), -1, self.n_classes)

    def turned_back(self, weights: Tensor) -> Tensor:
        """Return the weights for the original inputs."""
        return self.turned @ weights


class SeveralRegressions(Regression):
    """Logistic regressions, one for each label, (n, C), that a photo has or has not."""

    def losses(self, coefficients: Tensor) -> Tensor:
        """Return the log loss of each sample in each column, the mean over labels, (n, columns)."""
        logits = self._logits(coefficients)
        truth = self.labels[:, None].expand_as(logits).to(logits.dtype)
        kept = nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        return kept.mean(2)

    def _likely(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()


def choose_penalty(regression: Regression, folds: Tensor, weights: Tensor) -> float:
    """Return the penalty with the least cross-validated log loss.

    `folds` are those of the photos; the regression's samples are these and their mirror images.
    """
    few = max(1, min(FOLDS, MOST_LOGITS // (len(weights) * regression.n_classes)))
    sides = torch.cat([folds, folds])
    held = (sides[:, None] == torch.arange(few, device=sides.device)) * weights[:, None]
    if not held.any():
        return _UNJUDGED
    found, scores = None, list[float]()
    for penalty in PENALTIES:
        found = regression.fit(weights[:, None] - held, penalty, found, tolerance=_ROUGH)
        scores.append(float((held * regression.losses(found)).sum()))
        if len(scores) > 2 and scores[-1] > scores[-2] > scores[-3]:
            break  # weaker penalties overfit even more
    return PENALTIES[scores.index(min(scores))]


def deal_folds(labels: Tensor) -> Tensor:
    """Deal photos into folds, class by class: a pure function of their labels.

    Neighbours, which may show the same object, share a fold. A class's only photo is in none (-1):
    a regression cannot be scored on a class that it has not seen.
    """
    folds = torch.full_like(labels, -1)
    for label in labels.unique():  # type: ignore[no-untyped-call]
        members = (labels == label).nonzero()[:, 0]
        if len(members) > 1:
            ranks = torch.arange(len(members), device=labels.device)
            folds[members] = (ranks * FOLDS // len(members) + label) % FOLDS
    return folds


def class_weights(labels: Tensor, n_classes: int, balance: Balance) -> Tensor:
    """Return each sample's weight: 1, or inverse to the size of its class."""
    if balance is Balance.NONE:
        return torch.ones(len(labels), dtype=torch.float64, device=labels.device)
    return balancing(labels, n_classes)[labels]


def balancing(labels: Tensor, n_classes: int) -> Tensor:
    """Return a weight for each class, (C,), inverse to its count: 1 in the mean over samples."""
    counts = torch.bincount(labels, minlength=n_classes).double()
    return len(labels) / (counts.clamp(min=1) * (counts > 0).sum())
