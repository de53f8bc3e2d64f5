"""Models: markers, introspection, and the functions compiled for each."""

from strata.model.fields import Field, Kind, check_identifier
from strata.model.markers import (
    AutoNow,
    AutoNowAdd,
    Default,
    Encrypted,
    Generated,
    Ignore,
    Indexed,
    OmitCache,
    OmitL1,
    PrimaryKey,
    Unique,
)
from strata.model.plan import FieldCipher, ModelPlan, UnknownColumnError, compile_model
from strata.model.unloaded import UNLOADED, loaded, whole

__all__ = [
    "UNLOADED",
    "AutoNow",
    "AutoNowAdd",
    "Default",
    "Encrypted",
    "Field",
    "FieldCipher",
    "Generated",
    "Ignore",
    "Indexed",
    "Kind",
    "ModelPlan",
    "OmitCache",
    "OmitL1",
    "PrimaryKey",
    "Unique",
    "UnknownColumnError",
    "check_identifier",
    "compile_model",
    "loaded",
    "whole",
]
