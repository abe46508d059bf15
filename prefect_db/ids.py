"""Ids and names that the library makes when the caller gives none."""

from __future__ import annotations

import os
import random
import time
from typing import Any, Final
from uuid import UUID

from prefect_db.values import to_uuid, uuid_of

_VERSION_7: Final = 0x7 << 76
_VARIANT: Final = 0b10 << 62


def uuid7() -> UUID:
    """A time-ordered UUID (RFC 9562): milliseconds, then their fraction, then random bits.

    Rows with such keys go to the right edge of an index instead of to random pages.
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = (nanoseconds << 12) // 1_000_000
    noise = int.from_bytes(os.urandom(8)) >> 2
    return uuid_of((milliseconds << 80) | _VERSION_7 | (fraction << 64) | _VARIANT | noise)


def given_or_new(id: Any) -> UUID:
    """The caller's id, or a new one if there is none.

    Raises:
        BadValue: It is no UUID: SQLite would store any text.
    """
    return uuid7() if id is None else to_uuid(id)


def slug() -> str:
    """A random name for a run: an adjective and an animal, as in `brisk-heron`."""
    return f"{random.choice(_ADJECTIVES)}-{random.choice(_ANIMALS)}"


_ADJECTIVES: Final = (
    "agile amber ample azure bold brave bright brisk calm candid clever copper coral cosmic crisp"
    " curious dapper daring eager early elegant fair fast fearless fine fond frank fresh gentle"
    " glad golden grand happy hardy honest humble ivory jade jolly keen kind lively loyal lucid"
    " lunar mellow mighty modest neat nimble noble olive patient placid polite proud quick quiet"
    " rapid ready rustic sandy serene sharp silent silver sincere sleek smart solid steady sturdy"
    " sunny swift tidy tranquil upbeat vivid warm witty zesty"
).split()
_ANIMALS: Final = (
    "albatross antelope badger beaver bison bobcat buffalo caribou cheetah chipmunk condor cougar"
    " crane cricket dolphin dove eagle egret elk falcon ferret finch fox gazelle gecko gibbon"
    " goose grouse hare hawk hedgehog heron hornet ibex ibis iguana jackal jaguar kestrel koala"
    " lark lemur leopard lizard llama lynx magpie marmot marten mole moose newt ocelot orca oriole"
    " osprey otter owl panther parrot pelican penguin plover puffin puma quail rabbit raven robin"
    " salmon seal shrew sparrow squid stork swallow swan tapir tern toucan trout turtle vole"
    " walrus weasel wolf wombat woodpecker wren yak zebra"
).split()
