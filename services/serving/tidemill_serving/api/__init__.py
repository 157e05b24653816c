"""HTTP: predictions by pipeline, status, and the Open Inference Protocol."""
