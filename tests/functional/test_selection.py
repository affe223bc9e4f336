"""Which logits are masked classes: in a row of a loss, and in the data of a measurement."""

import pytest
import torch

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.inputs import masked_classes, without_masked
from hf_cmim.functional.selection import select_valid

FILLS = [-torch.inf, -1e4, -1e9, *(torch.finfo(dtype).min for dtype in (torch.float16, torch.bfloat16, torch.float32))]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
by_fill = pytest.mark.parametrize("fill", FILLS)
by_dtype = pytest.mark.parametrize("dtype", DTYPES)


def masks_of_measurement(logits):
    kept, _ = select_valid(logits, torch.zeros(len(logits), dtype=torch.long))
    return kept == -torch.inf


def expected_like(logits, mask):
    return torch.tensor(mask).expand_as(logits)


@by_fill
@by_dtype
@pytest.mark.parametrize("offset", [0.0, 200.0, -4000.0])
def test_every_usual_fill_masks_a_class(fill, dtype, offset):
    """Catches arithmetic in half precision, which overflows, and a floor that is not relative to the row."""
    logits = torch.tensor([[1.0, fill, -3.0, 4.0, fill]]).add(offset).to(dtype)
    mask = expected_like(logits, [False, True, False, False, True])
    assert torch.equal(masked_classes(logits), mask)
    assert torch.equal(masks_of_measurement(logits), mask)


@by_dtype
def test_low_logits_of_a_confident_model_are_not_masked(dtype):
    """Catches a floor so near that honest answers vanish from the CMI."""
    logits = torch.tensor([[30.0, -60.0, -300.0], [0.0, -2400.0, 1.0]]).to(dtype)
    assert masked_classes(logits) is None
    assert not masks_of_measurement(logits).any()


@by_dtype
@pytest.mark.parametrize("value", [0.0, -1e4, -65504.0, torch.finfo(torch.bfloat16).min])
def test_equal_logits_are_not_masked(value, dtype):
    """Catches a floor that is absolute: a row of equal logits is a uniform output, whatever they are."""
    logits = torch.full((2, 3), max(value, torch.finfo(dtype).min), dtype=dtype)
    assert masked_classes(logits) is None
    assert not masks_of_measurement(logits).any()


def test_a_row_keeps_its_own_masks():
    """Catches a floor below the largest logit of the batch, and a row that loses its last class."""
    logits = torch.tensor([[-9e3, -9e3], [1e3, -1e4], [-torch.inf, -7.0]])
    assert masked_classes(logits).tolist() == [[False, False], [False, True], [True, False]]


def test_masks_are_constant_and_hidden_logits_get_no_gradient():
    """Catches a gradient into a class that is not to be chosen."""
    logits = torch.tensor([[1.0, -1e4]], requires_grad=True)
    hidden = without_masked(logits, masked_classes(logits))
    hidden.exp().sum().backward()
    assert hidden.tolist() == [[1.0, -torch.inf]]
    assert logits.grad[0, 1] == 0


def test_no_sample_has_no_mask():
    """Catches a maximum of nothing, which raises."""
    assert masked_classes(torch.zeros(0, 3)) is None


@by_dtype
@pytest.mark.parametrize("fills", [[-1e4], [-1e4, -65504.0], [-1e4, -1e9, -torch.inf], [-1e9]], ids=str)
def test_measurement_knows_masks_that_are_added(fills, dtype):
    """Catches fill values told from logits by being one number: added to logits they vary, and several may meet."""
    logits = 5 * torch.randn(40, 9, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros_like(logits, dtype=torch.bool)
    for place, fill in enumerate(fills):
        logits[:, place] += fill
        mask[:, place] = True
    assert torch.equal(masks_of_measurement(logits.to(dtype)), mask)


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("factor", [3e2, 1e3, 1e6, 1e12])
def test_measurement_takes_no_inflated_logit_for_a_mask(factor, classes):
    """Catches a CMI that a model hides by multiplying its logits: all classes but the first would be masked."""
    logits = 4 * torch.randn(64, classes, generator=torch.Generator().manual_seed(classes), dtype=torch.float64)
    assert not masks_of_measurement(factor * logits).any()
    assert not masks_of_measurement((factor * logits).log_softmax(dim=1)).any()


def test_infinite_masks_of_inflated_logits_are_kept():
    """Catches -inf that no longer masks where finite logits lie far apart."""
    logits = 1e4 * torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    logits[:, 2] = -torch.inf
    assert torch.equal(masks_of_measurement(logits), expected_like(logits, [False, False, True, False, False]))


@by_dtype
@pytest.mark.parametrize("row", [[0.0, torch.nan], [torch.inf, 0.0], [-torch.inf, -torch.inf]], ids=str)
def test_outputs_that_are_no_distribution_are_refused(row, dtype):
    """Catches nan in every figure, or a sample that is measured as if it were wrong."""
    logits = torch.tensor([[0.0, 1.0], row, [2.0, -torch.inf], row]).to(dtype)
    with pytest.raises(HfCmimError, match=r"2 of 4 samples have a logit that is nan or \+inf, or no class above -inf"):
        select_valid(logits, torch.tensor([0, 1, 1, 0]))
    kept, _ = select_valid(logits, torch.tensor([0, -100, 1, -100]))
    assert len(kept) == 2
