"""The slow twin of the attacks: float64 loops straight from the papers' equations, over plain lists.

It shares no code with the package and knows no torch. Each function takes logits of the student and of the teacher
(rows, known up to a constant each) and labels, all samples valid, and returns the mean loss of the distillation terms
without the cross-entropy on the labels, in nats.
"""

import math
from collections.abc import Callable, Sequence

from reference import (
    Row,
    Rows,
    argmax,
    centred,
    cross_entropy,
    kl,
    log_softmax,
    softmax,
    squared_distance,
)

FLOOR = 1e-7  # what the sources add to a standard deviation, or to a cross-entropy, before they divide by it


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def over_samples(function: Callable[[Row, Row, int], float], student: Rows, teacher: Rows, labels: list[int]) -> float:
    """Mean over the samples of a function of (student row, teacher row, label)."""
    return mean([function(s, t, y) for s, t, y in zip(student, teacher, labels, strict=True)])


# Pieces of a row


def without(row: Row, label: int) -> Row:
    return [value for k, value in enumerate(row) if k != label]


def renormalised(values: Row) -> Row:
    total = math.fsum(values)
    return [value / total for value in values]


def binary(probs: Row, label: int) -> Row:
    return [probs[label], math.fsum(without(probs, label))]


def deviation(row: Row) -> float:
    """Unbiased standard deviation."""
    return math.sqrt(math.fsum(value**2 for value in centred(row)) / (len(row) - 1))


def standardized(row: Row) -> Row:
    scale = deviation(row) + FLOOR
    return [value / scale for value in centred(row)]


def dot(first: Row, second: Row) -> float:
    return math.fsum(a * b for a, b in zip(first, second, strict=True))


def pearson(first: Row, second: Row) -> float:
    first, second = centred(first), centred(second)
    return dot(first, second) / math.sqrt(dot(first, first) * dot(second, second))


def unit(row: Row) -> Row:
    norm = math.sqrt(dot(row, row))
    return [value / norm for value in row]


def gram(rows: Rows) -> Rows:
    return [[dot(first, second) for second in rows] for first in rows]


def transposed(rows: Rows) -> Rows:
    return [list(column) for column in zip(*rows, strict=True)]


# Losses of single samples


def label_only(student: Rows, teacher: Rows, labels: list[int], weight: float) -> float:
    return weight * over_samples(lambda s, t, y: -log_softmax(s)[argmax(t)], student, teacher, labels)


def logit_mse(student: Rows, teacher: Rows, labels: list[int], weight: float, normalized: bool) -> float:
    """Mean over samples and classes of the squared difference of centred (or standardised) logits."""
    view = standardized if normalized else centred
    return weight * over_samples(lambda s, t, y: squared_distance(view(s), view(t)) / len(s), student, teacher, labels)


def knockoff(student: Rows, teacher: Rows, labels: list[int]) -> float:
    return over_samples(lambda s, t, y: cross_entropy(softmax(t), log_softmax(s)), student, teacher, labels)


def divergence(student: Rows, teacher: Rows, labels: list[int], temperature: float) -> float:
    """KL(teacher at T || student at T), without the factor T^2."""
    return over_samples(lambda s, t, y: kl(softmax(t, temperature), softmax(s, temperature)), student, teacher, labels)


def kd(student: Rows, teacher: Rows, labels: list[int], temperature: float, weight: float) -> float:
    return weight * temperature**2 * divergence(student, teacher, labels, temperature)


def dkd(
    student: Rows, teacher: Rows, labels: list[int], temperature: float, alpha: float, beta: float, warm: float = 1.0
) -> float:
    """warm T^2 [alpha KL(b_t || b_s) + beta KL(p^_t || p^_s)]."""

    def loss(s: Row, t: Row, y: int) -> float:
        p, q = softmax(t, temperature), softmax(s, temperature)
        target = kl(binary(p, y), binary(q, y))
        rest = kl(renormalised(without(p, y)), renormalised(without(q, y)))
        return temperature**2 * (alpha * target + beta * rest)

    return warm * over_samples(loss, student, teacher, labels)


def nkd(student: Rows, teacher: Rows, labels: list[int], temperature: float, gamma: float) -> float:
    """-p_y log q_y - gamma T^2 sum over i != y of p^_i log q^_i, where p_y and q_y are at temperature 1."""

    def loss(s: Row, t: Row, y: int) -> float:
        rest = renormalised(without(softmax(t, temperature), y))
        student_rest = renormalised(without(softmax(s, temperature), y))
        target = -softmax(t)[y] * log_softmax(s)[y]
        return target + gamma * temperature**2 * cross_entropy(rest, [math.log(q) for q in student_rest])

    return over_samples(loss, student, teacher, labels)


def ttm(student: Rows, teacher: Rows, labels: list[int], gamma: float, weight: float, by_power: bool) -> float:
    """KL(p^gamma / sum p^gamma || q), weighed by sum p^gamma in WTTM."""

    def loss(s: Row, t: Row, y: int) -> float:
        powers = [p**gamma for p in softmax(t)]
        return (math.fsum(powers) if by_power else 1.0) * kl(renormalised(powers), softmax(s))

    return weight * over_samples(loss, student, teacher, labels)


