"""Two small pipelines with forests of 200 trees, the bodies of their requests, and what each must be answered."""

import json
from typing import NamedTuple
from uuid import UUID

import numpy as np
import onnxruntime
from _client import post
from _stack import START_US, write
from numpy.typing import NDArray

from tidemill.stack import Endpoints
from tidemill_contracts import topic, view_topic
from tidemill_contracts.events import FeatureVector, Member, Released, ReleaseReason, Watermark, encode
from tidemill_contracts.pipeline import PipelineSpec, parse_pipeline
from tidemill_engine.learn.boosting import fit_lightgbm
from tidemill_runtime.artifacts import Artifacts

TREES, DISTINCT = 200, 256
ENTITIES = {"device": 200, "site": 20, "line": 8}
WATERMARK_KEY = b"\x00watermark"
_FILE = """
version: 1
name: {name}
partitions: 2
sources:
  readings:
    key: [device]
    time: at
    fields:
      device: {{type: string}}
      site: {{type: string}}
      line: {{type: string}}
      at: {{type: timestamp}}
      heat: {{type: float}}
      load: {{type: float}}
      flow: {{type: float}}
      noise: {{type: float}}
      volts: {{type: float}}
  failures:
    key: [device]
    fields:
      device: {{type: string}}
      failed: {{type: boolean}}
entities:
  device: {{key: [device]}}
  site: {{key: [site]}}
  line: {{key: [line]}}
views:
{views}
request:
  fields:
    device: {{type: string, max_length: 64}}
    site: {{type: string, max_length: 16}}
    line: {{type: string, max_length: 16}}
    at: {{type: timestamp}}
  key: device
  time: at
label: {{source: failures, join: device, expression: failed}}
"""
_VIEW = """  {name}-{entity}:
    source: readings
    entity: {entity}
    windows: {{1h: {{length: 1h}}, 6h: {{length: 6h}}}}
    aggregations:
"""


def pipeline(name: str, functions: dict[str, tuple[str, ...]]) -> PipelineSpec:
    """A pipeline with a view per entity: each function of five fields over two windows."""
    views = ""
    for entity, wanted in functions.items():
        views += _VIEW.format(name=name, entity=entity)
        for field in ("heat", "load", "flow", "noise", "volts"):
            views += "".join(f"      - {{function: {function}, field: {field}}}\n" for function in wanted)
    return parse_pipeline(_FILE.format(name=name, views=views).encode())


PLAIN = pipeline("plain", {"device": ("mean", "max", "min")})
"""30 features: what an open inference client sends itself."""

LOOKED_UP = pipeline("looked-up", {"device": ("mean", "max"), "site": ("mean", "max"), "line": ("mean", "max")})
"""60 features of three entities: what the entity interface looks up."""


class Case(NamedTuple):
    """Requests and, in the same order, the scores that the offline model gives to their rows."""

    requests: list[bytes]
    scores: NDArray[np.float64]


def forest(spec: PipelineSpec) -> bytes:
    """The ONNX model of a pipeline's width."""
    features = list(spec.feature_names())
    made = np.random.default_rng(7)
    rows = made.normal(size=(8000, len(features))).astype(np.float32)
    labels = (rows[:, 0] + rows[:, 1] * rows[:, 2] + made.normal(size=len(rows)) > 0).astype(np.float64)
    return fit_lightgbm(rows, labels, {"num_iterations": TREES, "num_leaves": 31}, 7).to_onnx(features)


def offline(model: bytes, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores [N] of rows [N, F] by onnxruntime alone."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {session.get_inputs()[0].name: rows.astype(np.float32)})
    return np.asarray(scores, np.float64).reshape(len(rows))


def tensors(url: str, model: bytes, *, rows: int, count: int = DISTINCT) -> Case:
    """Open Inference Protocol requests of some rows each; `scores` is [count, rows]."""
    width = len(PLAIN.feature_names())
    data = np.random.default_rng(11).normal(size=(count, rows, width)).round(4)
    made = []
    for block in data:
        tensor = {"name": "features", "shape": [rows, width], "datatype": "FP32", "data": block.ravel().tolist()}
        made.append(post(url, json.dumps({"inputs": [tensor]}).encode()))
    return Case(made, offline(model, data.reshape(-1, width)).reshape(count, rows))


def entity(spec: PipelineSpec, view: str, number: int) -> str:
    """An entity of a view."""
    kind = spec.views[view].entity
    return f"{kind}-{number % ENTITIES[kind]}"


def vector(spec: PipelineSpec, view: str, number: int) -> list[float | None]:
    """Its values."""
    width, name = len(spec.views[view].feature_names(view)), entity(spec, view, number)
    seed = sum(name.encode()) * 1000 + int(name.rpartition("-")[2])
    return [float(value) for value in np.random.default_rng(seed).normal(size=width)]


def instances(url: str, model: bytes, *, count: int = DISTINCT) -> Case:
    """Entity requests; `scores` is [count, 1]."""
    spec, made, rows = LOOKED_UP, [], []
    for number in range(count):
        keys = {spec.views[view].entity: entity(spec, view, number) for view in spec.views}
        made.append(post(url, json.dumps({"inputs": {**keys, "at": "2013-01-01T10:00:00Z"}}).encode()))
        rows.append([value for view in spec.views for value in vector(spec, view, number)])
    return Case(made, offline(model, np.array(rows, np.float64)).reshape(count, 1))


async def fill(seen: Endpoints, spec: PipelineSpec) -> None:
    """What the features service writes: the vectors of all entities, and watermarks."""
    for view in spec.views:
        version, records = spec.view_version(view), []
        for number in range(ENTITIES[spec.views[view].entity]):
            name = entity(spec, view, number)
            event = FeatureVector(
                view=view, version=version, entity=name, at_us=START_US, revision=1, values=vector(spec, view, number),
                positions={"0": 1, "1": 1},
            )  # fmt: skip
            envelope = encode(event, id=f"{view}-{number}", source="benchmark", time_us=START_US)
            records.append((name.encode(), envelope, 0))
        for partition in range(spec.partitions):
            mark = Watermark(view=view, partition=partition, watermark_us=START_US)
            envelope = encode(mark, id=f"{view}-mark-{partition}", source="benchmark", time_us=START_US)
            records.append((WATERMARK_KEY, envelope, partition))
        await write(seen.kafka, view_topic("features", view, version), records)


async def release(seen: Endpoints, spec: PipelineSpec, model: bytes) -> None:
    """What the registry does with a model."""
    digest = Artifacts(seen.artifacts).put(model)
    event = Released(
        pipeline=spec.name, epoch=1, members=[Member(name="champion", model=digest, version=1)],
        views={view: spec.view_version(view) for view in spec.views}, features=list(spec.feature_names()),
        spec=spec.digest(), policy=spec.policy_digest(), at_us=START_US,
        reason=ReleaseReason(kind="first", event_id=UUID(int=1)),
    )  # fmt: skip
    envelope = encode(event, id=f"release-{spec.name}", source="benchmark", time_us=START_US)
    await write(seen.kafka, topic("releases"), [(spec.name.encode(), envelope, 0)])
