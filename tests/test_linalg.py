"""The numerical kernels, each against the plainest way to compute the same."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest

from onnxzip.linalg import moments, symmetric
from onnxzip.linalg.assignment import greedy, hungarian
from onnxzip.linalg.explained import explained_by_moments, explained_by_rows
from onnxzip.linalg.moments import ChannelMoments, DenseSums, DiagonalSums, Moments
from onnxzip.linalg.ridge import GRID, Fit, Normal, fit_diagonal, fit_dual, fit_primal, solve_damped
from onnxzip.linalg.symmetric import PANEL, Pair, Symmetric

SEED = 3
ONE = (1e-2,)
SIDES = slice(0, 4800), slice(4800, 6000)  # of samples: fitted and held out


def rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


def normal(z: np.ndarray, p: np.ndarray) -> Normal:
    """Normal equations as means over the rows."""
    return Normal(z.T @ z / len(z), z.T @ p / len(z), (p**2).mean(axis=0))


def problem(samples: int, columns: int, rows: int, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, targets, and the rows that made them."""
    draw = rng()
    z, truth = draw.standard_normal((samples, columns)), draw.standard_normal((rows, columns))
    return z, z @ truth.T + noise * draw.standard_normal((samples, rows)), truth


def damped(z: np.ndarray, p: np.ndarray, centre: np.ndarray, damping: float) -> np.ndarray:
    """argmin mean (w z - p)^2 + l d |w - w0|^2 as one stacked least squares."""
    root = np.sqrt(damping * np.mean(z**2) * len(z))
    stacked = np.vstack([z, root * np.eye(z.shape[1])])
    found: np.ndarray = np.linalg.lstsq(stacked, np.vstack([p, root * centre.T]), rcond=None)[0].T
    return found