def standardized_rows(rows: Rows) -> Rows:
    return [standardized(row) for row in rows]


def normkd(student: Rows, teacher: Rows, labels: list[int], scale: float, weight: float) -> float:
    """T_t^2 KL(softmax(z_t / T_t) || softmax(z_s / T_s)), each T being scale times the row's own deviation."""

    def loss(s: Row, t: Row, y: int) -> float:
        own, other = scale * (deviation(t) + FLOOR), scale * (deviation(s) + FLOOR)
        return (scale * deviation(t)) ** 2 * kl(softmax(t, own), softmax(s, other))

    return weight * over_samples(loss, student, teacher, labels)


def curriculum_temperature(raw: float, lowest: float, span: float) -> float:
    return lowest + span / (1 + math.exp(-raw))


def reversal(progress: float, curriculum: float) -> float:
    """The factor of the temperature's gradient, from 0 to -1 along half a cosine."""
    return -(1 - math.cos(math.pi * min(progress / curriculum, 1))) / 2


def wsld(student: Rows, teacher: Rows, labels: list[int], temperature: float, alpha: float) -> float:
    """alpha T^2 (1 - exp(-CE_s / CE_t)) times the cross-entropy of the softened answers; both CE at temperature 1."""

    def loss(s: Row, t: Row, y: int) -> float:
        weight = 1 - math.exp(-log_softmax(s)[y] / (log_softmax(t)[y] - FLOOR))
        return weight * cross_entropy(softmax(t, temperature), log_softmax(s, temperature))

    return alpha * temperature**2 * over_samples(loss, student, teacher, labels)


def rld(
    student: Rows,
    teacher: Rows,
    labels: list[int],
    temperature: float,
    alpha: float,
    beta: float,
    target_temperature: float,
    warm: float = 1.0,
) -> float:
    """alpha T_a^2 KL((p_max, 1 - p_max) || (q_y, 1 - q_y)) + beta T^2 KL over the classes below the teacher's z_y."""

    def loss(s: Row, t: Row, y: int) -> float:
        confident = binary(softmax(t, target_temperature), argmax(t))
        target = kl(confident, binary(softmax(s, target_temperature), y))
        below = [k for k, value in enumerate(t) if value < t[y]]
        rest = 0.0
        if below:
            rest = kl(softmax([t[k] for k in below], temperature), softmax([s[k] for k in below], temperature))
        return alpha * target_temperature**2 * target + beta * temperature**2 * rest

    return warm * over_samples(loss, student, teacher, labels)


def ikl(
    student: Rows,
    teacher: Rows,
    labels: list[int],
    temperature: float,
    weight_temperature: float,
    alpha: float,
    beta: float,
) -> float:
    """alpha / 4 sum_ij w_i w_j (D^t_ij - D^s_ij)^2 + beta CE(teacher at T, student at T); w the teacher's at T_w."""

    def loss(s: Row, t: Row, y: int) -> float:
        weights = softmax(t, weight_temperature)
        pairs = [(i, j) for i in range(len(t)) for j in range(len(t))]
        squares = [weights[i] * weights[j] * ((t[i] - t[j]) - (s[i] - s[j])) ** 2 for i, j in pairs]
        soft = cross_entropy(softmax(t, temperature), log_softmax(s, temperature))
        return alpha * math.fsum(squares) / 4 + beta * soft

    return over_samples(loss, student, teacher, labels)


def jsd(student: Rows, teacher: Rows, labels: list[int], temperature: float, beta: float, weight: float) -> float:
    """beta KL(t || m) + (1 - beta) KL(s || m), m = beta t + (1 - beta) s; KL(t || s) at 0 and KL(s || t) at 1."""

    def loss(s: Row, t: Row, y: int) -> float:
        p, q = softmax(t, temperature), softmax(s, temperature)
        if beta in (0, 1):
            return kl(q, p) if beta else kl(p, q)
        mixture = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
        return beta * kl(p, mixture) + (1 - beta) * kl(q, mixture)

    return weight * over_samples(loss, student, teacher, labels)


def virtual_teacher_kd(
    student: Rows, teacher: Rows, labels: list[int], temperature: float, confidence: float, weight: float
) -> float:
    """KL(softmax(u / T) || student at 1), u: the confidence on the label, the rest spread over the others."""

    def loss(s: Row, t: Row, y: int) -> float:
        u = [confidence if k == y else (1 - confidence) / (len(s) - 1) for k in range(len(s))]
        return kl(softmax(u, temperature), softmax(s))

    return weight * over_samples(loss, student, teacher, labels)


# Losses of whole batches


def dist(
    student: Rows, teacher: Rows, labels: list[int], temperature: float, beta: float, gamma: float, weight: float
) -> float:
    """T^2 [beta (1 - mean correlation of the rows) + gamma (1 - mean correlation of the columns)]."""
    p, q = ([softmax(row, temperature) for row in rows] for rows in (teacher, student))
    rows = 1 - mean([pearson(a, b) for a, b in zip(p, q, strict=True)])
    columns = 1 - mean([pearson(a, b) for a, b in zip(transposed(p), transposed(q), strict=True)])
    return weight * temperature**2 * (beta * rows + gamma * columns)
