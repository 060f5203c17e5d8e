# Copyright (C) the ngx_umami_module authors

"""What is said about a stack."""

import collections

from gateway import compare, distribution
from gateway.stack import SAME, SHARED


def line(item):
    """A resource, and below it the keys that differ."""
    lines = [f'{item.state} {item.file.name}']
    if item.found is not None:
        lines += ['    ' + compare.shown(difference)
                  for difference in item.differs]
        lines += [f'    tag {name} -> {value}'
                  for name, value in item.tags.items()]
    return '\n'.join(lines)


def plan(stack, args):
    for item in stack.items:
        if item.state != SAME or args.all:
            print(stack.aws.hide(line(item)))

    for problem in stack.stop_at.values():
        print(f'\nIt will stop there: {problem}\n')

    by_hand(stack, args)
    count = collections.Counter(item.state for item in stack.items)
    print(f'{count["+"]} to be made, {count["~"]} to be changed, '
          f'{count["!"]} by hand, {count["="]} stay.')


def by_hand(stack, args):
    """What is shared is for those who own it to change."""
    for item in stack.items:
        if item.state == SHARED:
            print(f'\n{item.file.name} is of something that others made.  Have '
                  f'this run by who owns it:\n\n    {stack.by_hand(item)}\n')

    if args.distribution:
        distribution.patch(stack, args.distribution)
