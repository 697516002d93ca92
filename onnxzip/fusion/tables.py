"""Spaces that params carry before any weights produce them: the columns of embedding tables, positions, class tokens.

A table E [tokens, channels] is a linear node over one-hot inputs, so that the products of its least squares are counts: with
n_t(v) the times that task t looks up row v, and a_t the weight of its data,

    G = diag(sum_t a_t n_t),    C_t = a_t diag(n_t) E_t,    Q = C' (G + l d I)^-1 C,    d = mean of the diagonal

tell which channels are alike as the moments of a layer do. A param that is added to every sample has each row looked up once.
A shared row is the mean of the tasks' rows, channel by channel as they are matched, weighted by a_t n_t; a row that none of
them looks up is their plain mean.

Columns that no weights make anywhere (of a text CNN, of the categories in a table of data) are kept as other channels are:
each follows one of its originals (`keeping`), and where nothing but linear layers reads them, they are brought along their
principal axes first (`turning`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.layout import Taken
from onnxzip.analysis.spaces import Expr
from onnxzip.analysis.strands import Owners, SpacePlan
from onnxzip.analysis.turning import turnable, turned_params
from onnxzip.calibration.frontier import Frontier
from onnxzip.fusion.keeping import Ranking, kept_channels, ranked, room_of
from onnxzip.fusion.siblings import alike, siblings
from onnxzip.linalg.principal import principal_axes
from onnxzip.linalg.ridge import TINY
from onnxzip.matching.beforehand import sharing
from onnxzip.matching.grouping import Explained, Terms, group_channels
from onnxzip.matching.match import Members, channel_places, charged, members_of, ordered_groups
from onnxzip.matching.methods import Method, even
from onnxzip.matching.twins import by_unit, with_twins, without_twins
from onnxzip.peers import Peers

Counts = Mapping[str, np.ndarray]  # task -> times that each row is looked up, per sample


@dataclass(frozen=True)
class Table:
    """A param with one space, as a table of it.

    Attributes:
        laid: the laid-over param.
        rows: task -> float64 [rows, channels].
        counts: how often each row is looked up.
    """

    laid: str
    rows: Mapping[str, np.ndarray]
    counts: Counts


@dataclass(frozen=True)
class Paired:
    """What tables tell of the spaces that they carry.

    Attributes:
        plan: with the nets as they are now, some spaces of which have been turned; turned: these.
        made: members of every strand.
        counts: laid-over param -> how often each of its rows is looked up.
    """

    plan: Plan
    made: dict[tuple[int, Owners], Members]
    counts: dict[str, Counts]
    turned: frozenset[int] = frozenset()


def waiting_params(plan: Plan, values: Sequence[str], known: Mapping[str, object]) -> tuple[Taken, ...]:
    """Params that some values of the fused net wait for since their channels are not matched yet.

    Args:
        known: values and params that are known.
    """
    makers = {v: p for p in plan.layout.placed for v in p.node.outputs}
    taken = {t.name: t for t in plan.layout.taken}
    found: dict[str, Taken] = {}
    stack, seen = list(values), set(values)
    while stack:
        value = stack.pop()
        if value in known:
            continue
        if value in taken:
            found[value] = taken[value]
        news = set(makers[value].node.read) - seen if value in makers else set()
        seen |= news
        stack.extend(news)
    return tuple(found.values())


def pair_waiting(
    plan: Plan, method: Method, frontier: Frontier | None, waiting: Sequence[Taken], known: Sequence[int], peers: Peers
) -> Paired:
    """Members of the spaces that waiting params carry and that are not known yet, and how often each param is looked up.

    Args:
        known: spaces that are matched already.
    """
    counts = {t.laid: lookups(plan, frontier, t.laid, peers) for t in waiting} if frontier is not None else {}
    exprs = [e for t in waiting for e in plan.overlay.exprs(t.laid, next(iter(plan.overlay.values[t.laid])))]
    found = Paired(plan, {}, counts)
    for number in dict.fromkeys(a for e in exprs for a in e.atoms() if a in plan.spaces and a not in known):
        space, alone = plan.spaces[number], plan.made_by_tables(number)
        carried = plan.layout.taken if alone else waiting  # nothing else tells of it, and a net of its own may come first
        tables = [x for t in carried if (x := table_of(plan, t, number, counts.get(t.laid, {}))) is not None]
        if alone and space.shares_any and method.follow and frontier is not None and not space.ordered:
            found = _kept(found, space, tables, method)
        else:
            found = replace(found, made=found.made | pair_columns(plan, space, tables, method))
    return found


def lookups(plan: Plan, frontier: Frontier, laid: str, peers: Peers) -> Counts:
    """How often each row of a param is looked up in a sample of each task; empty where it is not a table of a Gather."""
    counts: dict[str, np.ndarray] = {}
    for role in plan.overlay.roles:
        if role.op != "Gather" or role.inputs[0] != laid or role.inputs[1] not in plan.layout.pieces:
            continue
        for task, node in role.members.items():
            rows = plan.nets[task].shapes[str(node.inputs[0])][int(node.attrs["axis"])]
            mine = np.zeros(rows)
            for indices in _live(plan, frontier, str(role.inputs[1]), task):
                mine += np.bincount(indices.reshape(-1) % rows, minlength=rows)
            total = peers.sum(f"{laid}, lookups of {task}", {"count": mine})["count"] if peers.size > 1 else mine
            counts[task] = counts.get(task, 0) + total / frontier.sources[frontier.source_of[task]].total
    return counts


def _live(plan: Plan, frontier: Frontier, laid: str, task: str) -> Iterator[np.ndarray]:
    """A live value of the fused net, batch by batch, as a task's nodes read it."""
    k = frontier.source_of[task]
    piece = next(p for key, p in plan.layout.pieces[laid].items() if task in key or task in p.owners)
    if piece.name in frontier.alive[k]:
        for b in range(len(frontier.batches[k])):
            value = frontier.place.get((k, piece.name, b))
            yield value if isinstance(value, np.ndarray) else value.numpy()


