"""Plain next-token training: the objective of the reinforced model (METHOD.md section 6)."""

import dataclasses
from typing import ClassVar

from jaxforget.train.objectives.objective import Objective


@dataclasses.dataclass(frozen=True)
class NextToken(Objective):
    """The mean cross-entropy of the counted tokens, each given the tokens before it.

    It needs no frozen model.
    """

    name: ClassVar[str] = "next_token"
