# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the collection tells people: notices, and the problems of a request."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

__all__ = ["Notice", "Problem", "RequestError"]


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


class RequestError(ValueError):
    """A request cannot be fulfilled; holds all its problems, not only the first."""

    def __init__(self, problems: t.Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = "" if count == 1 else f"{count} problems: "
        super().__init__(head + "; ".join(str(problem) for problem in self.problems))
