"""The skeptical student: three heads, of which only the first sees the teacher."""

import attack_reference as twins
import pytest
import reference
import torch

from hf_cmim.attacks import KD, Composition, Skeptical

CLASSES, WIDTH = 4, 3


def drawn(size=6):
    """Hidden states, final logits, teacher's logits and labels, in fp64."""
    generator = torch.Generator().manual_seed(0)
    hidden_states = [torch.randn(size, WIDTH, generator=generator, dtype=torch.float64) for _ in range(5)]
    final, teacher = (2 * torch.randn(size, CLASSES, generator=generator, dtype=torch.float64) for _ in range(2))
    return hidden_states, final, teacher, torch.arange(size) % CLASSES


@pytest.mark.parametrize("temperature", [4.0, 1.5])
def test_equals_its_source(temperature):
    """Catches T^2 on the term between the final and the second head, and a final head that does not learn from it."""
    hidden_states, final, teacher, labels = drawn()
    attack = Composition(KD(temperature=temperature), Skeptical(temperature=temperature))
    protocol = attack.student_protocol
    protocol.attach(torch.nn.Identity(), hidden_states, CLASSES)
    places = (2, 3)  # half of four layers, and halfway from there to the end
    first, second = (head(hidden_states[place].float()) for head, place in zip(protocol.heads, places, strict=True))
    heads = first.tolist(), second.tolist()

    def total(final_rows):
        return twins.skeptical(*heads, final_rows, teacher.tolist(), labels.tolist(), temperature)

    final = final.float().requires_grad_()

    def loss(logits):
        return attack(logits, teacher, labels)

    hidden_states = [states.float() for states in hidden_states]
    found = sum(protocol(loss, final, hidden_states, labels).values())
    assert found.item() == pytest.approx(total(final.tolist()), rel=1e-5)
    found.backward()
    for row, rows in enumerate(final.tolist()):

        def of_row(point, row=row):
            changed = final.tolist()
            changed[row] = list(point)
            return total(changed)

        assert final.grad[row].tolist() == pytest.approx(reference.slopes(of_row, rows), rel=1e-3, abs=1e-5)
