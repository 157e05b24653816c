"""The pure core of Tidemill: windows, expressions, statistics, canonical ONNX."""
