"""Training: the only place that knows mmengine's Runner."""
