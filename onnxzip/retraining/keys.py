"""Under which attribute of a module each param stands, so that the keys of its `state_dict` are the params' names.

torch makes a key of nested modules, joined by dots: `layer1.conv.weight` is the Parameter `weight` of the module `conv` of the
module `layer1`. What else a name holds (slashes, colons, blanks) torch takes as it is. Three kinds of names it refuses: those
with an empty part (`a..b`), those with a part that modules have already (`forward`, `training`), and those that go on where
another param ends (`a` and `a.b`). Their dots become underscores, and underscores are put behind them until they are free.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def keys_of(names: Iterable[str], reserved: nn.Module) -> dict[str, str]:
    """The key of every name.

    Args:
        names: of params, all different.
        reserved: the module that gets them: what it has already, no param can be called.
    """
    names = tuple(names)
    taken = set(names)
    plain = nn.Module()
    ends = {tuple(name.split(".")) for name in names}
    keys = {}
    for name in names:
        parts = tuple(name.split("."))
        free = all(part and not hasattr(plain, part) for part in parts) and not hasattr(reserved, parts[0])
        key = name
        if not free or any(parts[:k] in ends for k in range(1, len(parts))):
            key = name.replace(".", "_") + "_"
            while key in taken or hasattr(reserved, key) or any(e[0] == key for e in ends):
                key += "_"
            taken.add(key)
        keys[name] = key
    return keys
