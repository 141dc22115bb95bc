"""Models whose texts go on past the token that ends an answer, so that all are equally long."""

from dataclasses import replace

import rdlite


def without_end(model: rdlite.Model) -> rdlite.Model:
    """Let no token of a model end its texts; returns the model."""
    config = replace(model.generation_config, stop_ids=())
    model.generation_config = config
    model.plan._generation_config = config
    return model
