"""Reports for people: tables."""

from onnxzip.inspection.tables import bundle_tables, merge_tables, plan_tables, retrain_tables, verify_tables

__all__ = ["bundle_tables", "merge_tables", "plan_tables", "retrain_tables", "verify_tables"]
