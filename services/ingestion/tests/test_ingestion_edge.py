"""HTTP as producers use it, and raw records as they should not be: declared answers, neighbours unharmed."""

import base64
import json
from typing import Any

import pytest
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from ingestion_stack import Running, flight

pytestmark = pytest.mark.anyio
