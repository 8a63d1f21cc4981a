# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the collection tells people: notices, and the problems of a request."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, replace

__all__ = ["Notice", "Problem", "RequestError", "shortened"]


@dataclass(frozen=True, order=True)
class Notice:
    """Something worth knowing that stops nothing; `code` is for programs, `where` names the option, chain or file."""

    code: str
    where: str
    message: str

    def data(self) -> dict[str, str]:
        """The form in which modules return it."""
        return {"code": self.code, "where": self.where, "message": self.message}


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong with a request, and where (`sdks[2]`)."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


# What a message tells of a long text, at either end of it, and how many problems are told one by one.
_ENDS = 400
_TOLD = 100


class RequestError(ValueError):
    """A request cannot be fulfilled; holds all its problems, not only the first. Of many the first hundred are told."""

    def __init__(self, problems: t.Iterable[Problem]) -> None:
        self.problems = tuple(replace(problem, message=shortened(problem.message)) for problem in problems)
        count = len(self.problems)
        head = "" if count == 1 else f"{count} problems: "
        tail = f"; and {count - _TOLD} more" if count > _TOLD else ""
        super().__init__(head + "; ".join(str(problem) for problem in self.problems[:_TOLD]) + tail)

    def data(self) -> list[dict[str, str]]:
        """The problems in the form in which modules return them."""
        return [{"where": problem.where, "message": problem.message} for problem in self.problems[:_TOLD]]


def shortened(message: str) -> str:
    """The message, of a long one both ends."""
    left = len(message) - 2 * _ENDS
    # One that is shortened already is not shortened again.
    return message if left <= _ENDS else f"{message[:_ENDS]}[... {left} characters ...]{message[-_ENDS:]}"
