"""Where records end: the console, OTLP, MLflow. No sink knows of another."""
