# Copyright (C) the ngx_umami_module authors

"""How what is wanted differs from what is there.

AWS answers with more than it was given, such as defaults, and in an order of
its own: it is the same if all that is wanted is found in it.
"""

import json
import re

# lists whose order counts
ORDERED = {'command', 'entryPoint', 'CacheBehaviors'}

UNSHOWN = re.compile('secret|salt|password|token|verify|headervalue|'
                     'database_url|redis_url', re.I)


def differences(wanted, there, key=''):
    """The keys that differ: [(key, value that is there, value wanted)]."""
    if isinstance(wanted, str) and isinstance(document(wanted), (dict, list)):
        return of_documents(document(wanted), document(there), key)

    if isinstance(wanted, dict) and isinstance(there, dict):
        return [found for name, value in wanted.items()
                for found in differences(value, there.get(name),
                                         f'{key}.{name}' if key else name)]

    if isinstance(wanted, list) and isinstance(there, list):
        return of_lists(wanted, there, key)

    if scalar(wanted) == scalar(there):
        return []

    return [(key, there, wanted)]


def of_documents(wanted, there, key):
    """Nothing is added to these: what is there and not wanted counts."""
    if wanted == there:
        return []
    return (differences(wanted, there, key)
            or [(key, there, wanted)] * bool(differences(there, wanted)))


def of_lists(wanted, there, key):
    name = key.removesuffix('.Items').split('.')[-1]

    if name in ORDERED or len(wanted) == 1 == len(there):
        if len(wanted) != len(there):
            return [(key, there, wanted)]
        return [found for i, (a, b) in enumerate(zip(wanted, there))
                for found in differences(a, b, f'{key}[{i}]')]

    left = list(there)
    found = []

    for i, item in enumerate(wanted):
        same = next((n for n, other in enumerate(left)
                     if not differences(item, other)), None)
        if same is not None:
            del left[same]
            continue

        # by its name it is the same thing with another value
        other = next((n for n, other in enumerate(left)
                      if identity(item) and identity(item) == identity(other)),
                     None)
        label = identity(item) or str(i)
        if other is None:
            found.append((f'{key}[{label}]', None, item))
        else:
            found += differences(item, left.pop(other), f'{key}[{label}]')

    found += [(f'{key}[{identity(item) or "one more"}]', item, None)
              for item in left]

    return found


def identity(item):
    if isinstance(item, dict):
        for name in 'name', 'Name', 'Key', 'key', 'Id', 'PathPattern', 'Sid':
            if isinstance(item.get(name), str):
                return item[name]
    return item if isinstance(item, str) else None


def document(text):
    """A policy or dashboard within a string, which AWS may lay out anew."""
    if isinstance(text, str) and text[:1] in ('{', '['):
        try:
            return json.loads(text)
        except ValueError:
            pass
    return text


def scalar(value):
    """Empty is as good as absent; a number may come as a string."""
    if value is None or value == '' or value == [] or value == {}:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int) else value


def shown(difference):
    """One line of it: values only if they are short, and no secrets."""
    key, there, wanted = difference

    if UNSHOWN.search(key):
        return key
    if wanted is None:
        return f'{key}: to be removed'
    if isinstance(wanted, (dict, list)) or isinstance(there, (dict, list)):
        return key

    old, new = str(there), str(wanted)
    if len(old) + len(new) > 400:
        return key

    return f'{key}: {"none" if there is None else old} -> {new}'
