import torch

from trainer.objectives.similarity import closest_interest, paired_set_similarity, readout, set_similarity, unit

G = torch.Generator().manual_seed(1)


def test_unit() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-20, 0.0]], requires_grad=True)
    got = unit(x)
    torch.testing.assert_close(got[0], torch.tensor([0.6, 0.8]))
    assert got[1:].abs().max() < 1e-6
    got[:, 0].sum().backward()
    assert x.grad is not None
    # the part of e1 across the vector, over its length; none for the others, whose slope would be 1e6
    torch.testing.assert_close(x.grad, torch.tensor([[0.64, -0.48], [0, 0], [0, 0]]) / torch.tensor([[5.0], [1], [1]]))


def test_half_precision_is_raised_before_the_product() -> None:
    assert unit(torch.ones(2, 2, dtype=torch.bfloat16)).dtype == torch.float32
    assert unit(torch.ones(2, 2, dtype=torch.float64)).dtype == torch.float64


def test_readout_is_hard_and_gradient_flows_through_the_chosen_interest_only() -> None:
    user = torch.tensor([[[1.0, 0], [0, 1], [-1, 0]], [[1, 0], [0, 1], [-1, 0]]], requires_grad=True)
    item = torch.tensor([[0.1, 0.9], [-1.0, 0.5]])
    got = readout(user, item)
    assert got.tolist() == [[0, 1], [-1, 0]]
    got.sum().backward()
    assert user.grad is not None
    assert user.grad.abs().sum(dim=2).tolist() == [[0, 2, 0], [0, 0, 2]]


def test_closest_interest_equals_loops() -> None:
    user, item = torch.randn(4, 3, 5, generator=G), torch.randn(6, 5, generator=G)
    got = closest_interest(user, item)
    for b in range(6):
        for n in range(4):
            assert torch.isclose(got[b, n], max(user[n, k] @ item[b] for k in range(3)), atol=1e-6)


def test_set_similarity_equals_loops_and_is_symmetric() -> None:
    a, b = unit(torch.randn(4, 3, 5, generator=G)), unit(torch.randn(6, 2, 5, generator=G))
    got = set_similarity(a, b)
    for i in range(4):
        for j in range(6):
            s = [[float(a[i, k] @ b[j, m]) for m in range(2)] for k in range(3)]
            want = (sum(max(row) for row in s) / 3 + sum(max(col) for col in zip(*s, strict=True)) / 2) / 2
            assert abs(float(got[i, j]) - want) < 1e-6
    torch.testing.assert_close(set_similarity(b, a), got.T)
    torch.testing.assert_close(paired_set_similarity(a, b[:4]), got.diagonal())
    torch.testing.assert_close(set_similarity(a[:, [2, 0, 1]], b), got)


def test_copies_of_one_interest_count_as_one() -> None:
    # property P4.7
    a, b = unit(torch.randn(4, 1, 5, generator=G)), unit(torch.randn(6, 1, 5, generator=G))
    cosine = a[:, 0] @ b[:, 0].T
    torch.testing.assert_close(set_similarity(a.expand(-1, 3, -1), b.expand(-1, 2, -1)), cosine)
    torch.testing.assert_close(set_similarity(a, b), cosine)
    torch.testing.assert_close(closest_interest(b.expand(-1, 4, -1), a[:, 0]), cosine)
