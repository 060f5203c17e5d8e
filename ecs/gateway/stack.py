# Copyright (C) the ngx_umami_module authors

"""What is there of the bundle in AWS, and what is to be done about it."""

import dataclasses
import functools
import itertools
import json
import shlex
import time

from gateway import bundle, compare, kinds, special
from gateway.aws import Aws, Failure, at_once
from gateway.bundle import ECSPRESSO, Problem, TEMPLATE
from gateway.links import HIDDEN, OUTPUTS, VALUES
from gateway.secrets import Secrets

# the value of a parameter that a resource gives which is not there yet
PENDING = '(known after apply)'

NEW, CHANGE, SAME, SHARED = '+', '~', '=', '!'

# tags whose values have to be those of the file for a resource to be ours
IDENTITY = ('Project', 'Component', 'Environment')

# a service needs its task definition, and scaling the service
LAST = {'ecs.register-task-definition': 1, 'ecs.create-service': 2,
        'application-autoscaling.register-scalable-target': 3,
        'application-autoscaling.put-scaling-policy': 3}

# without these AWS makes no service
BLOCKING = {'elbv2.create-rule', 'elbv2.create-listener'}

# how long a new resource may take until it is found
APPEARS = 120


@dataclasses.dataclass
class Item:
    file: bundle.File
    wanted: dict = None
    state: str = None
    found: dict = None
    # (key, value there, value wanted)
    differs: list = dataclasses.field(default_factory=list)
    # tags to be set
    tags: dict = dataclasses.field(default_factory=dict)

    @property
    def operation(self):
        return f'{self.file.service}.{self.file.operation}'

    @property
    def kind(self):
        return kinds.KINDS[self.operation]


