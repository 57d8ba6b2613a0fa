"""The frozen models of a run, loaded as its options say they are held."""

from jaxforget.lm.model import Model, load, load_delta
from jaxforget.stages.run import Run
from jaxforget.train.types import Params


def load_base(run: Run) -> Model:
    """Load base in the form in which it is held while frozen (model.base)."""
    model = run.config.model
    return load(run.base, model.dtype, run.mesh, attention=model.attention, form=model.base)


def load_reinforced(run: Run, base: Model) -> Params:
    """Load the reinforced model, as whole weights or as a delta over `base`."""
    form = "int8-delta" if run.config.reinforce.weights == "int8-delta" else "full"
    return load_delta(run.reinforced, base, run.config.model.dtype, form)
