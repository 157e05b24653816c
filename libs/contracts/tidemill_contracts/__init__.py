"""Events, topics and the pipeline file of Tidemill: what crosses a process, and nothing else."""

from tidemill_contracts.base import (
    Contract,
    Digest,
    Duration,
    Micros,
    format_duration,
    format_time,
    parse_duration,
    parse_time,
    to_us,
)
from tidemill_contracts.envelope import Envelope, EnvelopeError, read_envelope
from tidemill_contracts.ids import derived_id, prediction_id
from tidemill_contracts.pipeline import PipelineError, PipelineSpec, load_pipeline, parse_pipeline
from tidemill_contracts.topics import TopicSpec, dead_letters, topic, view_topic

__all__ = [
    "Contract", "Digest", "Duration", "Envelope", "EnvelopeError", "Micros", "PipelineError", "PipelineSpec",
    "TopicSpec", "dead_letters", "derived_id", "format_duration", "format_time", "load_pipeline", "parse_duration",
    "parse_pipeline", "parse_time", "prediction_id", "read_envelope", "to_us", "topic", "view_topic",
]  # fmt: skip