class Stack:

    def __init__(self, args, generate=False):
        parameters = args.parameters
        self.aws = aws = Aws(parameters)
        folder, variants = args.bundle, args.variant
        self.folder, self.variants = folder, variants
        self.service = service_name(folder)
        # further tags of a new revision; files that are not to be done yet
        self.marks, self.stop_at = {}, {}
        self.parameters = bundle.Parameters(parameters)
        self.items = [Item(file) for file in bundle.load(folder, variants)]
        self.items.sort(key=lambda item: LAST.get(item.operation, 0)
                        if item.operation != 'ecs.register-task-definition'
                        or item.file.name in ECSPRESSO else 0)

        self.secrets = Secrets(aws, parameters, generate)

        # what files make is looked up, whatever the parameters say
        for name in self.givers():
            self.parameters.pop(name, None)

        for item in self.items:
            if item.operation not in kinds.KINDS:
                raise Problem(f'"aws {item.file.service} '
                              f'{item.file.operation}" is unknown here: see '
                              'gateway/kinds.py', item.file.name)

        for name in HIDDEN:
            if len(parameters.get(name, '')) > 3:
                aws.hidden.add(parameters[name])

        self.right_account()

    def leave_out(self, operation):
        self.items = [item for item in self.items
                      if item.operation != operation]

    def item(self, key):
        return next((item for item in self.items if item.file.key == key), None)

    # rendering

    def needs(self, item):
        """The parameters of the file that other files give."""
        names = self.names_in(item.file.template)
        if item.operation == 'ecs.create-service':
            names.add('TASK_DEFINITION_ARN')
        return names & set(self.givers())

    def names_in(self, template):
        """The parameters of a part of a file."""
        return {match.group(2) for match in
                TEMPLATE.finditer(json.dumps(template))}

    def givers(self):
        """Parameters that files give, each with its item."""
        return {name: item for item in self.items
                for name in OUTPUTS.get(item.file.key, {})}

    def render(self, item):
        wanted = item.file.render(self.parameters)
        if item.operation == 'ecs.create-service':
            cluster = self.parameters.get('ECS_CLUSTER')
            if not cluster:
                raise Problem('ECS_CLUSTER is not set', item.file.name)
            wanted |= {'cluster': cluster, 'serviceName': self.service,
                       'taskDefinition':
                           self.parameters['TASK_DEFINITION_ARN']}
        return wanted

    # looking

    def look(self):
        """What is there, as many questions at once as may be."""
        left = list(self.items)
        done = set()

        while left:
            ready = [item for item in left if self.needs(item) <= done
                     or item is left[0]]
            at_once(self.look_at, ready)
            at_once(self.judge, ready)
            for item in ready:
                done.update(OUTPUTS.get(item.file.key, {}))
                left.remove(item)

        return self.items

    def right_account(self):
        """Names are the same in all accounts, and so would be mistakes."""
        wanted = self.parameters.get('AWS_ACCOUNT_ID')
        if not wanted:
            raise Problem('is not set: it is to be that of "aws sts '
                          'get-caller-identity"', 'AWS_ACCOUNT_ID')
        account = self.aws.call('sts', 'get-caller-identity').get('Account')
        if account != wanted:
            raise Problem(f'is {wanted}, and the aws command is logged in to '
                          f'{account}: change the one or the other',
                          'AWS_ACCOUNT_ID')

    def outputs(self):
        """What files make and others need, without the secret of it."""
        return {name: self.parameters[name] for name in sorted(self.givers())
                if name not in HIDDEN and self.parameters.get(name)
                and PENDING not in self.parameters[name]}

    def look_at(self, item):
        item.wanted = self.render(item)
        item.found = self.find(item)
        if item.file.key in VALUES and item.found is None:
            try:
                self.secrets.value(item)
            except Problem as problem:
                self.stop_at[item.file.name] = problem
        self.hand_on(item, item.found)

    def find(self, item):
        kind = item.kind
        function = special.FIND.get(item.operation)

        if function is None:
            ask = kinds.fill(kind.find.ask, item.wanted)
            if PENDING in json.dumps(ask):
                return None
        elif PENDING in json.dumps(item.wanted.get('TopicArn', '')):
            return None

        try:
            if function:
                return function(self.aws, item.wanted)
            answer = self.aws.call(item.file.service, kind.find.operation, ask)
        except Failure as failure:
            if failure.code in kind.absent:
                return None
            raise Problem(str(failure), item.file.name) from None
        return kinds.follow(answer, kind.find.path, item.wanted)

    def hand_on(self, item, found):
        for name, path in OUTPUTS.get(item.file.key, {}).items():
            if name == 'ORIGIN_VERIFY':
                value = None if item.file.name in self.stop_at \
                    else self.secrets.origin_verify(item)
            else:
                value = kinds.value_of(found, path) if found else None
            self.parameters[name] = value or PENDING

    # judging

    def read_tags(self, item, read):
        ask = kinds.fill(read.ask, item.wanted, item.found)
        if PENDING in json.dumps(ask):
            return None
        try:
            answer = self.aws.call(item.file.service, read.operation, ask)
        except Failure as failure:
            if failure.code in ('ResourceNotFoundException', 'NoSuchEntity'):
                return None
            raise
        return kinds.pairs(kinds.follow(answer, read.path, item.wanted))

    def mine(self, tags, names=IDENTITY):
        return tags is not None and all(tags.get(name) == self.identity[name]
                                        for name in names)

    @functools.cached_property
    def identity(self):
        """Our tags, as the last of the files has them."""
        for item in reversed(self.items):
            tags = kinds.tags_of(item.file.template)
            if tags:
                tags = self.parameters.render(tags, item.file.name, 'tags')
                return kinds.pairs(tags)
        raise Problem('no file has tags: what is ours cannot be told')

    def judge(self, item):
        kind = item.kind

        if item.operation.startswith('ec2.') and kind.there:
            return self.judge_rules(item)

        if item.found is None:
            item.state = NEW
            if kind.owner_key and not self.owned(item):
                item.state = SHARED
            return

        if kind.tags:
            self.judge_tags(item)
        elif kind.owner_key:
            if not self.owned(item):
                item.state = SHARED
        elif kind.mark:
            if not special.marked(item.operation, item.wanted, item.found):
                raise self.foreign(item, kind.mark)

        item.differs = self.compare(item)
        changed = item.differs or item.tags

        if item.state == SHARED:
            item.state = SHARED if changed else SAME
        else:
            item.state = CHANGE if changed else SAME
        self.changeable(item)

        if kind.anew and item.differs:
            for name in OUTPUTS.get(item.file.key, {}):
                self.parameters[name] = PENDING

    def owned(self, item):
        """Whether what the item belongs to is ours."""
        key = item.kind.owner_key
        names = self.names_in(item.file.template[key])
        # what a file makes is ours, or the run had ended there
        if names & set(self.givers()):
            return True
        for other in self.items:
            if other.kind.tags and other.kind.owner_key != key \
                    and other.wanted is not None \
                    and kinds.same_name(other.wanted, key, item.wanted[key]):
                return True
        if item.kind.owner is None:
            return False
        return self.mine(self.read_tags(item, item.kind.owner),
                         ('Project', 'Environment'))

    def judge_tags(self, item):
        kind = item.kind
        if isinstance(kind.tags, str):
            there = kinds.pairs(kinds.follow(item.found, kind.tags))
        else:
            there = self.read_tags(item, kind.tags) or {}

        tags = kinds.pairs(kinds.tags_of(item.wanted))
        for name in IDENTITY:
            if there.get(name) != tags.get(name):
                raise self.foreign(item, f'tag {name}')
        item.tags = {name: value for name, value in tags.items()
                     if there.get(name) != value}

    def foreign(self, item, key):
        return Problem(
            'a resource of this name is there, and is not ours: it is not '
            'touched. Give it the tags of this file if it is, else rename or '
            'remove it', item.file.name, key)

    def compare(self, item):
        kind = item.kind
        wanted = kinds.follow(item.wanted, kind.wanted) if kind.wanted \
            else {name: value for name, value in item.wanted.items()
                  if name not in kind.unanswered
                  and name not in kinds.asked(kind.find)
                  and name not in ('Tags', 'tags', 'TagSpecifications')}
        there = kinds.follow(item.found, kind.there) if kind.there \
            else item.found

        if item.operation == 'elbv2.create-load-balancer':
            there = there | {'Subnets': [
                zone['SubnetId'] for zone in there['AvailabilityZones']]}
        if item.operation == 'cloudfront.create-distribution-with-tags':
            wanted = item.wanted['DistributionConfigWithTags'][
                'DistributionConfig']
            there = item.found['DistributionConfig']
            wanted = {name: value for name, value in wanted.items()
                      if name != 'CallerReference'}
        if item.operation.startswith('elbv2.modify-'):
            # attributes that the file does not name stay as they are
            names = {attribute['Key'] for attribute in wanted}
            there = [attribute for attribute in there or []
                     if attribute['Key'] in names]

        differs = compare.differences(wanted, there)
        if kind.anew:
            differs += kinds.removed(item.wanted, there)
        return differs

    def changeable(self, item):
        """Whether each key that differs can be changed."""
        kind = item.kind
        if kind.anew or item.state == SHARED \
                or item.operation in special.UPDATE:
            return
        for key, _, _ in item.differs:
            top = key.split('.')[0].split('[')[0]
            if not any(not update.keys or top in update.keys
                       for update in kind.updates):
                raise Problem('cannot be changed once it is made: put the old '
                              'value back, or remove the resource and run '
                              'this again', item.file.name, key)

    def judge_rules(self, item):
        kind = item.kind
        there = (item.found or {}).get(kind.there)
        todo = special.rules_to_change(item.file.operation, item.wanted, there)
        revoke = item.file.operation.startswith('revoke')
        item.differs = [(special.rule_name(rule), {}, {}) for rule in todo]
        if not todo:
            item.state = NEW if revoke and item.found is None else SAME
        elif not self.owned(item):
            item.state = SHARED
        else:
            item.state = CHANGE if item.found else NEW

    # changing

    def apply(self, tell):
        """Does what is to be done, in the order of the files.

        "tell" is given each item before it is changed.
        """
        changes = 0

        for _, group in itertools.groupby(self.items, lambda item: (
                item.operation, item.file.name in ECSPRESSO)):
            group = list(group)
            if group[0].operation == 'ecs.create-service':
                self.not_before()

            todo = [item for item in group if item.state in (NEW, CHANGE)]
            for item in todo:
                if item.file.name in self.stop_at:
                    raise self.stop_at[item.file.name]
                tell(item)
            at_once(self.change, todo, threads=4)
            changes += len(todo)

        return changes

    def not_before(self):
        """What others have to do comes before the service."""
        undone = [item.file.name for item in self.items
                  if item.state == SHARED and item.operation in BLOCKING]
        if undone:
            raise Problem('is not made before these are done by hand, as '
                          '"plan" says: ' + ', '.join(undone),
                          'ecs-service-def.json')

    def change(self, item):
        # what was pending is known by now
        item.wanted = self.render(item)
        if item.file.key in VALUES and item.found is None:
            item.wanted['SecretString'] = self.secrets.value(item)
        try:
            if item.found is None:
                self.create(item)
            else:
                self.update(item)
        except Problem as problem:
            if item.file.name in str(problem):
                raise
            raise Problem(str(problem), item.file.name,
                          kinds.key_in(str(problem), item.wanted)) from None
        if OUTPUTS.get(item.file.key):
            self.hand_on(item, item.found)

    def create(self, item):
        kind, file = item.kind, item.file

        if item.operation.startswith('ec2.') and kind.there:
            return self.change_rules(item)

        answer = self.aws.call(file.service, file.operation, special.prepared(
            item, item.wanted, self.marks))
        item.found = kinds.follow(answer, kind.made) if kind.made else answer

        if OUTPUTS.get(item.file.key) and kind.made is None:
            end = time.monotonic() + APPEARS
            while True:
                item.found = self.find(item)
                if item.found is not None:
                    break
                if time.monotonic() > end:
                    raise Problem(f'is not there {APPEARS} s after it was '
                                  'made: run it again', file.name)
                time.sleep(2)

    def update(self, item):
        kind, file = item.kind, item.file
        found = item.found

        if item.operation.startswith('ec2.') and kind.there:
            return self.change_rules(item)

        if kind.anew:
            return self.create(item)

        if item.tags:
            self.aws.call(file.service, kind.tag.operation, kinds.fill(
                kind.tag.ask, item.wanted, found,
                kinds.formed(item.tags, item.operation)))

        if not item.differs:
            return

        if item.operation in special.UPDATE:
            special.UPDATE[item.operation](self.aws, item.wanted, found)
            return

        tops = {key.split('.')[0].split('[')[0] for key, _, _ in item.differs}
        for update in kind.updates:
            if update.keys and not tops & set(update.keys):
                continue
            wanted = {name: value for name, value in item.wanted.items()
                      if name in update.keys or not update.keys}
            ask = kinds.fill(update.ask, item.wanted, found)
            if any(str(value).startswith('$') and value[1:] in update.keys
                   for value in update.ask.values()):
                wanted = {}
            self.aws.call(file.service, update.operation, wanted | ask)

    def change_rules(self, item):
        if item.found is None:
            item.found = self.find(item)
        todo = special.rules_to_change(item.file.operation, item.wanted,
                                       item.found.get(item.kind.there))
        if todo:
            rest = {name: value for name, value in item.wanted.items()
                    if name != 'IpPermissions'}
            self.aws.call(item.file.service, item.file.operation,
                          rest | {'IpPermissions': list(todo.values())})

    def by_hand(self, item):
        """The command that changes what is shared."""
        update = item.kind.updates[0] if item.found and item.kind.updates \
            else None
        operation = update.operation if update else item.file.operation
        wanted = self.render(item)
        if update:
            wanted = {name: value for name, value in wanted.items()
                      if not update.keys or name in update.keys}
            wanted |= kinds.fill(update.ask, item.wanted, item.found)
        elif item.operation.startswith('ec2.'):
            todo = special.rules_to_change(
                operation, wanted, (item.found or {}).get(item.kind.there))
            wanted = {'GroupId': wanted['GroupId'],
                      'IpPermissions': list(todo.values())}
        text = self.aws.hide(json.dumps(wanted))
        if PENDING in text:
            return 'aws ... (known after apply: run "plan" then)'
        return (f'aws {item.file.service} {operation} --cli-input-json '
                + shlex.quote(text))




def service_name(folder):
    """The name that ecspresso is given; its file is YAML of one level."""
    try:
        lines = (folder / 'ecspresso.yml').read_text().splitlines()
    except OSError as error:
        raise Problem(error.strerror, 'ecspresso.yml') from None
    for line in lines:
        if line.startswith('service: '):
            return line.removeprefix('service: ').strip()
    raise Problem('has no "service: NAME"', 'ecspresso.yml')
