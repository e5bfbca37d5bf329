"""Where the curves of a run can be watched while it goes on: TensorBoard, Weights & Biases, MLflow, Trackio."""
