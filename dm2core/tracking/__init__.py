"""Finished cells in MLflow. Cells write files and never import MLflow; one process delivers them afterwards."""
