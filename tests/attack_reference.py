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
    mean_row,
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


def pearson(first: Row, second: Row, floor: float = 0.0) -> float:
    first, second = centred(first), centred(second)
    return dot(first, second) / (math.sqrt(dot(first, first) * dot(second, second)) + floor)


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


def class_mean_rows(surveyed: tuple[Rows, list[int]], temperature: float) -> dict[int, Row]:
    """Mean of the softened answers to the samples of each class."""
    by_class: dict[int, Rows] = {}
    for row, label in zip(*surveyed, strict=True):
        by_class.setdefault(label, []).append(softmax(row, temperature))
    return {label: mean_row(rows) for label, rows in by_class.items()}


def beyond_label_kd(
    student: Rows,
    teacher: Rows,
    labels: list[int],
    surveyed: tuple[Rows, list[int]],
    temperature: float,
    emphasis: float,
    measured_at: float,
    weight: float,
) -> float:
    """Mean of w T^2 KL, w = 1 - emphasis + emphasis v / (mean v of the survey), v = KL(answer || its class mean)."""
    centroids = class_mean_rows(surveyed, measured_at)
    average = mean([kl(softmax(row, measured_at), centroids[label]) for row, label in zip(*surveyed, strict=True)])

    def loss(s: Row, t: Row, y: int) -> float:
        value = kl(softmax(t, measured_at), centroids[y]) / average
        divergence = kl(softmax(t, temperature), softmax(s, temperature))
        return (1 - emphasis + emphasis * value) * temperature**2 * divergence

    return weight * over_samples(loss, student, teacher, labels)


def misleads(answer: Row, label: int, rule: str) -> bool:
    """Another class is likelier than the label, or the label is less likely than chance."""
    probs = softmax(answer)
    return max(probs) > probs[label] if rule == "wrong-class" else probs[label] < 1 / len(probs)


def pld(student: Rows, teacher: Rows, labels: list[int], temperature: float, weight: float) -> float:
    """Sum over the ranks (the label, then the teacher's order) of p times -log of the choice among those left."""

    def loss(s: Row, t: Row, y: int) -> float:
        p = softmax(t, temperature)
        ranks = [y, *sorted((k for k in range(len(t)) if k != y), key=lambda k: -t[k])]
        choices = [log_softmax([s[k] for k in ranks[rank:]])[0] for rank in range(len(ranks))]
        return -math.fsum(p[k] * choice for k, choice in zip(ranks, choices, strict=True))

    return weight * over_samples(loss, student, teacher, labels)


def bkl(
    student: Rows, teacher: Rows, labels: list[int], temperature: float, alpha: float, beta: float, weight: float
) -> float:
    """T^2 sum_c [alpha p log(p / q) + (1 - alpha) q log(q / p)] / ((p^2 + q^2)^((1 - beta) / 2) + 1e-12)."""

    def loss(s: Row, t: Row, y: int) -> float:
        total = 0.0
        for p, q in zip(softmax(t, temperature), softmax(s, temperature), strict=True):
            both = alpha * p * math.log(p / q) + (1 - alpha) * q * math.log(q / p)
            total += both / ((p**2 + q**2) ** ((1 - beta) / 2) + 1e-12)
        return temperature**2 * total

    return weight * over_samples(loss, student, teacher, labels)


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


def gdkd(
    student: Rows,
    teacher: Rows,
    labels: list[int],
    temperature: float,
    top: int,
    mass_weight: float,
    top_weight: float,
    rest_weight: float,
) -> float:
    """T^2 [w_0 KL of the masses + w_1 KL within the teacher's top classes + w_2 KL within the others]."""

    def loss(s: Row, t: Row, y: int) -> float:
        ranked = sorted(range(len(t)), key=lambda k: -t[k])
        groups = [group for group in (ranked[:top], ranked[top:]) if group]
        p, q = softmax(t, temperature), softmax(s, temperature)
        masses = [[math.fsum(probs[k] for k in group) for group in groups] for probs in (p, q)]
        within = [kl(*(renormalised([probs[k] for k in group]) for probs in (p, q))) for group in groups]
        weighed = math.fsum(w * value for w, value in zip((top_weight, rest_weight), within, strict=True))
        return temperature**2 * (mass_weight * kl(*masses) + weighed)

    return over_samples(loss, student, teacher, labels)


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


