"""Reports for people: tables."""

from onnxzip.inspection.shipped import bundle_tables, doctor_tables, export_tables
from onnxzip.inspection.tables import merge_tables, plan_tables, retrain_tables, verify_tables

__all__ = ["bundle_tables", "doctor_tables", "export_tables", "merge_tables", "plan_tables", "retrain_tables", "verify_tables"]
