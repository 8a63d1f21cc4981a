# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Samples of what is too long for every run: `make test` takes some, drawn by a seed, and `make soak` takes all."""

from __future__ import annotations

import os
import random
import typing as t

from .document import SDKS

__all__ = ["SEED", "SOAK", "draw", "sample", "walk"]

T = t.TypeVar("T")

# pytest-xdist's workers inherit the environment, so that they all draw the same.
if not os.environ.get("TEST_SEED"):
    os.environ["TEST_SEED"] = str(random.SystemRandom().randrange(10**6))
SEED = os.environ["TEST_SEED"]
SOAK = os.environ.get("TEST_SOAK", "") not in ("", "0")


def draw(name: str) -> random.Random:
    """A source of chance that depends on the seed of the run and on what it is for, and on nothing else."""
    return random.Random(f"{SEED} {name}")


def sample(name: str, items: t.Sequence[T], count: int) -> list[T]:
    """Some of the items, in their order; all of them in `make soak`."""
    if SOAK or count >= len(items):
        return list(items)
    return [items[index] for index in sorted(draw(name).sample(range(len(items)), count))]


def walk(name: str, kept: str) -> list[list[str]]:
    """Choices of SDKs that all have this one, each other than the one before, and the first one other than it alone.

    They are a hundred in `make soak`, and otherwise a beginning of them.
    """
    chance = draw(f"walk on {name}")
    others = [sdk for sdk in SDKS if sdk != kept]
    choices = [[kept]]
    while len(choices) <= (100 if SOAK else 20):
        choice = [kept, *(sdk for sdk in others if chance.random() < 0.5)]
        if choice != choices[-1]:
            choices.append(choice)
    return choices[1:]
