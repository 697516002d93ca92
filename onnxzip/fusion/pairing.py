"""Matching the channels of a space, decided where a step first produces it.

Channels that do the same in several nets are found first. Of the others each net keeps those that tell most (`keeping`);
methods whose rows follow no net, and spaces with others inside, pair channels by what one row can explain of their targets.

Where other spaces lie inside a space (the channels of heads), two of its channels are as alike as the best pairing of what
lies inside them makes them: with Q as in `matching.grouping`, q_ij = max over pairings of the sum of Q over the pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxzip.analysis.steps import channels_at
from onnxzip.analysis.strands import Owners, SpacePlan
from onnxzip.fusion.duplicates import same_groups, same_inside
from onnxzip.fusion.keeping import Ranking, kept_channels, ranked, room_of
from onnxzip.fusion.problem import Reads
from onnxzip.fusion.siblings import AKIN, alike, distances, fitted_rows, siblings
from onnxzip.fusion.targets import rows_of, summed, targets_of
from onnxzip.fusion.work import Exact, Work, by_owners, shared_reads
from onnxzip.linalg.assignment import hungarian
from onnxzip.linalg.explained import explained_by_moments
from onnxzip.matching.grouping import Assign, Explained, Terms, group_channels
from onnxzip.matching.match import Matches, Members, Places, charged, in_place, inner_places, led, members_of, ordered_groups
from onnxzip.matching.twins import with_twins, without_twins

Made = dict[tuple[int, Owners], Members]
ONE = 0.01  # of what would be lost without a group: the most that one row for channels that do the same may cost


def pair_channels(work: Work, space: SpacePlan, same: Sequence[dict[str, int]], matches: Matches) -> Made:
    """Members of every strand of a space that this step produces first.

    Args:
        same: groups that are decided already, as they are equal in all their nets, without twins.
        matches: of the spaces that the step reads.
    """
    if all(len(o) == 1 for o in space.counts):
        return members_of(space, [])
    follows = work.method.follow and work.stats is not None and not space.inside
    if follows and not space.ordered:
        return _kept(work, space, same, matches)
    groups, costs = _ordered(space) if space.ordered else _matched(work, space, same, matches)
    members = charged(members_of(space, groups), groups, costs)
    return led(members, _in_turn(work, space, groups, matches)) if follows else members


def _kept(work: Work, space: SpacePlan, same: Sequence[dict[str, int]], matches: Matches) -> Made:
    """Members of a space whose channels follow one net each, but for those that are the same or akin."""
    room = room_of(without_twins(space).counts, same)
    akin = [] if space.number in work.turned else akin_channels(work, space, room, same, matches)

    def rank(task: str, known: np.ndarray, kept: int) -> Ranking:
        assert work.stats is not None
        importance = work.method.importance(work.plan, space, task)
        return ranked(work.stats.covariance(space.number, task), importance, known, kept)

    return kept_channels(space, same, akin, None if space.number in work.turned or not work.method.rank else rank)


def akin_channels(
    work: Work, space: SpacePlan, room: Mapping[Owners, int], same: Sequence[Mapping[str, int]], matches: Matches
) -> list[dict[str, int]]:
    """Groups of channels that do the same in all their nets.

    Those that are the same wherever they stand come first: a row of few columns is akin to the one in its place by chance.
    """
    reads = shared_reads(work, space)
    rows = fitted_rows(work, reads, space, matches)
    found = alike(rows, space, room, same)
    found += siblings(rows, space, room_of(room, found), [*same, *found])
    room = room_of(room, found)
    if room and any(len(s.rows) > 1 for s in space.strands):  # rows read what is each net's own, too: weights do not tell
        terms = _terms(work, reads, space, sorted({t for o in room for t in o}), matches)
        groups, costs = group_channels(room, terms, work.method.assign, [*same, *found])
        alone = {t: terms.alone(t) for t in terms.energy}
        found += [g for g, cost in zip(groups, costs, strict=True) if terms.extra(g, cost, alone) < ONE]
    return found


def _in_turn(work: Work, space: SpacePlan, groups: Sequence[Mapping[str, int]], matches: Matches) -> dict[str, np.ndarray]:
    """Leaders of groups whose channels keep their order, one net after the other; nobody leads those that are akin."""
    leads = {t: np.zeros(n, bool) for t, n in space.sizes.items()}
    for owners in dict.fromkeys(tuple(sorted(g)) for g in groups):
        at = {t: np.array([g[t] for g in groups if tuple(sorted(g)) == owners], np.int64) for t in owners}
        apart = np.flatnonzero(distances(fitted_rows(work, shared_reads(work, space), space, matches), at) >= AKIN)
        for k, task in enumerate(owners):
            leads[task][at[task][apart[k :: len(owners)]]] = True
    return leads


def _ordered(space: SpacePlan) -> tuple[list[dict[str, int]], list[float]]:
    """The groups of a space whose channels keep their order, which nobody has chosen by their cost."""
    groups = ordered_groups(space)
    return groups, [float("nan")] * len(groups)


def _matched(
    work: Work, space: SpacePlan, same: Sequence[dict[str, int]], matches: Matches
) -> tuple[list[dict[str, int]], list[float]]:
    """The groups of a space that cost least, and what each costs; those that are the same, and siblings, before all others."""
    groups, costs, counts = list(same), [0.0] * len(same), room_of(without_twins(space).counts, same)
    if work.method.follow and work.stats is not None:
        akin = siblings(fitted_rows(work, shared_reads(work, space), space, matches), space, counts, same)
        groups, costs, counts = groups + akin, costs + [float("nan")] * len(akin), room_of(counts, akin)
    if counts:
        tasks = [t for t in work.step.tasks if any(t in o for o in counts)]
        terms = _terms(work, shared_reads(work, space), space, tasks, matches)
        matched, charges = group_channels(counts, terms, work.method.assign, groups)
        groups += matched
        costs += charges if work.stats is not None else [float("nan")] * len(matched)
    return with_twins(space, groups, costs)


def same_channels(work: Work, space: SpacePlan, exact: Exact, matches: Matches) -> list[dict[str, int]]:
    """Groups of channels of a space that are the same in several nets, without twins; none where they are matched by their
    places alone."""
    alone = without_twins(space)
    if not work.method.needs_data or space.ordered or all(len(o) == 1 for o in alone.counts):
        return []
    group, rows = rows_of(work, space, [t for t in work.step.tasks if t in space.sizes and t not in space.refused])
    return same_groups(work, shared_reads(work, space), group, rows, alone, exact, matches)


def pair_inside(work: Work, space: SpacePlan, number: int, exact: Exact, matches: Matches) -> Made:
    """Members of a space that lies inside another one, for every strand of that one: an order for each of its channels.

    Args:
        space: the other one, whose members are known; number: of the space inside.
        exact: value of the fused net -> tasks for which it is what their originals compute.
        matches: of the spaces that the step reads, and of the other one.
    """
    found = in_place(space, number, space.inside[number])
    counts = [o for o in space.counts if len(o) > 1]
    if not counts or work.stats is None:
        return found
    if work.step.diagonal:
        return {place: _inside_channels(work, space, number, place[1], m, matches) for place, m in found.items()}
    tasks = [t for t in work.step.tasks if any(t in o for o in counts)]
    known = targets_of(work, shared_reads(work, space), space, tasks, matches)
    same = same_inside(work, shared_reads(work, space), known.group, known.rows, number, exact, matches)
    rows = {t: r[number] for t, r in known.rows.items()}
    for (_, key), members in found.items():
        heads = matches[space.number, key].index
        index = {t: np.array(i) for t, i in members.index.items()}
        for owners, shared in by_owners({t: heads[t] for t in tasks if t in heads}).items():
            explained = known.explained(owners) if len(owners) > 1 else {}
            for k in shared if len(owners) > 1 else ():
                head = {t: int(heads[t][k]) for t in owners}
                orders = same(head) or _orders(explained, {t: rows[t][c] for t, c in head.items()}, work.method.assign)
                for t, order in orders.items():
                    index[t][k] = order
        found[number, key] = Members(index)
    return found


def _inside_channels(
    work: Work, space: SpacePlan, number: int, key: Owners, members: Members, matches: Matches
) -> Members:
    """Members for one strand of the other space where each of its channels makes those inside it of itself (depthwise)."""
    heads, reads = matches[space.number, key].index, next((r for r in work.reads if r.key == key), None)
    tasks = [t for t in work.step.tasks if t in heads]
    if reads is None or len(tasks) < 2 or work.stats is None:
        return members
    known = {t: work.stats.of_channels(t, reads)[0] for t in tasks}
    weight = work.weights({t: m.pp for t, m in known.items()})
    places = {t: _places_inside(work, space, number, t) for t in tasks}
    index = {t: np.array(i) for t, i in members.index.items()}
    for owners, shared in by_owners({t: heads[t] for t in tasks}).items():
        for k in shared if len(owners) > 1 else ():
            zz = np.sum([weight[t] * known[t].zz[k] for t in owners], axis=0)
            zp = np.concatenate([weight[t] * known[t].zp[k] for t in owners], axis=1)
            q = explained_by_moments(zz, zp, work.method.match_damping)
            each = known[owners[0]].pp.shape[1]
            rows = {t: places[t][heads[t][k]] for t in owners}
            blocks = {
                (t, u): q[i * each : (i + 1) * each, j * each : (j + 1) * each]
                for i, t in enumerate(owners) for j, u in enumerate(owners)
            }
            for t, order in _orders(blocks, rows, work.method.assign).items():
                index[t][k] = order
    return Members(index)


def _places_inside(work: Work, space: SpacePlan, number: int, task: str) -> np.ndarray:
    """Of each channel that a depthwise step reads, which rows made of it are whose: int [channels, inside, rows of each]."""
    part = work.step.parts[0]
    made, read = (channels_at(work.plan.overlay, part, task, str(v)) for v in (part.outputs[0], part.inputs[0]))
    return inner_places(work.plan, made, space, number, task) % (made.size // read.size)


def _orders(explained: Explained, rows: Mapping[str, np.ndarray], assign: Assign) -> dict[str, np.ndarray]:
    """The channels inside one head of each task, in the order of the first task's.

    Args:
        rows: task -> int [channels, rows of each].
    """
    first, *others = rows
    orders = {first: np.arange(len(rows[first]))}
    for task in others:
        likeness = np.sum([summed(explained[t, task], rows[t][o], rows[task]) for t, o in orders.items()], axis=0)
        at, chosen = assign(-likeness, len(likeness))
        orders[task] = np.empty(len(at), np.int64)
        orders[task][at] = chosen
    return orders


def matched_products(explained: Explained, rows: Mapping[str, Places]) -> Explained:
    """[channels, channels] of a space, from products of rows: those of what lies inside two channels are paired at best."""
    found = {}
    for (t, u), q in explained.items():
        total = np.zeros((), q.dtype)
        for inside, mine in rows[t].items():
            total = total + _best(q, mine, rows[u][inside], t == u)
        found[t, u] = np.asarray(total)
    return found


def _best(q: np.ndarray, mine: np.ndarray, other: np.ndarray, same: bool) -> np.ndarray:
    """Of every pair of channels, the sum of q over the best pairing of what lies inside; with itself a channel is paired as it
    stands."""
    (many, size, _), (wide, _, _) = mine.shape, other.shape
    blocks = summed(q, mine.reshape(many * size, -1), other.reshape(wide * size, -1)).reshape(many, size, wide, size)
    if size == 1 or same:
        return np.asarray(np.einsum("irjr->ij", blocks))
    best = np.empty((many, wide))
    for i in range(many):
        for j in range(wide):
            at, chosen = hungarian(-blocks[i, :, j])
            best[i, j] = blocks[i, at, j, chosen].sum()
    return best


def _terms(work: Work, reads: Reads, space: SpacePlan, tasks: Sequence[str], matches: Matches) -> Terms:
    """What the costs of groups are made of, for the space's group of the node; all alike where there are no statistics."""
    importance = {t: work.method.importance(work.plan, space, t) for t in tasks}
    if work.stats is None:
        nothing = {(t, u): np.zeros((space.sizes[t], space.sizes[u])) for t in tasks for u in tasks}
        return Terms({t: np.zeros(space.sizes[t]) for t in tasks}, lambda _: nothing, importance)
    known = targets_of(work, reads, space, tasks, matches)
    energy = {t: np.sum([known.energy[t][r].sum(axis=(1, 2)) for r in known.rows[t].values()], axis=0) for t in tasks}
    return Terms(energy, lambda some: matched_products(known.explained(some), known.rows), importance)
