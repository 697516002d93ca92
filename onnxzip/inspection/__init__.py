"""Reports for people: tables."""

from onnxzip.inspection.tables import merge_tables, plan_tables, retrain_tables, verify_tables

__all__ = ["merge_tables", "plan_tables", "retrain_tables", "verify_tables"]
