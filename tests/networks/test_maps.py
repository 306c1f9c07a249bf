"""Maps of latents: invertible, with the determinant that they say, and the identity at first."""

import pytest
import torch

from vaekit.networks.maps import BrenierMap, CouplingFlow


@pytest.fixture
def flow(generator):
    torch.manual_seed(0)
    flow = CouplingFlow(5).double()
    with torch.no_grad():
        for weight in flow.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return flow


def test_the_inverse_of_a_flow_undoes_it(flow, generator):
    z = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    moved = flow(z)
    assert (moved - z).abs().max() > 0.1
    torch.testing.assert_close(flow.inverse(moved), z)


def test_the_determinant_is_that_of_the_jacobian(flow, generator):
    z = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    _, found = flow.with_log_det(z)
    jacobians = torch.stack([torch.autograd.functional.jacobian(lambda row: flow(row[None])[0], row) for row in z])
    torch.testing.assert_close(found, torch.linalg.slogdet(jacobians).logabsdet)


def test_an_untrained_flow_is_the_identity_to_the_bit(generator):
    z = torch.randn(6, 512, generator=generator)
    moved, log_det = CouplingFlow(512).with_log_det(z)
    assert torch.equal(moved, z)
    assert torch.equal(log_det, torch.zeros(6))


def test_the_jacobian_of_a_brenier_map_is_symmetric_and_at_least_the_identity(generator):
    """A gradient of a convex function, so no two points are mapped to one."""
    torch.manual_seed(0)
    brenier = BrenierMap(5).double()
    with torch.no_grad():
        brenier.raw += 6
    for row in torch.randn(4, 5, generator=generator, dtype=torch.float64):
        jacobian = torch.autograd.functional.jacobian(lambda z: brenier(z[None])[0], row)
        torch.testing.assert_close(jacobian, jacobian.T)
        assert torch.linalg.eigvalsh(jacobian).min() >= 1 - 1e-9
        assert torch.linalg.eigvalsh(jacobian).max() > 1.01
