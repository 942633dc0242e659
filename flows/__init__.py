"""Prefect flows: one small file per stage of dvc.yaml, and the pipeline that runs them all."""