def gkl(
    student: Rows,
    teacher: Rows,
    labels: list[int],
    surveyed: tuple[Rows, list[int]],
    temperature: float,
    measured_at: float,
    gamma: float,
    alpha: float,
    beta: float,
) -> float:
    """alpha / 4 sum_nij w_i w_j (D^t_ij - D^s_ij)^2 / sum_nij w_i w_j + beta CE at T; w = (n's class mean)^gamma."""
    means = class_mean_rows(surveyed, measured_at)
    squares, weights = [], []
    for s, t, y in zip(student, teacher, labels, strict=True):
        for i in range(len(t)):
            for j in range(len(t)):
                weights.append(means[y][i] ** gamma * means[y][j] ** gamma)
                squares.append(weights[-1] * ((t[i] - t[j]) - (s[i] - s[j])) ** 2)
    soft = over_samples(
        lambda s, t, y: cross_entropy(softmax(t, temperature), log_softmax(s, temperature)), student, teacher, labels
    )
    return alpha / 4 * math.fsum(squares) / math.fsum(weights) + beta * soft


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
    """T^2 [beta (1 - mean correlation of the rows) + gamma (1 - mean correlation of the columns)].

    A correlation is the product of centred vectors over (the product of their norms, plus 1e-8).
    """
    p, q = ([softmax(row, temperature) for row in rows] for rows in (teacher, student))
    rows = 1 - mean([pearson(a, b, 1e-8) for a, b in zip(p, q, strict=True)])
    columns = 1 - mean([pearson(a, b, 1e-8) for a, b in zip(transposed(p), transposed(q), strict=True)])
    return weight * temperature**2 * (beta * rows + gamma * columns)


def median(values: Row) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def mlkd(
    student: Rows,
    teacher: Rows,
    labels: list[int],
    temperatures: Sequence[float],
    kd_weight: float,
    class_weight: float,
    batch_weight: float,
    view: Callable[[Row], Row] = list,
) -> float:
    """Sum over T of the divergences, class relations and batch relations of those that the teacher is unsure of.

    The divergences, and they alone, are those of a view of the logits.
    """
    probs = [softmax(row) for row in teacher]
    confidences, masses = [max(row) for row in probs], [math.fsum(column) for column in transposed(probs)]
    samples = [confidence <= median(confidences) for confidence in confidences]
    classes = [mass <= median(masses) for mass in masses]
    total = 0.0
    for temperature in temperatures:
        p, q = ([softmax(row, temperature) for row in rows] for rows in (teacher, student))
        viewed = ([softmax(view(row), temperature) for row in rows] for rows in (teacher, student))
        own = [temperature**2 * kl(a, b) * kept for a, b, kept in zip(*viewed, samples, strict=True)]
        among_classes = squared_differences(gram(transposed(p)), gram(transposed(q)), classes)
        among_samples = squared_differences(gram(p), gram(q), samples)
        total += kd_weight * mean(own) + class_weight * mean(among_classes) + batch_weight * mean(among_samples)
    return total


def squared_differences(first: Rows, second: Rows, kept: list[bool]) -> Row:
    """Squared distance of each pair of rows, 0 for the rows that are not kept."""
    return [squared_distance(a, b) * keep for a, b, keep in zip(first, second, kept, strict=True)]


def huber(difference: float) -> float:
    return difference**2 / 2 if abs(difference) <= 1 else abs(difference) - 1 / 2


