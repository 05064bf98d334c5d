"""Nearest rows by cosine similarity: those of an exhaustive search in double precision, whatever the features are."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ssl_inv.evaluation.protocols import cosine_search
from ssl_inv.evaluation.protocols.cosine_search import nearest_cosine


def features(kind: str, rows: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 48, generator=generator)
    if kind == "nearly collapsed":
        return 1 + 1e-4 * x
    if kind == "positive":
        return x.relu()
    if kind == "with duplicates":
        return x[torch.randint(rows // 10, (rows,), generator=generator)]
    if kind == "all equal":
        return torch.ones(rows, 48)
    if kind == "with zeros":
        return x * (torch.arange(rows) % 7 != 0)[:, None]
    return {"random": x, "tiny": 1e-9 * x, "of all lengths": x * 10 ** torch.linspace(-6, 6, rows)[:, None]}[kind]


KINDS = [
    "random",
    "nearly collapsed",
    "positive",
    "with duplicates",
    "all equal",
    "with zeros",
    "tiny",
    "of all lengths",
]


def exhaustive(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    similarities = (normalize(queries.double(), dim=1) @ normalize(bank.double(), dim=1).T).float()
    similarities, rows = similarities.sort(dim=1, descending=True, stable=True)
    return similarities[:, :k], rows[:, :k]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
def test_finds_what_an_exhaustive_search_finds(
    kind: str, precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cosine_search, "_TILE", 256)
    monkeypatch.setattr(cosine_search, "rough_precisions", lambda device: (precision, torch.float32))
    bank, queries = features(kind, 1100, 0), features(kind, 60, 1)
    similarities, rows = nearest_cosine(bank, queries, 20)
    expected, wanted = exhaustive(bank, queries, 20)
    torch.testing.assert_close(similarities, expected, rtol=0, atol=3e-7)
    if kind in ("with duplicates", "all equal", "random"):
        assert torch.equal(rows, wanted), "of equal ones the lower row comes first"
    else:
        # Where rounding decides in both, what is found is as near.
        found = (normalize(queries.double(), dim=1)[:, None] * normalize(bank.double(), dim=1)[rows]).sum(dim=2)
        torch.testing.assert_close(found.float(), expected, rtol=0, atol=3e-7)


@pytest.mark.parametrize(("rows", "k"), [(1, 1), (3, 3), (24, 20), (25, 20), (257, 256)])
def test_small_banks_are_searched_whole(rows: int, k: int) -> None:
    bank, queries = features("random", rows, 2), features("random", 5, 3)
    assert torch.equal(nearest_cosine(bank, queries, k)[1], exhaustive(bank, queries, k)[1])
    with pytest.raises(ValueError, match=f"^{rows + 1} neighbours need a bank of as many rows; it has {rows}$"):
        nearest_cosine(bank, queries, rows + 1)


def test_a_rough_product_that_cannot_tell_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosine_search, "_TILE", 256)
    monkeypatch.setattr(cosine_search, "rough_precisions", lambda device: (torch.bfloat16,))
    asked: list[int] = []
    full = cosine_search._searched_in_full
    monkeypatch.setattr(cosine_search, "_searched_in_full", lambda *given: asked.append(1) or full(*given))
    bank, queries = features("nearly collapsed", 1100, 0), features("nearly collapsed", 6, 1)
    expected, _ = exhaustive(bank, queries, 20)
    torch.testing.assert_close(nearest_cosine(bank, queries, 20)[0], expected, rtol=0, atol=3e-7)
    spread = features("random", 1100, 0)
    before = len(asked)
    nearest_cosine(spread, features("random", 6, 1), 20)
    assert len(asked) == before, "a sure result is not searched again"


@pytest.mark.parametrize("kind", ["random", "nearly collapsed", "with duplicates"])
def test_the_size_of_pieces_and_the_precision_of_the_search_do_not_show(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, queries = features(kind, 1100, 0), features(kind, 60, 1)
    whole = nearest_cosine(bank, queries, 20)
    monkeypatch.setattr(cosine_search, "rough_precisions", lambda device: (torch.float32,))
    sizes = {"_TILE": 300, "_QUERIES": 7, "_KEPT": 25, "_AT_ONCE": 13, "_PIECE": 64, "_FLOATS": 1000}
    for name, size in sizes.items():
        monkeypatch.setattr(cosine_search, name, size)
    assert all(torch.equal(one, other) for one, other in zip(nearest_cosine(bank, queries, 20), whole, strict=True))
