# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter allowlist: the domain allowlist in the words of a resolver or proxy."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError

from ..module_utils._dns.formats import FORMATS, OTHERS, local_domain, render
from ..module_utils._model.domains import DomainSet, normalise


def allowlist(
    domains: t.Any,
    form: str = "suffixes",
    *,
    others: str = "refuse",
    upstreams: t.Sequence[str] = (),
    local_domains: t.Sequence[str] = (),
) -> str:
    """Render a list of domains. Raises AnsibleFilterError with every problem."""
    problems = []
    for what, given in (("domains", domains), ("upstreams", upstreams), ("local_domains", local_domains)):
        if isinstance(given, str) or not isinstance(given, t.Iterable):
            raise AnsibleFilterError(f"allowlist: a list of {what} is needed, not {given!r}")
    for where, texts, read in (("domains", domains, normalise), ("local_domains", local_domains, local_domain)):
        for index, name in enumerate(texts):
            try:
                read(str(name))
            except ValueError as error:
                problems.append(f"{where}[{index}]: {error}")
    if form not in FORMATS:
        problems.append(f"form: {form!r} is not one of {', '.join(FORMATS)}")
    if others not in OTHERS:
        problems.append(f"others: {others!r} is not one of {', '.join(OTHERS)}")
    if not problems:
        try:
            wanted = DomainSet.of(*map(str, domains))
            return render(form, wanted, others=others, upstreams=upstreams, local=list(map(str, local_domains)))
        except ValueError as error:
            problems.append(f"upstreams: {error}")
    raise AnsibleFilterError(f"allowlist: {'; '.join(problems)}")


class FilterModule:
    """The filter."""

    def filters(self) -> dict[str, t.Callable[..., str]]:
        """By name."""
        return {"allowlist": allowlist}