def nearly_met(columns: int, rows: int, wrong: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Float32 inputs far from zero and targets of rows that are a millionth off, some by a tenth: z, p, the rows."""
    draw = rng()
    z = (draw.standard_normal((6000, columns)) + 10).astype(np.float32)
    centre = draw.standard_normal((rows, columns))
    truth = centre * (1 + 1e-6 * draw.standard_normal(centre.shape))
    truth[wrong] += 0.1
    return z, (z @ truth.T).astype(np.float32), centre


def means_of(z: np.ndarray, p: np.ndarray) -> Normal:
    """Normal equations from moments, whose products are in the precision of the rows."""
    found = moments_of((z, p)).means()
    return Normal(found.zz, found.zp, found.pp)


def miss(z: np.ndarray, p: np.ndarray, row: np.ndarray) -> float:
    """Root mean square of what a row leaves of its target."""
    return float(np.sqrt(np.mean((z @ row - p) ** 2)))


def moments_of(*parts: tuple[np.ndarray, np.ndarray], held: bool = False) -> Moments:
    """Moments of rows that came in several batches, each followed by other rows of the other side."""
    sums = DenseSums(parts[0][0].shape[1], parts[0][1].shape[1])
    for z, p in parts:
        sums.add(held, z, p)
        sums.add(not held, 3 * z, p - 1)
    return sums.moments(held)


def check_identical(found: Moments, expected: Moments) -> None:
    assert found.count == expected.count
    for part in ("zz", "zp", "pp"):
        assert np.array_equal(getattr(found, part), getattr(expected, part))


def diagonal_moments_of(*parts: tuple[np.ndarray, np.ndarray]) -> ChannelMoments:
    """The same of rows in which each channel has columns of its own."""
    (_, channels, columns), targets = parts[0][0].shape, parts[0][1].shape[2]
    sums = DiagonalSums(channels, columns, targets)
    for z, p in parts:
        sums.add(False, z, p)
        sums.add(True, 3 * z, p - 1)
    return sums.moments(False)


def check_same_moments(a: Moments | ChannelMoments, b: Moments | ChannelMoments) -> None:
    assert a.count == b.count
    for name in ("zz", "zp", "pp"):
        one, other = np.asarray(getattr(a, name)), np.asarray(getattr(b, name))
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
        assert one.dtype == np.float64


class TestMoments:
    @pytest.mark.parametrize("waiting", [0, 1 << 30])
    @pytest.mark.parametrize("columns", [1, 3, PANEL - 1, PANEL, PANEL + 1, 2 * PANEL + 5])
    @pytest.mark.parametrize("held", [False, True])
    def test_are_sums_of_products(
        self, monkeypatch: pytest.MonkeyPatch, columns: int, held: bool, waiting: int
    ) -> None:
        monkeypatch.setattr(moments, "WAITING_BYTES", waiting)
        z, p, _ = problem(7, columns, 2)
        found = moments_of((z[:4], p[:4]), (z[4:], p[4:]), held=held)
        assert found.count == 7
        np.testing.assert_allclose(np.asarray(found.zz), sum(np.outer(r, r) for r in z), atol=1e-12)
        np.testing.assert_allclose(found.zp, sum(np.outer(r, q) for r, q in zip(z, p, strict=True)), atol=1e-12)
        np.testing.assert_allclose(found.pp, sum(q**2 for q in p))

    def test_products_may_come_from_elsewhere(self) -> None:
        z, p, _ = problem(9, PANEL + 3, 2)
        sums = DenseSums(PANEL + 3, 2)
        for held in (False, True):
            sums.add_products(held, 9, {"zz": z.T @ z, "zp": z.T @ p, "pp": (p**2).sum(axis=0)})
        for held in (False, True):
            check_same_moments(sums.moments(held), moments_of((z, p)))

    def test_are_additive(self) -> None:
        """Law 7."""
        z, p, _ = problem(20, 4, 3)
        check_same_moments(moments_of((z, p)), moments_of((z[:13], p[:13]), (z[13:], p[13:])))

    def test_settled_sums_of_two_processes_are_those_of_one(self) -> None:
        """To the last bit, though rows that are fewer than the columns would wait for the next ones, in float32."""
        z, p, _ = problem(90, 60, 2)
        blocks = [(z[a : a + 30].astype(np.float32), p[a : a + 30].astype(np.float32)) for a in (0, 30)]
        one, first, second = (DenseSums(60, 2) for _ in range(3))
        for sums, own in ((one, blocks), (first, blocks[:1]), (second, blocks[1:])):
            for rows, targets in own:
                for held, part in ((False, slice(24)), (True, slice(24, None))):
                    sums.add(held, rows[part], targets[part])
                sums.settle()
        for array, other in zip(first.arrays().values(), second.arrays().values(), strict=True):
            array += other
        for held in (False, True):
            check_identical(first.moments(held), one.moments(held))
        waiting = DenseSums(60, 2)
        for rows, targets in blocks:
            waiting.add(False, rows[:24], targets[:24])
        assert not np.array_equal(waiting.moments(False).zz, one.moments(False).zz), "this test could not fail"

    def test_both_sides_share_one_array(self) -> None:
        """The two largest matrices of a step take the room of one."""
        pair = Pair(50)
        assert pair[False].array.base is pair[True].array.base
        assert pair[False].array.base.nbytes == 8 * 50 * 51

    def test_of_channels_are_additive_and_those_of_each_channel(self) -> None:
        z, p = rng().standard_normal((20, 5, 4)), rng().standard_normal((20, 5, 2))
        whole = diagonal_moments_of((z, p))
        check_same_moments(whole, diagonal_moments_of((z[:9], p[:9]), (z[9:], p[9:])))
        for c in range(5):
            one = moments_of((z[:, c], p[:, c]))
            check_same_moments(one, Moments(20, Symmetric.of(whole.zz[c]), whole.zp[c], whole.pp[c]))


class TestSymmetric:
    def operands(self) -> tuple[Symmetric, np.ndarray]:
        """A weighted sum over three triangles of either kind, one of them twice; and what it is."""
        draws = [rng().standard_normal((s, 8)) for s in (12, 13, 14)]
        pair = Pair(8)
        pair.add_rows(False, draws[0])
        pair.add_rows(True, draws[1])
        lower, upper = (Symmetric([(1.0, pair[side])]) for side in (False, True))
        a, b, c = (z.T @ z for z in draws)
        return np.float64(2) * (lower + upper / 4) + Symmetric.of(c) + lower * 3, 5 * a + b / 2 + c

    def test_is_the_matrix_it_stands_for(self) -> None:
        found, expected = self.operands()
        right = rng().standard_normal((8, 3))
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-12)
        np.testing.assert_allclose(found @ right, expected @ right, rtol=1e-10)
        np.testing.assert_allclose(right.T @ found, right.T @ expected, rtol=1e-10)
        assert found.trace() == pytest.approx(np.trace(expected)) and len(found) == 8

    @pytest.mark.parametrize("at", [range(8), [1, 4, 5], [6, 0, 3, 2]])
    def test_cut(self, at: list[int]) -> None:
        found, expected = self.operands()
        np.testing.assert_allclose(np.asarray(found.cut(np.array(at))), expected[np.ix_(at, at)], rtol=1e-12)

    @pytest.mark.parametrize(("limit", "terms"), [(0, 3), (8 * 8 * 8, 1)])
    def test_only_small_sums_settle(self, monkeypatch: pytest.MonkeyPatch, limit: int, terms: int) -> None:
        monkeypatch.setattr(symmetric, "FORMED_BYTES", limit)
        found, expected = self.operands()
        assert len(found.terms) == 3 and len(found.settled().terms) == terms
        np.testing.assert_allclose(np.asarray(found.settled()), expected, rtol=1e-12)

    def test_terms_of_one_matrix_are_one(self) -> None:
        one = Symmetric.of(np.eye(3))
        assert len((one + one * 2).terms) == 1

    def test_systems_are_solved_from_either_triangle(self) -> None:
        found, expected = self.operands()
        right = rng().standard_normal((8, 2))
        np.testing.assert_allclose(solve_damped(found, right, 0.1), solve_damped(expected, right, 0.1), rtol=1e-10)


class TestSolveDamped:
    def test_equals_numpy(self) -> None:
        z, p, _ = problem(50, 6, 3)
        zz, right = z.T @ z, z.T @ p
        expected = np.linalg.solve(zz + 0.1 * np.trace(zz) / 6 * np.eye(6), right)
        np.testing.assert_allclose(solve_damped(zz, right, 0.1), expected, rtol=1e-10)

    def test_leaves_its_inputs_alone(self) -> None:
        z, p, _ = problem(50, 6, 3)
        zz, right = z.T @ z, z.T @ p
        before = zz.copy(), right.copy()
        zz.setflags(write=False)
        right.setflags(write=False)
        solve_damped(zz, right, 0.1)
        assert np.array_equal(zz, before[0]) and np.array_equal(right, before[1])

    @pytest.mark.parametrize("damping", [0.0, 1e-12, 1e-2])
    def test_of_a_singular_matrix_solves_what_can_be_solved(self, damping: float) -> None:
        z, p, _ = problem(4, 9, 2)
        zz, right = z.T @ z, z.T @ p
        found = solve_damped(zz, right, damping)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(zz @ found, right, atol=max(1e-3, 20 * damping) * np.abs(right).max())

    def test_of_zero_is_zero(self) -> None:
        assert not solve_damped(np.zeros((5, 5)), np.zeros((5, 2)), 1e-3).any()

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_refuses_what_is_not_finite(self, value: float) -> None:
        zz = np.eye(4)
        zz[1, 1] = value
        with pytest.raises(ValueError, match="NaN or Inf"):
            solve_damped(zz, np.ones((4, 1)), 1e-3)


class TestFit:
    def test_primal_is_the_damped_least_squares(self) -> None:
        z, p, truth = problem(200, 8, 3)
        centre = truth + rng().standard_normal(truth.shape)
        found = fit_primal(normal(z[:160], p[:160]), normal(z[160:], p[160:]), centre, ONE)
        np.testing.assert_allclose(found.rows, damped(z[:160], p[:160], centre, ONE[0]), rtol=1e-8)

    def test_primal_reports_the_held_out_error(self) -> None:
        z, p, truth = problem(200, 8, 3)
        found = fit_primal(normal(z[:160], p[:160]), normal(z[160:], p[160:]), 0 * truth, ONE)
        miss = p[160:] - z[160:] @ found.rows.T
        assert found.error == pytest.approx((miss**2).sum() / (p[160:] ** 2).sum(), rel=1e-8)

    def test_primal_takes_the_damping_that_is_best_on_held_out_rows(self) -> None:
        """Few noisy rows and a good centre: strong damping; many clean rows and a bad one: weak damping."""
        z, p, truth = problem(60, 40, 3, noise=5.0)
        strong = fit_primal(normal(z[:48], p[:48]), normal(z[48:], p[48:]), truth, GRID)
        z, p, truth = problem(4000, 40, 3, noise=0.01)
        weak = fit_primal(normal(z[:3200], p[:3200]), normal(z[3200:], p[3200:]), -truth, GRID)
        assert strong.damping >= 0.3 and weak.damping <= 1e-3

    @pytest.mark.parametrize("dual", [False, True])
    def test_rows_stay_where_a_fit_gains_less_than_it_must(self, dual: bool) -> None:
        z, p, truth = problem(400, 30, 3)
        train, held = slice(320), slice(320, None)
        centre = truth + 0.02 * rng().standard_normal(truth.shape)

        def fitted(worth: float) -> Fit:
            if dual:
                root, end = 320**-0.5, 80**-0.5
                return fit_dual(root * z[train], root * p[train], end * z[held], end * p[held], centre, GRID, worth)
            return fit_primal(normal(z[train], p[train]), normal(z[held], p[held]), centre, GRID, worth)

        at_centre = ((p[held] - z[held] @ centre.T) ** 2).sum() / (p[held] ** 2).sum()
        gain = 1 - fitted(0.0).error / at_centre
        assert 0.1 < gain < 0.9
        moved, stayed = fitted(gain - 0.05), fitted(gain + 0.05)
        np.testing.assert_array_equal(moved.rows, fitted(0.0).rows)
        np.testing.assert_allclose(stayed.rows, centre, atol=1e-3)
        assert stayed.error == pytest.approx(at_centre, rel=1e-2)

    def test_primal_fits_the_held_out_rows_too_in_the_end(self) -> None:
        z, p, truth = problem(100, 8, 3)
        found = fit_primal(normal(z[:80], p[:80]), normal(z[80:], p[80:]), 0 * truth, GRID)
        np.testing.assert_allclose(found.rows, damped(z, p, 0 * truth, found.damping), rtol=1e-8)

    @pytest.mark.parametrize("grid", [ONE, GRID])
    @pytest.mark.parametrize("samples", [15, 100])
    def test_dual_is_primal(self, samples: int, grid: Sequence[float]) -> None:
        z, p, truth = problem(samples + 10, 30, 4)
        train, held = slice(samples), slice(samples, None)
        centre = truth + 0.3 * rng().standard_normal(truth.shape)
        primal = fit_primal(normal(z[train], p[train]), normal(z[held], p[held]), centre, grid)
        root, held_root = 1 / np.sqrt(samples), 1 / np.sqrt(10)
        dual = fit_dual(z[train] * root, p[train] * root, z[held] * held_root, p[held] * held_root, centre, grid)
        assert dual.damping == primal.damping
        np.testing.assert_allclose(dual.rows, primal.rows, rtol=1e-6, atol=1e-6)
        assert dual.error == pytest.approx(primal.error, rel=1e-6)

    def test_diagonal_is_a_loop_over_channels(self) -> None:
        draw = rng()
        z, p, centre = draw.standard_normal((90, 5, 4)), draw.standard_normal((90, 5, 2)), draw.standard_normal((5, 2, 4))
        train, held = diagonal_moments_of((z[:70], p[:70])), diagonal_moments_of((z[70:], p[70:]))
        found = fit_diagonal(train.zz / 70, train.zp / 70, (held.zz / 20, held.zp / 20, held.pp / 20), centre, ONE)
        for c in range(5):
            np.testing.assert_allclose(found.rows[c], damped(z[:70, c], p[:70, c], centre[c], ONE[0]), rtol=1e-8)

    def test_diagonal_with_a_dead_channel(self) -> None:
        z, p, centre = rng().standard_normal((90, 3, 4)), rng().standard_normal((90, 3, 1)), np.ones((3, 1, 4))
        z[:, 1] = 0
        train = diagonal_moments_of((z, p))
        found = fit_diagonal(train.zz, train.zp, None, centre, ONE)
        assert np.isfinite(found.rows).all()
        np.testing.assert_allclose(found.rows[1], centre[1])

    def test_primal_with_dead_columns_keeps_their_centre(self) -> None:
        z, p, truth = problem(100, 6, 2)
        z[:, 4] = 0
        found = fit_primal(normal(z[:80], p[:80]), normal(z[80:], p[80:]), truth, GRID)
        np.testing.assert_allclose(found.rows[:, 4], truth[:, 4])

    @pytest.mark.parametrize("wrong", [[], [2]], ids=["all right", "one wrong"])
    def test_primal_rows_that_are_right_but_for_float32_stay(self, wrong: list[int]) -> None:
        """Moments in float32 of inputs far from zero say nothing of a millionth; a row that is truly off is mended."""
        z, p, centre = nearly_met(6, 50, wrong)
        train, held = (means_of(z[at], p[at]) for at in SIDES)
        found = fit_primal(train, held, centre, GRID)
        right = np.setdiff1d(np.arange(50), wrong)
        np.testing.assert_array_equal(found.rows[right], centre[right])
        assert found.error >= 0
        assert all(miss(z, p[:, k], found.rows[k]) < 0.1 * miss(z, p[:, k], centre[k]) for k in wrong)

    def test_diagonal_rows_that_are_right_but_for_float32_stay(self) -> None:
        z, p, centre = nearly_met(6, 2, [1])
        train, held = (diagonal_moments_of((z[at, None, :], p[at, None, :])) for at in SIDES)
        known = (held.zz / held.count, held.zp / held.count, held.pp / held.count)
        found = fit_diagonal(train.zz / train.count, train.zp / train.count, known, centre[None], GRID).rows[0]
        np.testing.assert_array_equal(found[0], centre[0])
        assert miss(z, p[:, 1], found[1]) < 0.1 * miss(z, p[:, 1], centre[1])


class TestExplained:
    def test_gives_the_error_of_the_best_row(self) -> None:
        """e_i - Q_ii is what least squares leaves of a target."""
        z, p, _ = problem(80, 5, 3, noise=1.0)
        found = explained_by_moments(z.T @ z, z.T @ p, 1e-12)
        left = [np.linalg.lstsq(z, q, rcond=None)[1][0] for q in p.T]
        np.testing.assert_allclose((p**2).sum(axis=0) - np.diagonal(found), left, rtol=1e-8)

    def test_by_rows_is_by_moments(self) -> None:
        """Two tasks with samples of their own."""
        z, p, _ = problem(24, 40, 5)
        parts = [p[:14, :2], p[14:, 2:]]
        zp = np.concatenate([z[:14].T @ parts[0], z[14:].T @ parts[1]], axis=1)
        np.testing.assert_allclose(explained_by_rows(z, parts, 1e-2), explained_by_moments(z.T @ z, zp, 1e-2), rtol=1e-8)


SHAPES = [(1, 1), (3, 3), (2, 5), (5, 2), (4, 4)]


def total(cost: np.ndarray, pairs: tuple[np.ndarray, np.ndarray]) -> float:
    return float(cost[pairs].sum())


def check_pairs(cost: np.ndarray, pairs: tuple[np.ndarray, np.ndarray]) -> None:
    rows, columns = pairs
    assert len(rows) == len(columns) == min(cost.shape)
    assert len(set(rows.tolist())) == len(set(columns.tolist())) == len(rows)
    assert (np.diff(cost[rows, columns]) >= 0).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(4))
class TestAssignment:
    def test_hungarian_is_the_best_of_all(self, shape: tuple[int, int], seed: int) -> None:
        cost = np.random.default_rng(seed).random(shape)
        wide = cost if shape[0] <= shape[1] else cost.T
        best = min(sum(wide[i, j] for i, j in enumerate(order)) for order in permutations(range(wide.shape[1]), len(wide)))
        found = hungarian(cost)
        check_pairs(cost, found)
        assert total(cost, found) == pytest.approx(best, rel=1e-12)

    def test_greedy_takes_the_cheapest_that_is_left(self, shape: tuple[int, int], seed: int) -> None:
        cost = np.random.default_rng(seed).random(shape)
        left, expected = cost.copy(), []
        for _ in range(min(shape)):
            i, j = np.unravel_index(int(left.argmin()), shape)
            expected.append((int(i), int(j)))
            left[i, :] = left[:, j] = np.inf
        found = greedy(cost)
        check_pairs(cost, found)
        assert list(zip(*(x.tolist() for x in found), strict=True)) == expected