def rkd(student: Rows, teacher: Rows, labels: list[int], distance_weight: float, angle_weight: float) -> float:
    """Huber losses of the distances in units of their mean over unequal pairs, and of the cosines at each corner."""
    size = range(len(labels))
    distances, angles = [], []
    for rows in ([centred(row) for row in side] for side in (student, teacher)):
        lengths = [[math.sqrt(squared_distance(first, second)) for second in rows] for first in rows]
        unit_length = mean([lengths[i][j] for i in size for j in size if i != j])
        distances.append([length / unit_length for row in lengths for length in row])
        angles.append([corner(rows, i, j, k) for i in size for j in size for k in size])
    losses = [mean([huber(s - t) for s, t in zip(*relations, strict=True)]) for relations in (distances, angles)]
    return distance_weight * losses[0] + angle_weight * losses[1]


def corner(rows: Rows, i: int, j: int, k: int) -> float:
    """Cosine of the angle at sample i between samples j and k; 0 where there is none."""
    if i in (j, k):
        return 0.0
    sides = [[a - b for a, b in zip(rows[other], rows[i], strict=True)] for other in (j, k)]
    return dot(*map(unit, sides))


def cosines(rows: Rows) -> Rows:
    """Cosines between the centred rows."""
    return gram([unit(centred(row)) for row in rows])


def pkt(student: Rows, teacher: Rows, labels: list[int], weight: float) -> float:
    """Divergence of each sample's neighbourhoods, the cosines of centred logits moved to [0, 1] and normalised.

    sum_j p_j log((p_j + 1e-7) / (q_j + 1e-7)): the floor comes after normalising.
    """
    own, other = (
        [renormalised([(1 + cosine) / 2 for cosine in row]) for row in cosines(rows)] for rows in (teacher, student)
    )
    losses = [
        [a * math.log((a + FLOOR) / (b + FLOOR)) for a, b in zip(p, q, strict=True)]
        for p, q in zip(own, other, strict=True)
    ]
    return weight * mean([math.fsum(row) for row in losses])


def sp(student: Rows, teacher: Rows, labels: list[int], weight: float) -> float:
    """Squared distances of the normalised rows of the Gram matrices of centred logits."""
    own, other = ([unit(row) for row in gram([centred(row) for row in rows])] for rows in (teacher, student))
    return weight * mean([squared_distance(p, q) for p, q in zip(own, other, strict=True)])


def solve(matrix: Rows, vector: Row) -> Row:
    """Gaussian elimination, without pivots: the matrix is positive definite."""
    rows = [[*row, value] for row, value in zip(matrix, vector, strict=True)]
    for i, pivot in enumerate(rows):
        for k in range(len(rows)):
            if k != i:
                factor = rows[k][i] / pivot[i]
                rows[k] = [a - factor * b for a, b in zip(rows[k], pivot, strict=True)]
    return [row[-1] / row[i] for i, row in enumerate(rows)]


def skd(
    student: Rows,
    teacher: Rows,
    labels: list[int],
    temperature: float,
    kd_weight: float,
    gram_weight: float,
    tikhonov: float,
) -> float:
    """KD, and the Mahalanobis norms of the rows of D = (G_s - G_t) / C, G the cosines of centred logits."""
    classes, size = len(student[0]), range(len(labels))
    pairs = zip(cosines(student), cosines(teacher), strict=True)
    differences = [[(a - b) / classes for a, b in zip(s, t, strict=True)] for s, t in pairs]
    centre = mean_row(differences)
    deviations = [[a - b for a, b in zip(row, centre, strict=True)] for row in differences]
    covariance = [
        [math.fsum(row[i] * row[j] for row in deviations) / (len(labels) - 1) + tikhonov * (i == j) for j in size]
        for i in size
    ]
    norms = [math.sqrt(dot(row, solve(covariance, row))) for row in differences]
    return kd(student, teacher, labels, temperature, kd_weight) + gram_weight * mean(norms)


