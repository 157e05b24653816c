"""Runs where pandas and polars are installed: predicts a table of each and looks at what comes back."""

import json

import httpx
import pandas as pd
import polars as pl

from tidemill.client import Client, Endpoints


def serve(request: httpx.Request) -> httpx.Response:
    answers = [
        {
            "prediction_id": instance["id"], "score": instance["inputs"]["distance"] / 1000, "epoch": 1, "version": 2,
            "model": "0" * 64, "revisions": {},
        }
        for instance in json.loads(request.content)["instances"]
    ]  # fmt: skip
    return httpx.Response(200, json={"predictions": answers})


COLUMNS = {"key": ["a", "b"], "distance": [100.0, 200.0]}
with Client(endpoints=Endpoints({"serving": "http://x"}), transport=httpx.MockTransport(serve)) as client:
    found = client.predict_frame("p", pd.DataFrame(COLUMNS, index=[7, 9]), id="key")
    assert isinstance(found, pd.DataFrame)
    assert found.index.tolist() == [7, 9]
    assert found["prediction_id"].tolist() == ["a", "b"]
    assert found["score"].tolist() == [0.1, 0.2]
    print("pandas")  # noqa: T201 - to the test
    answer = client.predict_frame("p", pl.DataFrame(COLUMNS), id="key")
    assert isinstance(answer, pl.DataFrame)
    assert answer["score"].to_list() == [0.1, 0.2]
    print("polars")  # noqa: T201 - to the test
