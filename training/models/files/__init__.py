"""Networks that come as a file: ONNX files and programs of torch.export, whoever wrote them."""