def class_costs(teacher: Rows, labels: list[int]) -> Rows:
    """1 - exp(-d), where d is 1 less the correlation of the mean log-probabilities of two classes.

    A class without a sample has no correlation.
    """
    classes = range(len(teacher[0]))
    means = {
        c: mean_row([log_softmax(row) for row, y in zip(teacher, labels, strict=True) if y == c]) for c in set(labels)
    }
    return [
        [
            0.0 if i == j else 1 - math.exp((pearson(means[i], means[j]) if i in means and j in means else 0.0) - 1)
            for j in classes
        ]
        for i in classes
    ]


def sinkhorn_cost(source: Row, target: Row, costs: Rows, epsilon: float, iterations: int) -> float:
    """Cost of the plan u_i exp(-c_ij / epsilon) v_j after some rounds of scaling columns, then rows.

    u starts at 1 over the number of classes, and both denominators have 1e-8 added.
    """
    kernel = [[math.exp(-cost / epsilon) for cost in row] for row in costs]
    u = [1 / len(source)] * len(source)
    for _ in range(iterations):
        v = [q / (dot(column, u) + 1e-8) for q, column in zip(target, transposed(kernel), strict=True)]
        u = [p / (dot(row, v) + 1e-8) for p, row in zip(source, kernel, strict=True)]
    return math.fsum(u[i] * kernel[i][j] * v[j] * costs[i][j] for i in range(len(u)) for j in range(len(v)))


def wkd(
    student: Rows,
    teacher: Rows,
    labels: list[int],
    costs: Rows,
    temperature: float,
    gamma: float,
    epsilon: float,
    iterations: int,
) -> float:
    """-p_y log q_y + gamma times the cost of moving the student's other classes to the teacher's."""

    def loss(s: Row, t: Row, y: int) -> float:
        source, target = (renormalised(without(softmax(row, temperature), y)) for row in (s, t))
        own = [without(row, y) for k, row in enumerate(costs) if k != y]
        moved = sinkhorn_cost(source, target, own, epsilon, iterations)
        return -softmax(t)[y] * log_softmax(s)[y] + gamma * moved

    return over_samples(loss, student, teacher, labels)


# Protocols


def skeptical(
    first: Rows,
    second: Rows,
    final: Rows,
    teacher: Rows,
    labels: list[int],
    temperature: float,
    alpha: float = 0.9,
    hint_weight: float = 0.3,
    ce_weight: float = 0.7,
) -> float:
    """Loss of a student with three heads, in which only the first sees the teacher.

    alpha T^2 KL(teacher || first) + (1 - alpha) CE(first) + [.3 KL(final || second) + .7 CE(second)] + CE(final),
    each KL between answers at T.
    """
    hint = over_samples(lambda s, t, y: kl(softmax(t, temperature), softmax(s, temperature)), second, final, labels)
    hard = [
        mean([-log_softmax(row)[y] for row, y in zip(head, labels, strict=True)]) for head in (first, second, final)
    ]
    distilled = kd(first, teacher, labels, temperature, alpha)
    return distilled + (1 - alpha) * hard[0] + hint_weight * hint + ce_weight * hard[1] + hard[2]


def two_momenta(
    weight: float, gradients: Sequence[tuple[float | None, float | None]], rate: float, momentum: float, delta: float
) -> list[float]:
    """Weights after each step of gradients (of the task, of distillation), None where a loss does not reach it.

    With both, the task's momentum is momentum - delta and that of distillation momentum + delta; with one of them
    only, its momentum is momentum.
    """
    weights, velocities = [], [0.0, 0.0]
    for pair in gradients:
        momenta = (momentum - delta, momentum + delta) if None not in pair else (momentum, momentum)
        for k, gradient in enumerate(pair):
            if gradient is not None:
                velocities[k] = momenta[k] * velocities[k] + gradient
                weight -= rate * velocities[k]
        weights.append(weight)
    return weights
