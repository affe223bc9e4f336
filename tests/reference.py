"""The slow twin of the maths: float64 loops straight from the equations, over plain lists.

It shares no code with the package and uses neither torch nor a library's softmax. Samples are lists of logit rows with
lists of labels; a label of -100 takes no part. Everything is in nats and natural units.
"""

import math
import random
from collections.abc import Callable, Sequence

IGNORED = -100
MASK_DISTANCE = 5000
LOWEST = -126 * math.log(2)  # of the smallest normal number in single precision
NUM_BINS = 15
Row = list[float]
Rows = list[Row]


def random_samples(
    seed: int,
    size: int = 60,
    num_classes: int = 5,
    scale: float = 2.0,
    ignored: float = 0.1,
    absent: int | None = None,
    masked: float = 0.0,
) -> tuple[Rows, list[int]]:
    """Logits and labels with unequal classes, wrong answers, a shift per row, ignored labels, and masked classes."""
    generator = random.Random(seed)
    classes = [c for c in range(num_classes) if c != absent]
    logits, labels = [], []
    for _ in range(size):
        label = generator.choices(classes, weights=[1 + c for c in classes])[0]
        shift = generator.gauss(0, 5)
        row = [shift + generator.gauss(0, scale) + (1.5 * scale if c == label else 0) for c in range(num_classes)]
        logits.append(row)
        labels.append(IGNORED if generator.random() < ignored else label)
        if masked:
            kept = generator.randrange(num_classes)  # one class at least can be chosen
            logits[-1] = [
                value if c == kept or generator.random() >= masked else -math.inf for c, value in enumerate(row)
            ]
    return logits, labels


# One row


def allowed(row: Row) -> list[int]:
    """The classes that are not masked."""
    return [c for c, value in enumerate(row) if value >= max(row) - MASK_DISTANCE]


def log_sum_exp(values: Row) -> float:
    largest = max(values)
    return largest + math.log(math.fsum(math.exp(value - largest) for value in values))


def log_softmax(row: Row, temperature: float = 1.0) -> Row:
    """-inf for masked classes."""
    classes = allowed(row)
    normalizer = log_sum_exp([row[c] / temperature for c in classes])
    return [row[c] / temperature - normalizer if c in classes else -math.inf for c in range(len(row))]


def finite(log_probs: Row) -> Row:
    """Masked classes as improbable, beside the largest, as single precision can tell."""
    return [max(log_probs) + LOWEST if value == -math.inf else value for value in log_probs]


def softmax(row: Row, temperature: float = 1.0) -> Row:
    return [math.exp(value) for value in log_softmax(row, temperature)]


def entropy(probs: Row) -> float:
    return -math.fsum(p * math.log(p) for p in probs if p > 0)


def kl(probs: Row, other: Row) -> float:
    """KL(p || q) with 0 log 0 = 0."""
    return math.fsum(p * (math.log(p) - math.log(q)) for p, q in zip(probs, other, strict=True) if p > 0)


def cross_entropy(probs: Row, other_log_probs: Row) -> float:
    return -math.fsum(p * q for p, q in zip(probs, finite(other_log_probs), strict=True))


def centred(row: Row) -> Row:
    mean = math.fsum(row) / len(row)
    return [value - mean for value in row]


def deviations(row: Row) -> dict[int, float]:
    """From the mean of the classes that are not masked, by class."""
    classes = allowed(row)
    mean = math.fsum(row[c] for c in classes) / len(classes)
    return {c: row[c] - mean for c in classes}


def argmax(row: Row) -> int:
    return row.index(max(row))


def mean_row(rows: Rows) -> Row:
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


# Samples


def valid_samples(logits: Rows, labels: list[int], correct_only: bool = False) -> tuple[Rows, list[int]]:
    kept = [
        (row, label)
        for row, label in zip(logits, labels, strict=True)
        if label != IGNORED and (not correct_only or argmax(row) == label)
    ]
    return [row for row, _ in kept], [label for _, label in kept]


def centroids(logits: Rows, labels: list[int], temperature: float = 1.0) -> Rows:
    """Mean output of each class; 0 where there is no sample."""
    logits, labels = valid_samples(logits, labels)
    num_classes = len(logits[0])
    table = []
    for c in range(num_classes):
        cluster = [softmax(row, temperature) for row, label in zip(logits, labels, strict=True) if label == c]
        table.append(mean_row(cluster) if cluster else [0.0] * num_classes)
    return table


