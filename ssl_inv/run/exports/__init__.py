"""Networks for other libraries: timm, transformers, ONNX, torch.export, torchvision; model cards and hubs."""
