"""K-center selection: which samples of a pool an attacker asks about if it cannot ask about all."""

import torch
from torch import Tensor

from hf_cmim.errors import HfCmimError


@torch.no_grad()
def k_center(features: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Select samples so that every sample of the pool is near a selected one.

    The first sample is random. Each further one is the sample that is farthest from all selected ones, by Euclidean
    distance; ties go to the first. The largest distance that is left is at most twice the smallest possible one.

    Args:
        features: `(N, D)` finite features of the pool. Their scales count: standardise them if they differ.
        count: number of samples to select, in [1, N].
        generator: CPU generator that chooses the first sample.

    Returns:
        Positions `(count,)` on the CPU, all different, in the order of their selection.

    Raises:
        HfCmimError: a count outside its range, or features that are not finite.

    Source: Sener and Savarese, ICLR 2018, arXiv 1708.00489 (greedy k-center); ActiveThief (Pal et al., AAAI 2020) uses
    it to choose queries. ActiveThief selects in rounds by the answers' features; one round by features that need no
    query is ours.

    >>> pool = torch.tensor([[0.0], [1.0], [9.0], [10.0]])
    >>> k_center(pool, 2, torch.Generator().manual_seed(0)).sort().values.tolist()
    [0, 3]
    """
    if not 1 <= count <= len(features):
        raise HfCmimError(
            f"Expected a count in [1, {len(features)}], got {count}: a pool of {len(features)} samples has no such"
            " selection. Ask about fewer samples, or about at least one."
        )
    # In fp64, equal samples have distance 0; on a GPU without it in fp32.
    values = features.to(torch.float32 if features.device.type == "mps" else torch.float64)
    if not bool(values.isfinite().all()):
        raise HfCmimError(
            f"{int((~values.isfinite().all(dim=-1)).sum())} of {len(values)} samples have features that are nan or"
            " infinite: nothing is near them. Look for an overflow in half precision, or leave these samples out."
        )
    selected = torch.randint(len(values), (1,), generator=generator).tolist()
    distances = values.new_full((len(values),), torch.inf)
    for _ in range(count - 1):
        last = selected[-1]
        distances = distances.minimum((values - values[last]).square().sum(dim=-1))
        # A selected sample is never selected again, not even in a pool of equal samples.
        distances[last] = -1.0
        selected.append(int(distances.argmax()))
    return torch.tensor(selected)
