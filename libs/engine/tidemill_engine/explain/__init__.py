"""Why a score is what it is: what each feature adds to the raw score, exactly."""

from tidemill_engine.explain.models import Explained, Explainer, explainer_of, forest_explainer, linear_explainer

__all__ = ["Explained", "Explainer", "explainer_of", "forest_explainer", "linear_explainer"]