def table_of(plan: Plan, taken: Taken, number: int, counts: Counts) -> Table | None:
    """A param as a table of a space; None where it is a vector, or its channels are not one axis, or one part of it."""
    tasks = [t for t in plan.tasks if t in taken.owners]
    exprs = {t: plan.overlay.exprs(taken.laid, t) for t in tasks}
    at = [d for d, e in enumerate(exprs[tasks[0]]) if _parts(e).count(number) == 1]
    if len(at) != 1 or len(exprs[tasks[0]]) < 2:
        return None
    rows: dict[str, np.ndarray] = {}
    for task in tasks:
        array = np.moveaxis(plan.nets[task].params[plan.overlay.values[taken.laid][task]], at[0], -1)
        places = channel_places(plan, exprs[task][at[0]], plan.spaces[number], task)[:, 0]
        rows[task] = array.reshape(-1, array.shape[-1])[:, places].astype(np.float64)
    if any(len(counts.get(t, ())) not in (0, len(r)) for t, r in rows.items()):
        return None
    return Table(taken.laid, rows, {t: counts.get(t, np.ones(len(r))) for t, r in rows.items()})


def _parts(expr: Expr) -> list[int]:
    """The spaces that are an axis, or stand beside each other on it."""
    return [p.atom for p in (expr.parts if expr.kind == "sum" else (expr,)) if p.kind == "atom"]


def _kept(found: Paired, space: SpacePlan, tables: Sequence[Table], method: Method) -> Paired:
    """With the members of a space that tables alone make."""
    plan, tasks = found.plan, sharing(space)
    tables = [x for x in tables if x.rows.keys() >= set(tasks)]  # not those of fewer tasks' strands
    weights = {t: np.concatenate([x.counts[t] for x in tables]) for t in tasks}
    rows = {t: np.concatenate([x.rows[t] for x in tables]) for t in tasks}
    root = np.sqrt(np.mean(list(weights.values()), axis=0))[:, None]

    def columns(at: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {t: (root * rows[t][:, channels]).T for t, channels in at.items()}

    room = room_of(without_twins(space).counts, ())
    akin = alike(columns, space, room, ())
    akin += siblings(columns, space, room_of(room, akin), akin)
    covariances = {t: _covariance(rows[t], weights[t]) for t in tasks}
    if method.turn and room and not akin and all(turnable(plan, space.number, t) for t in tasks):
        units = by_unit(space, tasks)
        axes = {c: principal_axes(np.mean([covariances[t] for t in sorted(c)], axis=0)) for c in units}
        nets = {t: turned_params(plan, space.number, t, a) for c, a in axes.items() for t in c}
        turned = {t: replace(plan.nets[t], params={**plan.nets[t].params, **params}) for t, params in nets.items()}
        made = kept_channels(space, (), (), None)
        plan = replace(plan, nets={**plan.nets, **turned})
        return replace(found, plan=plan, made=found.made | made, turned=found.turned | {space.number})

    def rank(task: str, known: np.ndarray, kept: int) -> Ranking:
        return ranked(covariances[task], method.importance(plan, space, task), known, kept)

    return replace(found, made=found.made | kept_channels(space, (), akin, rank if method.rank else None))


def _covariance(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of the columns of tables, each row as often as it is looked up: [channels, channels]."""
    share = weights / max(float(weights.sum()), TINY)
    centred = rows - share @ rows
    return np.asarray((share[:, None] * centred).T @ centred)


def pair_columns(
    plan: Plan, space: SpacePlan, tables: Sequence[Table], method: Method
) -> dict[tuple[int, Owners], Members]:
    """Members of every strand of a space, from the tables that carry it."""
    if space.ordered:
        return members_of(space, ordered_groups(space))
    counts = room_of(without_twins(space).counts, ())
    tasks = [t for t in space.sizes if any(t in o for o in counts)]
    tables = [x for x in tables if all(t in x.rows for t in tasks)]
    importance = {t: method.importance(plan, space, t) for t in tasks}
    rows = {t: np.concatenate([np.zeros((0, space.sizes[t])), *(x.rows[t] for x in tables)]) for t in tasks}
    times = {t: np.concatenate([np.zeros(0), *(x.counts[t] for x in tables)]) for t in tasks}
    energy = {t: np.einsum("v,vc->c", times[t], rows[t] ** 2) for t in tasks}
    weight = {t: even(float(e.mean())) for t, e in energy.items()}

    def explained(some: tuple[str, ...]) -> Explained:
        diagonal = np.sum([weight[t] * times[t] for t in some], axis=0)
        root = 1 / np.sqrt(np.maximum(diagonal + method.match_damping * (diagonal.mean() if diagonal.size else 0.0), TINY))
        half = {t: (weight[t] * times[t] * root)[:, None] * rows[t] for t in some}
        return {(t, u): half[t].T @ half[u] for t in some for u in some}

    terms = Terms({t: weight[t] * e for t, e in energy.items()}, explained, importance)
    groups, costs = with_twins(space, *group_channels(counts, terms, method.assign))
    return charged(members_of(space, groups), groups, costs)