def cmi(logits: Rows, labels: list[int], temperature: float = 1.0) -> float:
    """Two passes: the centroids first, then the mean divergence from them."""
    logits, labels = valid_samples(logits, labels)
    table = centroids(logits, labels, temperature)
    divergences = [kl(softmax(row, temperature), table[label]) for row, label in zip(logits, labels, strict=True)]
    return math.fsum(divergences) / len(divergences)


def separation(logits: Rows, labels: list[int], temperature: float = 1.0) -> float:
    """Every ordered pair of samples with differing labels, over the number of all ordered pairs."""
    logits, labels = valid_samples(logits, labels)
    probs = [softmax(row, temperature) for row in logits]
    log_probs = [log_softmax(row, temperature) for row in logits]
    size = len(labels)
    pairs = [(i, j) for i in range(size) for j in range(size) if labels[i] != labels[j]]
    return math.fsum(cross_entropy(probs[i], log_probs[j]) for i, j in pairs) / size**2


def ncmi(logits: Rows, labels: list[int], temperature: float = 1.0) -> float:
    return cmi(logits, labels, temperature) / separation(logits, labels, temperature)


def squared_distance(row: Row, other: Row) -> float:
    return math.fsum((a - b) ** 2 for a, b in zip(row, other, strict=True))


def scatter(rows: Sequence[dict[int, float]]) -> float:
    """Squared distances of the entries of each column from the column's mean, summed."""
    columns = [[row[c] for row in rows if c in row] for c in set().union(*rows)]
    return math.fsum((value - math.fsum(column) / len(column)) ** 2 for column in columns for value in column)


def within_class_variance(logits: Rows, labels: list[int]) -> float:
    """Mean squared distance of the centred logits from their class's mean."""
    logits, labels = valid_samples(logits, labels)
    rows = [deviations(row) for row in logits]
    clusters = [[row for row, label in zip(rows, labels, strict=True) if label == c] for c in set(labels)]
    return math.fsum(map(scatter, clusters)) / len(rows)


def total_variance(logits: Rows, labels: list[int]) -> float:
    logits, _ = valid_samples(logits, labels)
    return scatter([deviations(row) for row in logits]) / len(logits)


def within_total_ratio(logits: Rows, labels: list[int]) -> float:
    return within_class_variance(logits, labels) / total_variance(logits, labels)


def root_mean_square(logits: Rows, labels: list[int]) -> float:
    """Of the samples that have more than one class to choose from."""
    rows = [list(deviations(row).values()) for row in valid_samples(logits, labels)[0]]
    variances = [math.fsum(value**2 for value in row) / len(row) for row in rows if len(row) > 1]
    return math.sqrt(math.fsum(variances) / len(variances))


def prediction_entropy(logits: Rows, labels: list[int]) -> float:
    """H(argmax | label): the entropy of the predictions in each class, weighted by the class's share."""
    logits, labels = valid_samples(logits, labels)
    total = 0.0
    for c in set(labels):
        predictions = [argmax(row) for row, label in zip(logits, labels, strict=True) if label == c]
        shares = [predictions.count(k) / len(predictions) for k in set(predictions)]
        total += len(predictions) / len(labels) * entropy(shares)
    return total


def accuracy(logits: Rows, labels: list[int], top: int = 1) -> float:
    logits, labels = valid_samples(logits, labels)
    ranks = [
        sum(value > row[label] for value in row) if label in allowed(row) else math.inf
        for row, label in zip(logits, labels, strict=True)
    ]
    return sum(rank < top for rank in ranks) / len(labels)


# Calibration


def nll(logits: Rows, labels: list[int], temperature: float = 1.0) -> float:
    logits, labels = valid_samples(logits, labels)
    losses = [-finite(log_softmax(row, temperature))[label] for row, label in zip(logits, labels, strict=True)]
    return math.fsum(losses) / len(losses)


def ece_of(confidences: Row, hits: Row) -> float:
    """Bins ((b - 1) / 15, b / 15]; the gap between accuracy and mean confidence, weighted by the bin's share."""
    total = 0.0
    for b in range(1, NUM_BINS + 1):
        inside = [i for i, confidence in enumerate(confidences) if b - 1 < confidence * NUM_BINS <= b]
        if inside:
            confidence = math.fsum(confidences[i] for i in inside) / len(inside)
            accuracy_inside = math.fsum(hits[i] for i in inside) / len(inside)
            total += len(inside) / len(confidences) * abs(confidence - accuracy_inside)
    return total


def confidences_and_hits(logits: Rows, labels: list[int], temperatures: Row) -> tuple[Row, Row]:
    """Top probability of each row at its own temperature, and 1 where it is at the label."""
    confidences = [max(softmax(row, temperature)) for row, temperature in zip(logits, temperatures, strict=True)]
    hits = [float(argmax(row) == label) for row, label in zip(logits, labels, strict=True)]
    return confidences, hits


