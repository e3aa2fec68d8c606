"""What the doctor says of one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `fix` is empty where there is nothing to do.

    absent: not there, or the machine does not say. limited: may work, but slower, unsupported or nearer to failing than
    it need be.
    """

    subject: str
    state: Literal["ok", "absent", "limited", "wrong"]
    detail: str
    fix: str = ""