def ece(logits: Rows, labels: list[int], temperature: float = 1.0) -> float:
    logits, labels = valid_samples(logits, labels)
    return ece_of(*confidences_and_hits(logits, labels, [temperature] * len(labels)))


def aurc(logits: Rows, labels: list[int]) -> float:
    """Mean over coverages of the error rate among the most confident; equally confident samples share their errors."""
    logits, labels = valid_samples(logits, labels)
    confidences, hits = confidences_and_hits(logits, labels, [1.0] * len(labels))
    shared = []
    for confidence in sorted(confidences, reverse=True):
        tied = [1 - hit for other, hit in zip(confidences, hits, strict=True) if other == confidence]
        shared.append(math.fsum(tied) / len(tied))
    risks = [math.fsum(shared[:covered]) / covered for covered in range(1, len(shared) + 1)]
    return math.fsum(risks) / len(risks)


def cross_fitted(logits: Rows, labels: list[int], grid: Sequence[float]) -> tuple[float, float]:
    """NLL and ECE at temperatures chosen on the other half: even positions choose for odd ones and the reverse."""
    logits, labels = valid_samples(logits, labels)
    chosen = [min(grid, key=lambda t: nll(logits[half::2], labels[half::2], t)) for half in (0, 1)]
    own = [chosen[1 - position % 2] for position in range(len(labels))]
    losses = [-finite(log_softmax(row, t))[label] for row, label, t in zip(logits, labels, own, strict=True)]
    return math.fsum(losses) / len(losses), ece_of(*confidences_and_hits(logits, labels, own))


# Training state


class MovingAverage:
    """Debiased moving average by samples, every sample with its own explicit weight.

    A batch of n samples of a class weighs sum_{i < n} d^i, spread evenly inside the batch; what came before is
    multiplied by d^n; d = 1 - 1 / window.
    """

    def __init__(self, num_classes: int, window: float) -> None:
        self.decay = 1 - 1 / window
        self.samples: list[list[tuple[float, Row]]] = [[] for _ in range(num_classes)]

    def add(self, rows: Rows, labels: list[int]) -> None:
        for c, older in enumerate(self.samples):
            fresh = [row for row, label in zip(rows, labels, strict=True) if label == c]
            if fresh:
                each = math.fsum(self.decay**i for i in range(len(fresh))) / len(fresh)
                faded = [(weight * self.decay ** len(fresh), row) for weight, row in older]
                self.samples[c] = faded + [(each, row) for row in fresh]

    def mass(self) -> Row:
        return [math.fsum(weight for weight, _ in samples) for samples in self.samples]

    def means(self) -> list[Row | None]:
        """The weighted mean of each class; None where there is no sample."""
        return [
            [
                math.fsum(weight * row[k] for weight, row in samples) / mass
                for k in range(len(samples[0][1]))
            ]
            if samples
            else None
            for samples, mass in zip(self.samples, self.mass(), strict=True)
        ]  # fmt: skip


# The objective


def divergence_terms(
    logits: Rows, labels: list[int], tables: list[list[Row | None]], temperatures: Sequence[float]
) -> Row:
    """Sum over the samples of KL(softmax(z / T) || Q_y) at each temperature; classes without centroid add nothing."""
    logits, labels = valid_samples(logits, labels)
    sums = []
    for table, temperature in zip(tables, temperatures, strict=True):
        own = [(softmax(row, temperature), table[label]) for row, label in zip(logits, labels, strict=True)]
        sums.append(math.fsum(kl(probs, centroid) for probs, centroid in own if centroid is not None))
    return sums


def smoothed_cross_entropy(
    logits: Rows, labels: list[int], class_weights: Row | None = None, label_smoothing: float = 0.0
) -> float:
    """Sum over the samples of -sum_k w_k target_k log p_k, the target spread by label smoothing."""
    logits, labels = valid_samples(logits, labels)
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        log_probs = log_softmax(row)
        for k, log_prob in enumerate(log_probs):
            target = label_smoothing / len(row) + (1 - label_smoothing) * (k == label)
            total -= (class_weights[k] if class_weights else 1.0) * target * log_prob
    return total


def slopes(function: Callable[[Row], float], point: Row, step: float = 1e-5) -> Row:
    """Derivative of a function of several numbers, by central differences."""
    result = []
    for k, value in enumerate(point):
        width = step * max(abs(value), 1e-3)
        above, below = [*point[:k], value + width, *point[k + 1 :]], [*point[:k], value - width, *point[k + 1 :]]
        result.append((function(above) - function(below)) / (2 * width))
    return result
